"""What a run on a SLURM cluster has to be told: what of its profile was not filled in, and which limits its jobs ran into."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recircuit.command import is_dry_run
from recircuit.core.errors import UserError

PLACEHOLDER = "CHANGE_ME"
PROFILE_FILES = ("config.yaml", "partitions.yaml")
ENDED = re.compile(r"SLURM-job '([^']+)' failed, SLURM status is: '(\w+)")
TOO_MUCH_MEMORY = re.compile(r"exceeded (?:job )?memory limit|oom[-_]kill|OUT_OF_MEMORY", re.IGNORECASE)


def check_profile(words: Sequence[str]) -> None:
    """Refuse a command line whose profile still has a placeholder, unless it is a dry run's.

    Raises:
        UserError: The file, the line, and what belongs there.
    """
    if is_dry_run(words):
        return
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--workflow-profile", "--profile")]
    named += [word.partition("=")[2] for word in words if word.startswith(("--workflow-profile=", "--profile="))]
    for path in (Path(profile) / name for profile in named for name in PROFILE_FILES):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if path.is_file() else ():
            text = line.partition("#")[0].strip()
            if PLACEHOLDER in text:
                raise UserError(
                    f"{path}, line {number}: {PLACEHOLDER} stands for a name of your cluster ({text}); "
                    "write the name there, or delete the line where your cluster needs none"
                )


@dataclass(frozen=True)
class Failure:
    """A job that SLURM ended: its rule, its log of SLURM's, how SLURM calls its end, and what it had asked for."""

    rule: str
    log: str
    state: str
    minutes: str
    megabytes: str


def failures(log: str) -> list[Failure]:
    """Return the SLURM jobs that failed for good in a run, from Snakemake's own log; each job once, as it last ended."""
    asked, last = {}, {}
    for block in re.split(r"\n(?=\[\w{3} \w{3} )", log):
        name = re.search(r"^(?:Error in )?(?:local)?rule (\w+):", block, re.MULTILINE)
        job = re.search(r"^    jobid: (\d+)", block, re.MULTILINE)
        if done := re.search(r"^Finished jobid: (\d+)", block, re.MULTILINE):
            last.pop(done[1], None)
        if not name or not job:
            continue
        if resources := re.search(r"^    resources: (.*)", block, re.MULTILINE):
            asked[job[1]] = dict(part.split("=", 1) for part in resources[1].split(", ") if "=" in part)
        if ended := ENDED.search(block):
            logs = re.search(r"^    log: (.*?)(?: \(check log|$)", block, re.MULTILINE)
            path = logs[1].split(", ")[-1] if logs else ""
            wanted = asked.get(job[1], {})
            last[job[1]] = Failure(name[1], path, ended[2], wanted.get("runtime", "?"), wanted.get("mem_mb", "?"))
    return list(last.values())


def advice(failure: Failure, slurm_log: str) -> str | None:
    """Return what to do about a job that ran into a limit, in a sentence; nothing for one that failed by itself."""
    if failure.state == "OUT_OF_MEMORY" or TOO_MUCH_MEMORY.search(slurm_log):
        what, key, had, unit = "memory", "mem_mb", failure.megabytes, "MB"
    elif failure.state == "TIMEOUT" or "DUE TO TIME LIMIT" in slurm_log:
        what, key, had, unit = "time", "runtime", failure.minutes, "minutes"
    else:
        return None
    more = str(2 * int(had)) if had.isdigit() else "..."
    return (
        f"Rule {failure.rule} ran into its limit of {what}, {had} {unit}: give it more with "
        f"--set-resources {failure.rule}:{key}={more} (its log: {failure.log})"
    )


def explain(logs: Iterable[str]) -> None:
    """Print the advice on every job of a failed run, from Snakemake's logs of it."""
    for log in logs:
        for failure in failures(_text(log)):
            if sentence := advice(failure, _text(failure.log)):
                print(sentence, flush=True)


def _text(path: str) -> str:
    """Return what a file holds, as far as it is there."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
