"""``prune`` lists and removes what nothing needs, on made-up caches; what is needed, hidden or elsewhere stays."""

import os
import time
from pathlib import Path

import pytest

from recircuit.core.errors import UserError
from recircuit.study.prune import Spare, prune_text, remove, spare

NEEDED = ["cache/models/m/model.safetensors", "cache/p/t/m/t.parquet", "figures/p/m/f1.png", "cache/logs/run/m.log"]
SPARE = ["cache/models/old/model.safetensors", "cache/p/t/old/t.parquet", "figures/p/m/f0.png", "cache/logs/run/old.log"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache of things that are needed and things that are not, beside files that are none of its business."""
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in [*NEEDED, *SPARE, "config.yaml", "../elsewhere/a.parquet", "docs/cache/a.parquet"]:
        put(name)
    return here


def put(name, text="12345"):
    """Write a small file."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


def names(needed=NEEDED):
    """Return the paths of what nothing needs."""
    return [str(file.path) for file in spare(needed)]


def everything():
    """Return all files around the project, and links."""
    return {str(path) for path in Path("..").resolve().rglob("*") if path.is_file() or path.is_symlink()}


def test_what_is_not_needed_is_listed_with_its_bytes_and_stays(folder):
    before = everything()
    said = prune_text(NEEDED, ["m"], sure=False).splitlines()
    assert [line.split() for line in said[:-1]] == [["5", name] for name in sorted(SPARE)]
    assert said[-1] == (
        "4 files of 20 bytes needed by nothing that this configuration can build (models m); "
        "nothing is removed without --config yes=true"
    )
    assert everything() == before


def test_it_removes_that_alone_and_the_folders_it_leaves_empty(folder):
    before = everything()
    assert prune_text(NEEDED, ["m"], sure=True).splitlines()[-1] == "4 files of 20 bytes removed"
    assert before - everything() == {str(folder / name) for name in SPARE}
    assert not Path("cache/models/old").exists() and not Path("cache/p/t/old").exists()
    assert prune_text(NEEDED, ["m"], sure=True) == "0 files of 0 bytes removed"


def test_the_folders_themselves_stay(folder):
    for name in NEEDED:
        Path(name).unlink()
    prune_text(NEEDED, ["m"], sure=True)
    assert Path("cache").is_dir() and Path("figures").is_dir()


def test_nothing_outside_is_looked_at(folder):
    put("cached/a.parquet")
    assert not {name for name in names() if not name.startswith(("cache/", "figures/"))}


def test_links_are_not_followed(folder):
    Path("cache/away").symlink_to(folder.parent / "elsewhere")
    Path("cache/file").symlink_to(folder / "config.yaml")
    Path("cache/nowhere").symlink_to("not/there")
    assert set(names()) == {*SPARE, "cache/away", "cache/file", "cache/nowhere"}
    prune_text(NEEDED, ["m"], sure=True)
    assert not Path("cache/away").is_symlink() and not Path("cache/nowhere").is_symlink()
    assert (folder.parent / "elsewhere" / "a.parquet").is_file() and Path("config.yaml").is_file()


def test_a_link_on_the_way_to_what_is_needed_stays(folder):
    put("../scratch/big/model.safetensors")
    put("../scratch/big/other")
    Path("cache/models/big").symlink_to(folder.parent / "scratch" / "big")
    needed = [*NEEDED, "cache/models/big/model.safetensors"]
    assert names(needed) == sorted(SPARE)
    prune_text(needed, ["m"], sure=True)
    assert (folder.parent / "scratch" / "big" / "other").is_file() and Path("cache/models/big").is_symlink()


def test_a_cache_that_is_a_link_itself_is_left_alone(folder):
    Path("cache").rename("../scratch")
    Path("cache").symlink_to("../scratch")
    said = prune_text(NEEDED, ["m"], sure=True)
    assert "cache is a link to ../scratch; nothing in it is looked at" in said
    assert Path("cache/p/t/old/t.parquet").is_file() and not Path("figures/p/m/f0.png").exists()


def test_progress_beside_what_is_needed_stays_and_what_a_killed_job_half_wrote_does_not(folder):
    put("cache/p/t/m/.t.seed0.partial.safetensors")
    put(f"cache/p/t/m/.t.parquet.{'0af1' * 8}.part")
    os.utime(f"cache/p/t/m/.t.parquet.{'0af1' * 8}.part", (time.time() - 4000,) * 2)
    put(f"cache/p/t/m/.t.parquet.{'0af2' * 8}.part")  # this one may still be in the writing
    put("cache/models/.hub.guard")
    put("cache/p/t/old/.t.seed0.partial.safetensors")
    extra = {f"cache/p/t/m/.t.parquet.{'0af1' * 8}.part", "cache/p/t/old/.t.seed0.partial.safetensors"}
    assert set(names()) == {*SPARE, *extra}


def test_nothing_is_removed_while_another_run_writes(folder):
    put(".snakemake/locks/0.output.lock", "")  # one's own, which writes nothing
    assert prune_text(NEEDED, ["m"], sure=False)
    put(".snakemake/locks/1.output.lock", "cache/p/t/m/t.parquet\n")
    before = everything()
    assert "4 files" in prune_text(NEEDED, ["m"], sure=False), "they may be listed"
    with pytest.raises(UserError, match="another run is writing here"):
        prune_text(NEEDED, ["m"], sure=True)
    assert everything() == before


def test_an_empty_list_of_needs_removes_nothing(folder):
    before = everything()
    with pytest.raises(UserError, match="needs no file at all"):
        prune_text([], ["m"], sure=True)
    assert everything() == before


@pytest.mark.parametrize("name", ["config.yaml", "cache/../config.yaml", "cache/away/a.parquet", "../elsewhere/a.parquet"])
def test_remove_refuses_what_lies_outside(folder, name):
    Path("cache/away").symlink_to(folder.parent / "elsewhere")
    before = everything()
    with pytest.raises(UserError, match="is not inside cache or figures"):
        remove([Spare(Path(name), 5)])
    assert everything() == before


def test_a_project_without_a_cache_has_nothing_to_prune(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prune_text(NEEDED, ["m"], sure=False).startswith("0 files of 0 bytes")
