"""Digests of fetched files: what a configuration or the lock file says they must be, and what is written down of new ones.

No torch here, and nothing of models: an edit of theirs must fetch no data set again.
"""

import fcntl
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from recircuit.core.files import atomic
from recircuit.core.shards import INDEX, SHARD


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def pinned(lock: Path, repo: str, revision: str, files: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the expected SHA-256 of each file: of the config, else of the lock file, else None.

    Shards, which a config need not name, are demanded as they were recorded when their index is asked for.
    """
    recorded = json.loads(lock.read_text(encoding="utf-8")).get(f"{repo}@{revision}", {}) if lock.is_file() else {}
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
        known = json.loads(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
        known.setdefault(f"{repo}@{revision}", {}).update(new)
        write_json(lock, known)
    log(f"{lock} now has the digests of {', '.join(sorted(new))}; commit it")
