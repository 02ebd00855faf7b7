"""Passports: where a file came from, in facts that repeat. Time, memory, host and commit go to the log instead."""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recircuit.core.files import sha256

PACKAGES = (
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "tokenizers",
    "safetensors",
    "transformers",
    "transformer-lens",
)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers and pictures may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def passport(
    rule: str,
    wildcards: Mapping[str, str],
    spec: Mapping,
    inputs: Iterable[str],
    digests: Mapping[str, str] | None = None,
    **facts,
) -> dict:
    """Return the passport of a job's outputs: rule, wildcards, spec (with code digest), inputs with SHA-256, versions.

    ``digests`` are the SHA-256 of inputs that are known already. ``facts`` are further ones that repeat: device class, dtype,
    threads.
    """
    known = digests or {}
    return {
        "rule": rule,
        "wildcards": dict(sorted(wildcards.items())),
        "spec": dict(spec),
        "inputs": {path: known.get(path) or sha256(path) for path in sorted(map(str, inputs)) if Path(path).is_file()},
        "versions": versions(),
        **facts,
    }
