"""Digests of fetched files: what a configuration or the lock file says they must be, and what is written down of new ones.

No torch here, and nothing of models: an edit of theirs must fetch no data set again.
"""

import fcntl
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.files import atomic, strict_json
from recircuit.core.shards import INDEX, SHARD


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def pinned(lock: Path, repo: str, revision: str, files: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the expected SHA-256 of each file: of the config, else of the lock file, else None.

    Shards, which a config need not name, are demanded as they were recorded when their index is asked for.
    """
    recorded = _read_lock(lock).get(f"{repo}@{revision}", {})
    pieces = {name: digest for name, digest in recorded.items() if INDEX in files and SHARD.fullmatch(name)}
    return pieces | {name: digest or recorded.get(name) for name, digest in files.items()}


def record_pins(
    lock: Path, guard: Path, repo: str, revision: str, digests: Mapping[str, str], files: Mapping, log: Callable[[str], None]
) -> None:
    """Add the digests that the config does not have to the lock file, which the user commits.

    ``guard`` is a file that fetch jobs lock in turn, since several may come here at once.
    """
    new = {name: digest for name, digest in digests.items() if not files.get(name)}
    if not new:
        return
    with guard.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        known = _read_lock(lock)
        known.setdefault(f"{repo}@{revision}", {}).update(new)
        write_json(lock, known)
    log(f"{lock} now has the digests of {', '.join(sorted(new))}; commit it")


def _read_lock(lock: Path) -> dict[str, dict[str, str]]:
    try:
        known = strict_json(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
        pins = [(name, digest) for files in known.values() for name, digest in files.items()]
    except (ValueError, AttributeError) as error:  # a merge of two branches may have left its marks in it
        raise UserError(f"{lock} cannot be read ({error}); expected JSON, from owner/name@commit to files to SHA-256") from None
    for name, digest in pins:
        if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise UserError(f"{lock} pins {name} to {digest!r}; expected a SHA-256, 64 hex digits")
    return known
