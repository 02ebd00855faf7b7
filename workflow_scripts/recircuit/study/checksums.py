"""The SHA-256 of every file that a job wrote, in ``cache/checksums``: a job refuses an input that is not what was written.

A record lies at ``cache/checksums/<file>.sha256``, in the form of ``sha256sum``, and names all files of the job, which only
come and go together. Standard library alone: the Snakefile imports this.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from recircuit.core.errors import UserError, refusal
from recircuit.core.files import atomic, sha256

FOLDER = Path("cache", "checksums")
MODEL_FILES = ("config.json", "tokenizer.json")  # read beside the weights by jobs that name the weights alone
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def record_of(path: str | Path) -> Path:
    """Return where the checksum of a job's file is kept."""
    return FOLDER / f"{path}.sha256"


def forget(paths: Iterable[str | Path]) -> None:
    """Remove the records of files that are about to be written; UserError when the disk refuses."""
    for path in paths:
        try:
            if record_of(path).exists():
                record_of(path).unlink()
        except OSError as error:
            raise refusal(error, record_of(path)) or error from None


def record(paths: Iterable[str | Path]) -> None:
    """Write down the SHA-256 of the files of one job."""
    digests = {str(path): sha256(path) for path in paths}
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests.items()))
    for path in digests:
        with atomic(record_of(path)) as part:
            part.write_text(text, encoding="utf-8")


def recorded(path: str | Path) -> dict[str, str] | None:
    """Return the SHA-256 of a file and of those written with it, or None where nothing was recorded.

    A record that is damaged itself says of its file that no bytes fit.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        lines = record_of(path).read_text(encoding="utf-8", errors="replace").splitlines()
        found = {match[2]: match[1] for line in lines if (match := _LINE.fullmatch(line))}
        return found if str(path) in found and len(found) == len(lines) else {str(path): ""}
    return None


def checked(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the SHA-256 of files; UserError for one that is not as it was written. Files never recorded pass."""
    found = {}
    for path in map(str, paths):
        found[path] = sha256(path)
        written = (recorded(path) or {}).get(path)
        if written is not None and written != found[path]:
            raise UserError(damage(path, found[path], written))
    return found


def damage(path: str, found: str, written: str) -> str:
    """Return what to tell of a file that is not as it was written."""
    wanted = f"{written[:12]} was written" if written else f"{record_of(path)} cannot be read"
    return (
        f"{path} is damaged (its SHA-256 begins with {found[:12]}, {wanted}); remove what is damaged with "
        "snakemake --cores 1 verify --config yes=true, and let Snakemake build it again; if you put it there yourself, delete "
        f"{record_of(path)}"
    )


def beside(paths: Iterable[str]) -> list[str]:
    """Return the files of a model's folder that a job may read beside those that it names."""
    folders = {path.parent for path in map(Path, paths) if path.parent.parent == Path("cache", "models")}
    return [str(folder / name) for folder in sorted(folders) for name in MODEL_FILES if (folder / name).is_file()]
