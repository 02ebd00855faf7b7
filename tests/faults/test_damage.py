"""A byte that flips, or a file that is cut, anywhere: named, refused by jobs that read it, built again on request."""

import os
import random

import pytest
from few import CHECKPOINTS, CURVES, DRAWN, MEANS, TRAINED, digests, files, look, make, sentences

from recircuit.core.errors import UserError
from recircuit.study.checksums import checked, record_of
from recircuit.study.verify import verify
from workflow import FULL, NOTHING, clone_study, full_only, must, snakemake

pytestmark = pytest.mark.slow
FLIPS = 200 if FULL else 60
KINDS = {".parquet", ".safetensors", ".json", ".png", ".pdf"}
RECORDS = "cache/checksums/"
WEIGHTS = "cache/models/speck/model.safetensors"
READ = {  # a damaged file, and a file made by a job that reads it
    "weights": (WEIGHTS, MEANS),
    "configuration": ("cache/models/speck/config.json", MEANS),
    "tokenizer": ("cache/models/speck/tokenizer.json", "cache/sequence_continuation/prompts/speck/prompts.parquet"),
    "table": ("cache/sequence_continuation/prompts/speck/prompts.parquet", MEANS),
    "means": (MEANS, "cache/sequence_continuation/ablations/speck/single_ablation.parquet"),
    "curves": (CURVES, TRAINED),
}
QUICK = ("weights", "tokenizer")


def damage(path, draw, cut=False):
    """Flip a bit of a file, or cut it short, without a trace in its times, as a bad disk does; return what it held."""
    data, times = path.read_bytes(), path.stat()
    changed = bytearray(data)
    if cut:
        del changed[draw.randrange(len(data)) :]
    else:
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    put(path, bytes(changed), times)
    return data, times


def put(path, data, times):
    """Write a file with the times of another."""
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def named(sure=False):
    """Return the damaged files that ``verify`` names in the folder we are in."""
    said = []
    try:
        verify(said.append, sure=sure)
    except UserError as error:
        said.append(str(error))
    return [line.partition(" is damaged")[0] for line in said if " is damaged" in line], said[-1]


@pytest.fixture
def finished(request, tmp_path, monkeypatch):
    """A copy of the smoke study (of the small one in the quick size), and we are in it."""
    folder = clone_study(request.getfixturevalue("study" if FULL else "few"), tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def test_every_flip_in_any_kind_of_file_is_named_and_refused(finished):
    draw, found = random.Random(0), files(finished)
    if (finished / "cache/MANIFEST.tsv").is_file():
        found["cache/MANIFEST.tsv"] = finished / "cache/MANIFEST.tsv"
    kinds = sorted({path.suffix for path in found.values()})
    assert set(kinds) >= {*KINDS, ".sha256"} and (not FULL or set(kinds) >= {".gif", ".html", ".tsv"})
    assert named() == ([], f"{sum(not name.startswith(RECORDS) for name in found)} files looked at, 0 damaged")
    for turn in range(FLIPS):
        kind = kinds[turn % len(kinds)]
        name = draw.choice(sorted(name for name, path in found.items() if path.suffix == kind))
        held = damage(finished / name, draw, cut=turn % 5 == 4)
        # A record that is damaged names its file: which of the two is wrong cannot be told.
        suspects = [name]
        if kind == ".sha256":
            suspects = [name.removeprefix(RECORDS).removesuffix(".sha256")]
        assert named()[0] == suspects or (kind == ".sha256" and named()[0] == []), (name, turn)
        if named()[0]:
            with pytest.raises(UserError, match=f"^{suspects[0]} is damaged "):
                checked(suspects)
        put(finished / name, *held)
    assert named()[0] == []


@pytest.mark.parametrize("kind", READ if FULL else QUICK)
def test_a_job_that_reads_a_flipped_file_stops_and_names_it(copy, kind):
    source, made = READ[kind]
    damage(copy / source, random.Random(1))
    (copy / made).unlink()
    (told,) = sentences(make(copy, targets=(made,)))
    assert told.startswith(f"{source} is damaged (its SHA-256 begins with ")
    assert "snakemake --cores 1 verify --config yes=true" in told
    assert not (copy / made).exists()


def test_verify_names_what_is_damaged_and_what_it_removes_is_built_again(copy, few):
    draw, pdf = random.Random(2), DRAWN.replace(".png", ".pdf")
    damage(copy / CHECKPOINTS, draw)
    damage(copy / pdf, draw, cut=True)
    done = look(copy, "verify")
    assert [line.partition(" is")[0] for line in done.stdout.splitlines() if " is damaged" in line] == [CHECKPOINTS, pdf]
    (told,) = sentences(done)
    assert told.endswith("2 damaged; --config yes=true removes them, so that the next run that needs them builds them again")
    assert (copy / CHECKPOINTS).is_file() and (copy / pdf).is_file()
    must(look(copy, "verify", "--config", "yes=true"))
    gone = {CHECKPOINTS, CURVES, pdf, DRAWN}
    records = {str(record_of(name)) for name in gone}
    assert set(files(few)) - set(files(copy)) == gone | records
    must(make(copy, targets=(DRAWN, TRAINED, CHECKPOINTS)))
    assert digests(copy) == digests(few)
    assert " 0 damaged" in must(look(copy, "verify")).stdout


def test_verify_removes_nothing_while_another_run_writes(copy):
    damage(copy / WEIGHTS, random.Random(3))
    (copy / ".snakemake/locks").mkdir(exist_ok=True)
    (copy / ".snakemake/locks/0.output.lock").write_text(f"{WEIGHTS}\n", encoding="utf-8")
    (told,) = sentences(look(copy, "verify", "--config", "yes=true"))
    assert told.startswith("another run is writing here, so that verify removes nothing") and (copy / WEIGHTS).is_file()


@full_only
def test_a_damaged_scorecard_and_manifest_are_built_again_by_a_run_of_everything(finished, study):
    page, card = "figures/scorecard.html", "cache/report/scorecard.parquet"
    damage(finished / page, random.Random(4))
    smoke = ("--configfile", "configs/smoke.yaml")
    must(snakemake(finished, "--cores", "1", "verify", *smoke, "--config", "yes=true"))
    assert not (finished / page).exists() and not (finished / card).exists()
    must(snakemake(finished, "--cores", "2", "all", *smoke))
    assert digests(finished) == digests(study)
    assert NOTHING in must(snakemake(finished, "-n", "all", *smoke)).stdout


def test_a_cache_without_records_is_used_and_verify_says_what_it_cannot_tell(copy):
    for path in (copy / "cache/checksums").rglob("*.sha256"):
        path.unlink()
    (copy / MEANS).unlink()
    must(make(copy, targets=(MEANS,)))
    said = must(look(copy, "verify")).stdout
    assert f"{WEIGHTS}: no checksum of it was recorded" in said and "1 file looked at, 0 damaged" in said
