"""The environment's ``snakemake`` command: Snakemake's own, with two repairs of the command line.

Snakemake's options that take ``key=value`` words also take any target that follows them, so that
``snakemake --cores 1 --resources gpu=1 all`` stops with a ValueError (snakemake#1069). Here such an option ends at the
first word without ``=``. ``python -m snakemake all --cores 1 --resources gpu=1`` is the same thing without the repair.

A run that ends takes away the locks of every other run in its folder. So targets that only look, such as ``status``, get
``--nolock``: they lock nothing, and what they are asked about stays locked.

Where Snakemake cannot write its own notes (``.snakemake``), it ends in tracebacks; here it does not begin, and one sentence
says why.
"""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

KEY_VALUE_OPTIONS = frozenset(
    {"--resources", "--res", "--config", "-C", "--set-resources", "--set-threads", "--default-resources", "--default-res"}
    | {"--set-resource-scopes", "--set-scatter", "--consider-ancient", "--groups", "--group-components"}
)
LOOKING = frozenset({"list", "trace", "status", "prune", "verify"})
NO_RUN = frozenset({"--help", "-h", "--version", "-v"})
ROOM = 2**16  # bytes: a log, locks and scripts of a few jobs


def only_looks(words: Sequence[str]) -> bool:
    """Say whether a command line has a target that only looks, and no other one that we know."""
    building = any(word == "all" or word.startswith(("figures/", "cache/")) for word in words)
    return bool(LOOKING.intersection(words)) and not building


def is_dry_run(words: Sequence[str]) -> bool:
    """Say whether a command line asks what would be run, also as one of several letters (``-np``)."""
    letters = any(re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*", word) for word in words)
    return letters or bool({"--dry-run", "--dryrun"}.intersection(words))


def lock_nothing(words: list[str]) -> list[str]:
    """Add ``--nolock`` to a command line that only looks."""
    return ["--nolock", *words] if only_looks(words) else words


def targets_first(words: list[str]) -> list[str]:
    """Move targets that stand behind a ``key=value`` option to the front, where no option can take them."""
    targets, rest, in_pairs = [], [], False
    for word in words:
        if word.startswith("-"):
            in_pairs = word in KEY_VALUE_OPTIONS
        elif in_pairs and "=" not in word:
            targets.append(word)
            continue
        rest.append(word)
    return [*targets, *rest]


def refuse_folder(words: list[str]) -> None:
    """End with one sentence when Snakemake's notes on this workflow cannot be written."""
    elsewhere = any(word in ("-d", "--directory") or word.startswith("--directory=") for word in words)
    if not Path("Snakefile").is_file() or NO_RUN.intersection(words) or elsewhere:
        return
    probe = Path(".snakemake", f"room.{os.getpid()}")
    try:
        probe.parent.mkdir(exist_ok=True)
        probe.write_bytes(bytes(ROOM))
    except OSError as error:
        why = error.strerror or error
        sys.exit(f"Snakemake keeps its notes in .snakemake, which cannot be written ({why}); mend that, then run it again")
    finally:
        with suppress(OSError):
            probe.unlink()


def main() -> None:
    """Run Snakemake on the repaired command line."""
    from snakemake.cli import main as snakemake_main

    refuse_folder(sys.argv[1:])
    sys.argv[1:] = lock_nothing(targets_first(sys.argv[1:]))
    # This module came from the environment; a workflow of another checkout must find its own library, not ours.
    for name in [name for name in sys.modules if name.partition(".")[0] == "recircuit"]:
        del sys.modules[name]
    snakemake_main(sys.argv[1:])
