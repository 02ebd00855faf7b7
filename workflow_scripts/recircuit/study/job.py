"""What every script does around its one call: a log, a passport, checked tables, and errors in one sentence.

A script defines ``main(job)`` and ends in ``run(main, snakemake)``. No torch here: jobs that draw do not pay for it.
"""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.study import tables
from recircuit.study.provenance import passport


class Job:
    """A running job: its files, its wildcards, its choices (``spec``) and its log."""

    def __init__(self, snakemake) -> None:
        self.rule: str = snakemake.rule
        self.name = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
        self.input, self.output, self.wildcards = snakemake.input, snakemake.output, snakemake.wildcards
        self.params, self.resources, self.threads = snakemake.params, snakemake.resources, snakemake.threads
        self.spec: dict = snakemake.params.spec
        self.log_path = Path(str(snakemake.log[0])) if snakemake.log else None
        self.facts: dict = {}  # further facts for the passport, such as the device class

    def log(self, line: str) -> None:
        """Write a line to the log and to the terminal."""
        stamped = f"{datetime.now():%H:%M:%S} {self.name}: {line}"
        print(stamped, file=sys.stderr, flush=True)
        if self.log_path:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(stamped + "\n")

    def passport(self) -> dict:
        """Return the passport of this job's outputs; a picture's has the texts on it."""
        item = getattr(self.params, "item", None)
        facts = {"threads": self.threads, **self.facts, **({"item": dict(item)} if item else {})}
        return passport(self.rule, dict(self.wildcards.items()), self.spec, self.input, **facts)

    def read(self, name: str, path: str | None = None) -> pd.DataFrame:
        """Read the input table called ``name`` (also its schema), or another file with that schema."""
        return tables.read_table(str(path or self.input[name]), name)

    def write(self, name: str, frame: pd.DataFrame, path: str | None = None) -> None:
        """Write the output table called ``name`` (also its schema), or to another output."""
        tables.write_table(frame, str(path or self.output[name]), name, self.passport())


def run(main: Callable[[Job], None], snakemake) -> None:
    """Run a script's ``main``; a UserError ends the job with its one sentence, anything else with a traceback."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    job = Job(snakemake)
    if job.log_path:
        job.log_path.parent.mkdir(parents=True, exist_ok=True)
        job.log_path.write_text("", encoding="utf-8")
    job.log("started")
    began = time.monotonic()
    try:
        main(job)
    except UserError as error:
        job.log(f"error: {error}")
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        job.log(f"failed: {type(error).__name__}: {' '.join(str(error).split())}")  # the log's last line, for status
        raise
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = f"{time.monotonic() - began:.1f} s, {peak:.0f} MiB at most of {job.resources.mem_mb} asked"
    job.log(f"done in {used}, on {socket.gethostname()}, commit {commit()}")


def commit() -> str:
    """Return the short git commit of the project, with a + when files differ from it; 'none' outside git."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude", "*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip()
