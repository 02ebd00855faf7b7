"""``recircuit-resume`` after a run on this machine was killed: its jobs are found, waited for or ended, and the run goes on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from held_jobs import HeldRun, alive, until
from recircuit.resume import clear, is_job, is_main, left_over, local_processes, slurm_jobs, with_cores
from workflow import SMOKE, SNAKEMAKE

pytestmark = pytest.mark.slow
TABLE = "cache/circuit_probing/rows/shared_nodes/cp_rows.parquet"
RULE = "cp_make_arithmetic"


def killed(run):
    """Start a run and kill Snakemake's own process, and nothing else, while its job runs; return the job's process."""
    main = run.start(str(SNAKEMAKE), "--cores", "1", TABLE, *SMOKE)
    job = run.until_started(main)
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    return job


def resume(run, *words):
    """Start the command under test."""
    return run.start(sys.executable, "-m", "recircuit.resume", *words)


@pytest.fixture
def run(tmp_path):
    """A copy of the project; whatever a test leaves running in it is let go."""
    run = HeldRun(tmp_path, RULE)
    yield run
    run.release.touch()
    for process in local_processes(run.folder):
        process.kill()


def test_wait_lets_the_job_end_before_another_starts(run):
    job = killed(run)
    assert alive(job), "the job lives on"
    waiting = threading.Thread(target=clear, args=(run.folder, "wait", 0.1), daemon=True)
    waiting.start()
    resumed = resume(run, "wait", "--cores", "1", TABLE, *SMOKE)
    time.sleep(2)
    assert waiting.is_alive() and run.noted("start") == [job], "nothing starts beside it"
    assert not (run.folder / TABLE).exists()
    run.release.touch()
    said, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert f"waits for what the killed run left: processes {job}" in said
    waiting.join(10)
    assert not waiting.is_alive()
    assert run.notes.read_text().splitlines()[:2] == [f"start {job}", f"end {job}"]
    assert (run.folder / TABLE).exists()


def test_cancel_ends_the_job_and_nothing_of_another_folder(run, tmp_path):
    (tmp_path / "other").mkdir()
    sleeper = "import sys, time; time.sleep(300)"
    scripts = str(run.folder / ".snakemake/scripts/x.py")
    elsewhere = subprocess.Popen([sys.executable, "-c", sleeper, scripts], cwd=tmp_path / "other")
    unrelated = subprocess.Popen([sys.executable, "-c", sleeper], cwd=run.folder)
    try:
        job = killed(run)
        resumed = resume(run, "cancel", "--cores", "1", TABLE, *SMOKE)
        until(lambda: len(run.noted("start")) == 2)
        assert not alive(job), "ended before another started"
        run.release.touch()
        said, _ = resumed.communicate(timeout=120)
        assert resumed.returncode == 0, said
        assert (run.folder / TABLE).exists()
        assert elsewhere.poll() is None and unrelated.poll() is None
    finally:
        for process in (elsewhere, unrelated):
            process.kill()
            process.wait()


def test_a_run_that_is_alive_is_left_alone(run):
    main = run.start(str(SNAKEMAKE), "--cores", "1", TABLE, *SMOKE)
    run.until_started(main)
    for mode in ("wait", "cancel"):
        refused = resume(run, mode, "--cores", "1", TABLE, *SMOKE)
        said, _ = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert said == f"A run is still alive in this folder (process {main.pid}): stop it first with Ctrl-C, or let it end\n"
    _, processes = left_over(run.folder)
    assert [process.pid for process in processes] == run.noted("start")
    run.release.touch()
    said, _ = main.communicate(timeout=120)
    assert main.returncode == 0, said


def test_words_that_are_no_command_are_refused(run, tmp_path):
    for words in ((), ("stop",), ("--cores", "1")):
        refused = resume(run, *words)
        assert refused.communicate(timeout=60)[0] == "usage: recircuit-resume wait|cancel [what snakemake was given]\n"
        assert refused.returncode == 1


def test_command_lines_are_told_apart(tmp_path):
    main = ["/venv/bin/python3", "/venv/bin/snakemake", "--cores", "2", "all"]
    module = ["python", "-u", "/lib/snakemake/__main__.py", "all"]
    child = ["python", "-m", "snakemake", "--snakefile", "Snakefile", "--target-jobs", "a:model=x"]
    script = ["/venv/bin/python3", str(tmp_path / ".snakemake/scripts/tmpx.gt_run_tasks.py")]
    assert is_main(main) and is_main(module) and is_main(["python", "-m", "snakemake", "all"])
    assert is_main([*main, "status"]) and is_main(["python", "-X", "dev", "-m", "snakemake", "all"]), "locks the folder"
    assert not is_main(child) and not is_main(script) and not is_main(["man", "snakemake"])
    for looking in ([*main, "-n"], [*main, "-np"], [*main[:-1], "status"], [*main[:-1], "verify"]):
        assert not is_main(looking)
    assert is_job(child, tmp_path) and is_job(script, tmp_path)
    assert not is_job(main, tmp_path) and not is_job(script, tmp_path / "other") and not is_job([], tmp_path)


def test_without_words_all_is_built():
    assert with_cores([]) == ["--cores", "1", "all"]
    assert with_cores(["--workflow-profile", "profiles/slurm"]) == ["--workflow-profile", "profiles/slurm"]
    assert with_cores(["--cores=2", "list"]) == ["--cores=2", "list"]
    assert with_cores(["-j8", "all"]) == ["-j8", "all"]


def test_of_slurm_s_jobs_those_that_a_run_of_the_folder_submitted_are_its_own(tmp_path, monkeypatch):
    run = "1f0c2a34-5b6d-4e7f-8091-a2b3c4d5e6f7"
    rows = [
        (7, run, tmp_path),
        (8, f"night_{run}", tmp_path),
        (9, "wrap", tmp_path),
        (10, run, "/elsewhere"),
        (11, run, tmp_path),
    ]
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\n" + "".join(f"echo '{number}|{name}|{folder}'\n" for number, name, folder in rows))
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    assert slurm_jobs(tmp_path) == [], "no run here has used SLURM"
    (tmp_path / ".snakemake" / "slurm_logs").mkdir(parents=True)
    assert slurm_jobs(tmp_path) == ["7", "8"]
    squeue.write_text("#!/bin/sh\necho it is down >&2\nexit 1\n")
    with pytest.raises(SystemExit, match="squeue does not say which jobs of this folder are left: it is down"):
        slurm_jobs(tmp_path)
