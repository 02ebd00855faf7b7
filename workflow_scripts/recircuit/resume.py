"""``recircuit-resume``: go on after a run that was killed.

A run that is killed (kill -9, a lost terminal, a reboot of the machine it ran on) leaves its lock, and may leave jobs that
go on: a plain restart would start these again beside them. ``recircuit-resume wait`` lets them end,
``recircuit-resume cancel`` ends them; then it takes the lock away and runs Snakemake with the words that follow.

What a SLURM job makes after its run was killed counts; what a local job makes is made again, as nobody saw it end well.

A job is found by its working folder: SLURM's by ``squeue``, those of this machine by their processes. Nothing of another
folder is touched. Run it in the folder and on the machine of the killed run.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import psutil

from recircuit.command import is_dry_run, only_looks

USAGE = "recircuit-resume wait|cancel [what snakemake was given]"
# The executor names the jobs of a run after it, by a UUID, behind the prefix that a profile may give.
RUN = re.compile("(.*_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
POLL = 10.0  # seconds between two questions to SLURM
SLURM_LOGS = Path(".snakemake", "slurm_logs")  # as in profiles/slurm; there from the first job on
LIVE = "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING,REQUEUED,REQUEUE_HOLD,SIGNALING,STAGE_OUT"


def local_processes(folder: Path) -> list[psutil.Process]:
    """Return the processes of this machine that work in a folder, without this one and what it was started by."""
    ours = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in ours and process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Return a process' command line, empty for one that has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def runs_snakemake(words: Sequence[str]) -> bool:
    """Say whether a command line is Python's, running Snakemake: its program, or its module."""
    if not words or not Path(words[0]).name.startswith("python"):
        return False
    program = next((Path(word) for word in words[1:] if not word.startswith("-")), Path())
    module = ("-m", "snakemake") in pairwise(words)
    return module or program.name == "snakemake" or program.parts[-2:] == ("snakemake", "__main__.py")


def is_main(words: Sequence[str]) -> bool:
    """Say whether a command line is that of a run which holds its folder: no job's, and none that only looks."""
    unlocked = only_looks(words) or is_dry_run(words) or "--nolock" in words
    return runs_snakemake(words) and "--target-jobs" not in words and not unlocked


def is_job(words: Sequence[str], folder: Path) -> bool:
    """Say whether a command line is that of a job: a script that Snakemake wrote in the folder, or Snakemake for one job."""
    scripts = str(folder / ".snakemake" / "scripts") + os.sep
    return any(word.startswith(scripts) for word in words) or (runs_snakemake(words) and "--target-jobs" in words)


def slurm_jobs(folder: Path) -> list[str]:
    """Return the numbers of SLURM jobs that a run submitted from this folder and that wait or run.

    The user's own jobs of the folder are not among them, nor is the one in which this program runs.

    Raises:
        SystemExit: SLURM was used here, but does not answer: what it still runs cannot be known.
    """
    if not (shutil.which("squeue") and (folder / SLURM_LOGS).is_dir()):
        return []
    done = subprocess.run(["squeue", "--me", "-h", "-t", LIVE, "-o", "%A|%j|%Z"], capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise SystemExit(f"squeue does not say which jobs of this folder are left: {said}")
    rows = (line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") > 1)
    ours = {number for number, name, path in rows if RUN.fullmatch(name) and Path(path).resolve() == folder}
    return sorted(ours - {os.environ.get("SLURM_JOB_ID")}, key=int)


def left_over(folder: Path) -> tuple[list[str], list[psutil.Process]]:
    """Return what runs for a folder: numbers of SLURM jobs, and processes of jobs on this machine."""
    return slurm_jobs(folder), [process for process in local_processes(folder) if is_job(words_of(process), folder)]


def cancel(numbers: Sequence[str], processes: Sequence[psutil.Process]) -> None:
    """End SLURM jobs and processes; a process that is still there after ten seconds is killed."""
    if numbers:
        subprocess.run(["scancel", *numbers], check=True)
    for process in processes:
        _signal(process.terminate)
    for process in psutil.wait_procs(processes, timeout=10)[1]:
        _signal(process.kill)


def _signal(send) -> None:
    """Send a signal to a process that may have ended."""
    try:
        send()
    except psutil.NoSuchProcess:
        return


def clear(folder: Path, mode: str, pause: float = 1.0) -> None:
    """Wait until nothing of a killed run is left in a folder, after ending it where ``mode`` is ``cancel``."""
    numbers, processes = left_over(folder)
    if numbers or processes:
        parts = [f"SLURM jobs {', '.join(numbers)}"] * bool(numbers)
        parts += [f"processes {', '.join(str(process.pid) for process in processes)}"] * bool(processes)
        verb = "ends" if mode == "cancel" else "waits for"
        print(f"recircuit-resume {verb} what the killed run left: {' and '.join(parts)}", file=sys.stderr, flush=True)
    if mode == "cancel":
        cancel(numbers, processes)
    while any(left := left_over(folder)):
        time.sleep(POLL if left[0] else pause)


def with_cores(words: Sequence[str]) -> list[str]:
    """Return what Snakemake is given: ``all`` where nothing is, on one core where neither cores nor a profile are named."""
    named = any(word.startswith(("-c", "-j", "--cores", "--jobs", "--workflow-profile", "--profile")) for word in words)
    return [*([] if named else ["--cores", "1"]), *(words or ["all"])]


def main() -> None:
    """Clear this folder of what a killed run left, unlock it, and run Snakemake."""
    folder = Path.cwd().resolve()
    mode, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if mode not in ("wait", "cancel"):
        raise SystemExit(f"usage: {USAGE}")
    if not (folder / "Snakefile").is_file():
        raise SystemExit(f"{folder} has no Snakefile: run recircuit-resume in the folder of the run that was killed")
    if alive := [process.pid for process in local_processes(folder) if is_main(words_of(process))]:
        raise SystemExit(f"A run is still alive in this folder (process {alive[0]}): stop it first with Ctrl-C, or let it end")
    locks = folder / ".snakemake" / "locks"
    if {path.stat().st_uid for path in locks.glob("*")} - {os.getuid()}:
        raise SystemExit(f"The run in {folder} was another user's, whose jobs only they can see and end")
    clear(folder, mode)
    snakemake = str(Path(sys.executable).with_name("snakemake"))
    unlock = subprocess.run([snakemake, "--unlock", *with_cores(words)], capture_output=True, text=True)
    if unlock.returncode:
        raise SystemExit(f"{unlock.stdout}{unlock.stderr}The folder could not be unlocked; nothing was started")
    os.execv(snakemake, [snakemake, *with_cores(words)])


if __name__ == "__main__":
    main()
