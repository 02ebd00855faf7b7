"""Files that are either whole or not there, and their digests."""

import fcntl
import hashlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from recircuit.core.errors import refusal

OLD = 3600.0  # seconds without a change, after which a file in the making is nobody's
ORPHAN = re.compile(r"\..+\.[0-9a-f]{32}\.part")  # what `atomic` was writing when its job was killed


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a name of its own beside ``path``; what is written there takes the final name at the end, in one step.

    The name is unique, so that an orphan of a killed run can harm nothing. After an error nothing is left behind. A disk that
    is full, read-only or otherwise refuses is a UserError.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{_this_machine()}{uuid.uuid4().hex[8:]}.part")
    held = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with suppress(OSError):  # some network disks have no locks
            fcntl.flock(held, fcntl.LOCK_EX)  # waits where another job looks whether it is an orphan
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except Exception as error:
        told = refusal(error) if _elsewhere(error, part) else refusal(error, path)
        if told is None:
            raise
        raise told from error
    finally:
        with suppress(OSError):  # a read-only disk refuses this, even where there is nothing to remove
            part.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def remove_orphans(folders: Iterable[Path]) -> None:
    """Remove from folders what ``atomic`` was writing when its process was killed; what a living process writes is locked.

    Locks may not reach from one machine to another: what another machine wrote is an orphan if it is old, too.
    """
    for part in (part for folder in folders if folder.is_dir() for part in folder.iterdir() if ORPHAN.fullmatch(part.name)):
        age = 1.0 if part.name[-37:].startswith(_this_machine()) else OLD  # a file is locked right after it is made
        with suppress(OSError):
            held = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(held).st_mtime > age:
                    part.unlink()
            finally:
                os.close(held)


def _this_machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _elsewhere(error: Exception, part: Path) -> bool:
    """Say whether an error is about another file than the one in the making, such as the source of a copy."""
    named = getattr(error, "filename", None)
    return named is not None and Path(str(named)).name not in (part.name, part.parent.name)


def strict_json(text: str) -> object:
    """Parse JSON. ValueError for what is none, for nests too deep to parse, and for a key that an object has twice."""
    try:
        return json.loads(text, object_pairs_hook=_unrepeated)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _unrepeated(pairs: list[tuple[str, object]]) -> dict:
    found = {}
    for key, value in pairs:
        if key in found:  # readers differ in which of the two they take
            raise ValueError(f"it says '{key}' twice")
        found[key] = value
    return found


def file_or_folder(paths: Iterable[str | Path]) -> Path:
    """Return the file that is there alone, or of several files the folder that holds them all."""
    return Path(os.path.commonpath([str(path) for path in paths]))


def read_yaml(path: str | Path):
    """Return the plain values of a YAML file, by libyaml's parser where there is one: it is ten times as fast."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(Path(path).read_bytes(), Loader=loader)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def passport_in_page(passport: Mapping) -> str:
    """Return the element that holds a passport in the head of an HTML page; ``study.lineage.passport_of`` reads it."""
    text = json.dumps(dict(passport), sort_keys=True).replace("<", "\\u003c")
    return f"<script type='application/json' id='passport'>{text}</script>"
