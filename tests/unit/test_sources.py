"""Data sets from the three places that a configuration may name, and what is written down of their digests."""

import json
import shutil
from pathlib import Path

import pytest

from hub_server import DATA, REPO, REVISION, running, sha
from recircuit.core.errors import UserError
from recircuit.core.files import file_or_folder
from recircuit.study.config import data_files
from recircuit.study.pins import record_pins
from recircuit.study.sources import fetch_source

NAMES = ("default/train/0000.parquet", "default/test/0000.parquet")
TABLES = {name: f"PAR1 {name} PAR1".encode() for name in NAMES}
HUB = {"source": "hub", "repo": REPO, "revision": REVISION, "files": dict.fromkeys(NAMES)}
KEY = f"datasets/{REPO}@{REVISION}"


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Fetch a data set into a folder; return what the folder then holds, and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(choice, folder="cache/sources/treebank"):
        files, lines = [f"{folder}/{name}" for name in data_files(choice)], []
        fetch_source(choice, files, Path("hub.lock.json"), Path(".guard"), lines.append)
        held = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        assert set(held) == set(data_files(choice)) and all(Path(file).is_file() for file in files)
        return held, lines

    return run


def test_tables_of_the_hub_are_recorded_once_and_then_demanded(fetch, monkeypatch):
    with running(TABLES, DATA) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        first = HUB["files"] | {NAMES[0]: sha(TABLES[NAMES[0]])}
        held, lines = fetch(HUB | {"files": first})
        assert held == TABLES
        # What the configuration pins needs no line of its own; and a model of that name has other files.
        assert json.loads(Path("hub.lock.json").read_text()) == {KEY: {NAMES[1]: sha(TABLES[NAMES[1]])}}
        assert "commit it" in lines[-1]
        server.files[NAMES[1]] = b"other rows"
        shutil.rmtree("cache")
        with pytest.raises(UserError, match=f"expected {sha(TABLES[NAMES[1]])}"):
            monkeypatch.setattr("time.sleep", lambda seconds: None)
            fetch(HUB | {"files": first})
        assert not Path("cache/sources/treebank").exists()


def test_the_digests_of_a_model_are_left_alone(fetch, monkeypatch):
    record_pins(
        Path("hub.lock.json"), Path(".guard"), REPO, REVISION, {NAMES[0]: "0" * 64}, {NAMES[0]: None}, lambda line: None
    )
    with running(TABLES, DATA) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        fetch(HUB)
    lock = json.loads(Path("hub.lock.json").read_text())
    assert lock == {f"{REPO}@{REVISION}": {NAMES[0]: "0" * 64}, KEY: {name: sha(data) for name, data in TABLES.items()}}


def test_a_file_of_the_web_is_held_to_its_digest(fetch):
    with running({"sst.zip": b"a zip"}, "/~author") as server:
        choice = {"source": "web", "url": f"{server.url}/~author/sst.zip", "sha256": sha(b"a zip")}
        held, _ = fetch(choice)
        assert held == {"sst.zip": b"a zip"} and [path for path, _ in server.requests] == ["/~author/sst.zip"]
    assert not Path("hub.lock.json").exists()


def test_a_file_at_hand_is_copied(fetch, tmp_path):
    (tmp_path / "mine.zip").write_bytes(b"a zip")
    assert fetch({"source": "local", "path": str(tmp_path / "mine.zip")})[0] == {"mine.zip": b"a zip"}
    assert (tmp_path / "mine.zip").read_bytes() == b"a zip"
    with pytest.raises(UserError, match=r"the file 'nowhere/sst\.zip' of a local data set is not there"):
        fetch({"source": "local", "path": "nowhere/sst.zip"})


def test_a_reader_is_given_one_file_or_the_folder_of_several():
    assert file_or_folder(["a/b/c.zip"]) == Path("a/b/c.zip")
    assert file_or_folder(["a/b/train/0.parquet", "a/b/test/0.parquet"]) == Path("a/b")
