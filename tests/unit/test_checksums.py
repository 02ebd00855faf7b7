"""Records of what was written, what a disk's refusals are told as, and what a killed writer leaves."""

import errno
import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from recircuit.core.errors import UserError, is_out_of_memory, refusal
from recircuit.core.files import atomic, remove_orphans
from recircuit.study.checksums import beside, checked, forget, record, record_of, recorded

FILES = ["cache/models/m/config.json", "cache/models/m/model.safetensors"]
ORPHAN = f".a.json.{32 * '0'}.part"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache with two files of one job."""
    monkeypatch.chdir(tmp_path)
    for turn, name in enumerate(FILES):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(bytes([turn]))
    record(FILES)
    return tmp_path


def test_a_record_names_all_files_of_the_job_as_sha256sum_does(folder):
    expected = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in FILES}
    assert recorded(FILES[0]) == expected == checked(FILES)
    done = subprocess.run(["sha256sum", "--check", record_of(FILES[1])], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 2


def test_a_changed_file_and_a_changed_record_are_refused_and_an_unknown_file_passes(folder):
    Path("cache/new.json").write_text("x", encoding="utf-8")
    assert set(checked(["cache/new.json"])) == {"cache/new.json"} and recorded("cache/new.json") is None
    Path(FILES[0]).write_bytes(b"2")
    with pytest.raises(
        UserError, match=r"^cache/models/m/config\.json is damaged \(its SHA-256 begins with \w{12}, 6e340b9cffb3 was"
    ):
        checked(FILES)
    record_of(FILES[1]).write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"^cache/models/m/model\.safetensors is damaged .*\.sha256 cannot be read"):
        checked(FILES[1:])


def test_records_are_forgotten_before_files_are_written_anew(folder):
    forget([*FILES, "cache/none.json"])
    assert [recorded(name) for name in FILES] == [None, None]


def test_beside_the_weights_lies_what_a_job_reads_without_naming_it(folder):
    assert beside(FILES[1:]) == [FILES[0]] and beside(["cache/p/t/m/t.parquet"]) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota of the disk is used up"),
        (OSError(errno.EROFS, "Read-only file system", "b.json"), "its file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "b.json"), "permission is denied"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.ENOENT, "No such file", "b.json"), None),
        (ValueError("28"), None),
        (UserError("said before (os error 28)"), None),
    ],
)
def test_refusals_of_a_disk_are_sentences_and_nothing_else_is(error, said):
    told = refusal(error, "a.json")
    assert told is None if said is None else str(told).startswith(f"a.json cannot be written: {said}; ")


def test_a_disk_that_refuses_while_a_file_is_written_is_told_with_its_final_name(tmp_path):
    with pytest.raises(UserError, match=r"a\.json cannot be written: the disk is full"), atomic(tmp_path / "a.json") as part:
        part.write_text("half", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_clean_up_that_fails_in_turn_does_not_hide_the_disk(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), atomic(tmp_path / "a.pdf"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise AttributeError("'Stream' object has no attribute 'pos'")


def test_an_error_about_another_file_names_that_one(tmp_path):
    with pytest.raises(UserError, match=r"^/source cannot be read or written: permission"), atomic(tmp_path / "a.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/source")


def test_out_of_memory_is_told_from_other_errors():
    full = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(full)
    assert not is_out_of_memory(RuntimeError("shapes")) and not is_out_of_memory(OSError("can't allocate memory"))


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    (tmp_path / ORPHAN).write_text("half", encoding="utf-8")
    (tmp_path / ".kept.partial.safetensors").write_text("x", encoding="utf-8")
    with atomic(tmp_path / "b.json") as part:
        part.write_text("x", encoding="utf-8")
        for path in tmp_path.iterdir():
            os.utime(path, (1, 1))
        remove_orphans([tmp_path, tmp_path / "none"])
        assert part.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"b.json", ".kept.partial.safetensors"}


def test_a_part_is_locked_by_its_writer(tmp_path):
    with atomic(tmp_path / "a.json") as part, part.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not (tmp_path / "a.json").read_bytes()
