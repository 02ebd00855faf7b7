"""Data sets that a study reads and may not hand on: from the hub, from a page of their own, or from a file at hand."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.files import atomic, file_or_folder
from recircuit.core.hub import fetch_data, fetch_file
from recircuit.study.pins import pinned, record_pins


def fetch_source(choice: Mapping, files: Iterable[str], lock: Path, guard: Path, log: Callable[[str], None]) -> None:
    """Bring ``files``, where a data set is to be put, from where ``choice`` (of ``sentiment.sources``) says.

    Those of the hub that the choice does not pin are held to the lock file, which gets the digests that it lacks.
    """
    target = file_or_folder(files)
    if choice["source"] == "web":
        fetch_file(choice["url"], choice["sha256"], target, log=log)
    elif choice["source"] == "local":
        _copy(Path(choice["path"]), target)
    else:
        key, revision = f"datasets/{choice['repo']}", choice["revision"]  # a model may have the same name
        folder = _above(files, choice["files"])
        digests = fetch_data(choice["repo"], revision, pinned(lock, key, revision, choice["files"]), folder, log=log)
        record_pins(lock, guard, key, revision, digests, choice["files"], log)


def _above(files: Iterable[str], names: Iterable[str]) -> Path:
    """Return the folder below which files have these names."""
    file, name = next(zip(map(str, files), names, strict=True))
    return Path(file.removesuffix(name))


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"config: the file '{source}' of a local data set is not there")
    with atomic(target) as part:
        shutil.copyfile(source, part)
