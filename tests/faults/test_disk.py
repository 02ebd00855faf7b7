"""A disk that is full or read-only: one sentence, nothing half-written, and on it goes when there is room."""

import pytest
from few import DRAWN, MEANS, check_whole, digests, fill, leftovers, look, make, mounted, sentences

from workflow import NOTHING, full_only, must

pytestmark = pytest.mark.slow
FULL_DISK = "{} cannot be written: the disk is full; make room, then run the same command again: what is finished is kept"


@pytest.mark.parametrize(
    "spare", [0, pytest.param(24_000, marks=full_only)], ids=["full at once", "full in the middle of a file"]
)
def test_a_full_cache_is_one_sentence_and_goes_on_when_there_is_room(copy, few, spare):
    with mounted(copy / "cache", 24):
        (copy / MEANS).unlink()
        filler = fill(copy / "cache", spare)
        done = make(copy, targets=(MEANS,))
        assert sentences(done) == {FULL_DISK.format(MEANS)}
        assert not (copy / MEANS).exists() and leftovers(copy) == ["cache/.filler"]
        assert check_whole(copy) > 10
        filler.unlink()
        must(make(copy, targets=(MEANS, DRAWN)))
        assert digests(copy) == digests(few)


def test_a_full_disk_under_the_figures_names_the_picture(copy):
    with mounted(copy / "figures", 4):
        pdf = DRAWN.replace(".png", ".pdf")
        (copy / DRAWN).unlink()
        (copy / pdf).unlink()
        filler = fill(copy / "figures")
        assert sentences(make(copy, targets=(DRAWN,))) == {FULL_DISK.format(DRAWN)}
        assert check_whole(copy) and not (copy / DRAWN).exists()
        filler.unlink()
        must(make(copy, targets=(DRAWN,)))


@pytest.mark.parametrize(("how", "why"), [("full", "No space left on device"), ("ro", "Read-only file system")])
def test_a_disk_that_does_not_take_snakemakes_own_notes_is_one_sentence(copy, how, why):
    with mounted(copy / ".snakemake", 24) as remount:
        if how == "full":
            fill(copy / ".snakemake")
        else:
            remount("ro")
        done = make(copy, targets=(DRAWN,))
        assert done.returncode == 1 and done.stdout == ""
        told = f"Snakemake keeps its notes in .snakemake, which cannot be written ({why}); mend that, then run it again\n"
        assert done.stderr == told


@full_only
def test_a_read_only_cache_can_be_looked_at_but_not_built_in(copy, few):
    with mounted(copy / "cache", 24) as remount:
        remount("ro")
        assert NOTHING in must(make(copy)).stderr
        said = must(look(copy, "status")).stdout
        assert f"built    {DRAWN}" in said
        assert DRAWN in must(look(copy, "list")).stdout
        assert " 0 damaged" in must(look(copy, "verify")).stdout
        done = make(copy, "--forcerun", "seq_run_means", targets=(MEANS,))
        said = done.stdout + done.stderr
        assert done.returncode == 1 and "Traceback" not in said and "Write-protected output files" in said and MEANS in said
        assert digests(copy) == digests(few)


def test_a_missing_file_of_a_read_only_cache_cannot_be_made_and_the_reason_is_named(copy):
    (copy / MEANS).unlink()
    with mounted(copy / "cache", 24) as remount:
        remount("ro")
        done = make(copy, targets=(MEANS,))
        named = "Read-only file system" in done.stdout + done.stderr  # Snakemake says it, before any job of ours
        assert done.returncode == 1 and named, done.stderr[-2000:]
