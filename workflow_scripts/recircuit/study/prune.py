"""Files under cache/ and figures/ that nothing in the configuration needs: listed, or removed.

Links are never followed: one that is not needed goes, what it names stays.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.files import OLD, ORPHAN

ROOTS = ("cache", "figures")


@dataclass(frozen=True)
class Spare:
    """A file, or a link, that nothing needs."""

    path: Path
    size: int


def spare(needed: Iterable[str]) -> list[Spare]:
    """Return what nothing needs, sorted by path.

    In a folder with something needed, other hidden files stay: the progress of a training, the shards of a download.
    """
    kept = {Path(path) for path in needed}
    if not kept:
        raise UserError("the configuration needs no file at all; prune removes nothing")
    folders = {folder for path in kept for folder in path.parents}
    found = []
    for entry in (entry for root in ROOTS for entry in _walk(Path(root))):
        path = Path(entry.path)
        with suppress(FileNotFoundError):  # another run may remove what it was writing
            hidden = path.name.startswith(".") and path.parent in folders and not _orphan(entry)
            if not (path in kept or path in folders or hidden):  # a link to a folder may stand before what is needed
                found.append(Spare(path, entry.stat(follow_symlinks=False).st_size))
    return sorted(found, key=lambda file: file.path)


def _orphan(entry: os.DirEntry) -> bool:
    old = time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD
    return old and ORPHAN.fullmatch(entry.name) is not None


def _walk(folder: Path) -> Iterator[os.DirEntry]:
    """Yield files and links below a folder, not what lies behind links; nothing if the folder itself is a link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield entry


def remove(files: Iterable[Spare]) -> None:
    """Remove files and links, and the folders that they leave empty."""
    emptied = set()
    for file in files:
        if file.path.parts[0] not in ROOTS or ".." in file.path.parts or any(f.is_symlink() for f in file.path.parents):
            raise UserError(f"{file.path} is not inside {' or '.join(ROOTS)}; it was not removed")
        file.path.unlink(missing_ok=True)
        emptied.update(folder for folder in file.path.parents if len(folder.parts) > 1)
    for folder in sorted(emptied, key=lambda folder: -len(folder.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()


def prune_text(needed: Iterable[str], models: Iterable[str], *, sure: bool) -> str:
    """List what nothing needs with its bytes, remove it if ``sure``, and say what was done.

    Raises UserError when files are to be removed while another run is writing.
    """
    files = spare(needed)
    if sure:
        refuse_while_writing("prune")
    lines = [f"{file.size:>14,}  {file.path}" for file in files]
    lines += [f"{root} is a link to {Path(root).readlink()}; nothing in it is looked at" for root in _linked()]
    total = f"{len(files)} file{'s' * (len(files) != 1)} of {sum(file.size for file in files):,} bytes"
    if sure:
        remove(files)
        return "\n".join([*lines, f"{total} removed"])
    advice = "; nothing is removed without --config yes=true" if files else ""
    scope = f"needed by nothing that this configuration can build (models {', '.join(models)})"
    return "\n".join([*lines, f"{total} {scope}{advice}"])


def refuse_while_writing(command: str) -> None:
    """Raise UserError when a run that is under way, or was killed, holds locks on what it writes."""
    if any(lock.stat().st_size for lock in Path(".snakemake", "locks").glob("*.output.lock")):
        raise UserError(
            f"another run is writing here, so that {command} removes nothing; "
            "wait for its end (snakemake --unlock if it was killed)"
        )


def _linked() -> list[str]:
    return [root for root in ROOTS if Path(root).is_symlink()]
