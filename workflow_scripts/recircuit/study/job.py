"""What every script does around its one call: a log, a passport, checked tables, and errors in one sentence.

A script defines ``main(job)`` and ends in ``run(main, snakemake)``. No torch here: jobs that draw do not pay for it.
"""

import gc
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pandas as pd

from recircuit.core.errors import UserError, is_out_of_memory, refusal
from recircuit.core.files import remove_orphans
from recircuit.study import checksums, tables
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
        self.digests: dict[str, str] = {}  # SHA-256 of the inputs

    def log(self, line: str) -> None:
        """Write a line to the terminal and to the log, if the disk takes it: a log is no result."""
        stamped = f"{datetime.now():%H:%M:%S} {self.name}: {line}"
        print(stamped, file=sys.stderr, flush=True)
        if self.log_path:
            with suppress(OSError), self.log_path.open("a", encoding="utf-8") as file:
                file.write(stamped + "\n")

    def begin(self) -> None:
        """Begin a log, clear what a killed job left, refuse inputs that are not as they were written."""
        if self.log_path:
            with suppress(OSError):
                self.log_path.parent.mkdir(parents=True, exist_ok=True)
                self.log_path.write_text("", encoding="utf-8")
        self.log("started")
        checksums.forget(self.output)
        remove_orphans({Path(path).parent for file in self.output for path in (file, checksums.record_of(file))})
        files = [str(path) for path in self.input if Path(path).is_file()]
        for path in files:  # Snakemake would discard outputs that are older than an input, and make them again for ever
            _not_from_the_future(path)
        self.digests = checksums.checked(dict.fromkeys([*files, *checksums.beside(files)]))

    def passport(self) -> dict:
        """Return the passport of this job's outputs; a picture's has the texts on it."""
        item = getattr(self.params, "item", None)
        facts = {"threads": self.threads, **self.facts, **({"item": dict(item)} if item else {})}
        return passport(self.rule, dict(self.wildcards.items()), self.spec, self.input, self.digests, **facts)

    def read(self, name: str, path: str | None = None) -> pd.DataFrame:
        """Read the input table called ``name`` (also its schema), or another file with that schema."""
        return tables.read_table(str(path or self.input[name]), name)

    def write(self, name: str, frame: pd.DataFrame, path: str | None = None) -> None:
        """Write the output table called ``name`` (also its schema), or to another output."""
        tables.write_table(frame, str(path or self.output[name]), name, self.passport())


def run(main: Callable[[Job], None], snakemake) -> None:
    """Run a script's ``main``; a mistake of the user's, a disk that refuses and too little memory end it with one sentence.

    Anything else ends it with a traceback.
    """
    gc.freeze()  # never look through the imported modules again
    gc.set_threshold(700)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for stream in (sys.stdout, sys.stderr):  # a locale without UTF-8 shows the letters that it lacks by their numbers
        stream.reconfigure(errors="backslashreplace")
    job = Job(snakemake)
    began = time.monotonic()
    try:
        job.begin()
        main(job)
        checksums.record(job.output)
    except (Exception, KeyboardInterrupt) as error:
        sentence = in_one_sentence(error, job)
        if sentence:
            job.log(f"error: {sentence}")
            sys.exit(1)
        job.log(f"failed: {type(error).__name__}: {' '.join(str(error).split())}")  # the log's last line, for status
        raise
    used = f"{time.monotonic() - began:.1f} s, {_peak():.0f} MiB at most of {job.resources.mem_mb} asked"
    job.log(f"done in {used}, on {socket.gethostname()}, commit {commit()}")


def in_one_sentence(error: BaseException, job: Job) -> UserError | None:
    """Return what to tell a user of an error, or None for one that only its traceback explains."""
    if isinstance(error, UserError):
        return error
    if type(error).__name__ == "OutOfMemoryError":
        return UserError(f"{job.rule} ran out of the GPU's memory; run it where nothing else uses the GPU, or with device: cpu")
    if is_out_of_memory(error):
        asked = int(getattr(job.resources, "mem_mb", 0) or 0)
        return UserError(
            f"{job.rule} ran out of memory ({_peak():.0f} MiB at most, {asked} MB asked for); run it where more is free, or "
            f"with fewer jobs at once (--cores 1), on a cluster with --set-resources {job.rule}:mem_mb={2 * asked}"
        )
    return refusal(error)


def _not_from_the_future(path: str) -> None:
    """Date a file as of now that is dated more than a minute later: the clock was set back, not a cluster's clocks apart."""
    now = time.time_ns()
    if Path(path).stat().st_mtime_ns > now + 60 * 10**9:
        with suppress(OSError):
            os.utime(path, ns=(now, now))


def _peak() -> float:
    """Return the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
