"""Files under cache/ and figures/ whose bytes are not those that their jobs wrote: named, or removed to be built again."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.files import sha256
from recircuit.study.checksums import FOLDER, record_of, recorded
from recircuit.study.prune import ROOTS, refuse_while_writing

MANIFEST = Path("cache", "MANIFEST.tsv")
NO_RESULTS = (FOLDER, Path("cache", "logs"), Path("cache", "benchmarks"))


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written: its SHA-256, the one that was recorded, and the files of the same job."""

    path: str
    found: str
    written: str
    together: tuple[str, ...]


def verify(say: Callable[[str], None], *, sure: bool) -> None:
    """Say which files are damaged; if ``sure``, remove them with all that the same jobs wrote.

    Raises UserError when files are damaged and stay, and when files are to be removed while another run is writing.
    """
    if sure:
        refuse_while_writing("verify")
    listed, files = _manifest(), list(_results())
    damaged, unknown = [], []
    for path in filter(os.path.isfile, files):  # another run may remove what it makes again
        records = recorded(path) or ({path: listed[path]} if path in listed else {})
        if path not in records:
            unknown.append(path)
        elif (found := sha256(path)) != records[path]:
            damaged.append(Damage(path, found, records[path], tuple(records)))
    for file in damaged:
        written = f"{file.written[:12]} was written" if file.written else f"{record_of(file.path)} cannot be read"
        say(f"{file.path} is damaged: its SHA-256 begins with {file.found[:12]}, {written}")
    for path in unknown:
        say(f"{path}: no checksum of it was recorded")
    checked = f"{len(files) - len(unknown)} file{'s' * (len(files) - len(unknown) != 1)} looked at, {len(damaged)} damaged"
    if damaged and not sure:
        raise UserError(f"{checked}; --config yes=true removes them, so that the next run that needs them builds them again")
    say(checked + (f"; {_remove(damaged)} files removed, with those of the same jobs" if damaged else ""))


def _results() -> Iterator[str]:
    """Yield every file that jobs made, sorted; neither logs nor hidden ones, which a job may be writing."""
    for folder, below, names in (entry for root in ROOTS for entry in os.walk(root)):
        below[:] = sorted(name for name in below if Path(folder, name) not in NO_RESULTS and not name.startswith("."))
        yield from (str(Path(folder, name)) for name in sorted(names) if not name.startswith("."))


def _manifest() -> dict[str, str]:
    """Return the SHA-256 of files by the manifest, which has them for a cache that was made without records.

    Of a file that is newer than the manifest, it knows nothing.
    """
    with suppress(OSError):
        written = MANIFEST.stat().st_mtime
        rows = [line.split("\t") for line in MANIFEST.read_text(encoding="utf-8", errors="replace").splitlines()]
        listed = [row for row in rows[1:] if len(row) > 1 and Path(row[0]).is_file()]
        return {row[0]: row[1] for row in listed if Path(row[0]).stat().st_mtime <= written}
    return {}


def _remove(damaged: list[Damage]) -> int:
    # The manifest goes too: a run of everything then misses what it stands on.
    names = {path for file in damaged for path in file.together} | {str(MANIFEST)}
    paths = [Path(name) for name in sorted(names)]
    present = [path for path in paths if path.parts[0] in ROOTS and ".." not in path.parts and path.is_file()]
    for path in present:
        path.unlink()
        record_of(path).unlink(missing_ok=True)
    return len(present)
