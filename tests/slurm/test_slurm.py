"""The study on a real SLURM of one node with one counted GPU: its results, its limits, and runs that are interrupted."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from held_jobs import HOLD, HeldRun, alive, until
from workflow import SMOKE, SNAKEMAKE, copy_project, environment, full_only, must, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

# All that is this site's own beside the names in the profile: how soon the jobs are asked about.
PROFILE = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "4")
NAMES = {"'CHANGE_ME'": "recircuit", "CHANGE_ME_cpu": "main", "CHANGE_ME_gpu": "accelerated"}
PICTURE = "figures/greater_than/speck/f2-probability-heatmap.png"
TRAINED = "cache/circuit_probing/training/{}/checkpoints.safetensors"
TARGETS = [PICTURE, "cache/models/speck-llama/certificate.parquet", "cache/circuit_probing/masks/shared_nodes/cp_masks.parquet"]
GPU_RULES = ("cp_train_arithmetic", "certify_model")
# The shortest job that is submitted, and what it is behind.
RULE, TARGET = "cp_train_arithmetic", TRAINED.format("shared_nodes")


# The one GPU is counted by SLURM and is none: what was granted it must see it, and then computes on the CPU.
NO_CUDA = """
import os, sys
if os.path.basename("".join(getattr(sys, "argv", ())[:1])).startswith("tmp"):
    import recircuit.study.compute as compute
    device_of = compute.device_of
    def on_the_cpu(job):
        if getattr(job.resources, "gpu", 0):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
            job.resources.gpu = 0
        return device_of(job)
    compute.device_of = on_the_cpu
"""


@dataclass(frozen=True)
class Job:
    """A job as SLURM's accounting has it."""

    rule: str
    state: str
    submit: datetime
    start: datetime
    end: datetime
    tres: str
    memory: str
    partition: str


def accounted(folder: Path) -> list[Job]:
    """Return the ended jobs that were submitted from a folder, in the order of their submission."""
    columns = "Comment%200,State,Submit,Start,End,AllocTRES%200,ReqMem,Partition,WorkDir%300"
    words = ["sacct", "-X", "-n", "-P", "-S", "now-1day", "-o", columns]
    said = must(subprocess.run(words, capture_output=True, text=True)).stdout
    jobs = []
    for line in said.splitlines():
        comment, state, *times, tres, memory, partition, workdir = line.split("|")
        if workdir == str(folder) and "Unknown" not in times:
            rule = comment.removeprefix("rule_").partition("_wildcards_")[0]
            jobs.append(Job(rule, state, *map(datetime.fromisoformat, times), tres, memory, partition))
    return sorted(jobs, key=lambda job: job.submit)


def queued(folder: Path) -> list[str]:
    """Return the numbers of the jobs of a folder that wait or run."""
    said = must(subprocess.run(["squeue", "-h", "-o", "%A|%Z"], capture_output=True, text=True)).stdout
    return [line.partition("|")[0] for line in said.splitlines() if line.partition("|")[2] == str(folder)]


def most_at_once(jobs: list[Job]) -> int:
    """Return how many of some jobs ran at the same time, at most; one that starts in the second another ends is after it."""
    events = sorted([(job.end, -1) for job in jobs] + [(job.start, 1) for job in jobs])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


def filled_in(folder: Path) -> Path:
    """Write this cluster's names into a copy's profile, as its comments say; return the copy."""
    for path in (folder / "profiles/slurm").iterdir():
        text = path.read_text(encoding="utf-8")
        for placeholder, name in NAMES.items():
            text = text.replace(placeholder, name)
        path.write_text(text, encoding="utf-8")
    return folder


def asks(key: str, value: object, *rules: str) -> list[str]:
    """Return the words that make rules ask for something else."""
    return ["--set-resources", *(f"{rule}:{key}={value}" for rule in rules)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A part of the smoke study, built by SLURM: models trained and certified, masks, tables, a picture; seven jobs."""
    folder = filled_in(copy_project(tmp_path_factory.mktemp("site") / "project"))
    (folder / "workflow_scripts/sitecustomize.py").write_text(NO_CUDA, encoding="utf-8")
    targets = [*TARGETS, TRAINED.format("grokking")]
    must(snakemake(folder, *targets, *PROFILE, *SMOKE, *asks("gpu", 1, *GPU_RULES)))
    return folder


def test_the_tables_are_those_of_a_local_run_byte_by_byte(built, study):
    made = [path.relative_to(built) for name in ("cache", "figures") for path in (built / name).rglob("*") if path.is_file()]
    results = [path for path in made if path.parts[1] not in ("logs", "benchmarks")]
    assert {path.suffix for path in results} == {".parquet", ".safetensors", ".json", ".png", ".pdf", ".sha256"}
    assert set(TARGETS) <= set(map(str, results))
    assert [str(path) for path in results if (built / path).read_bytes() != (study / path).read_bytes()] == []


def test_what_was_short_ran_here_and_the_rest_on_the_cluster(built):
    jobs = accounted(built)
    assert {job.rule for job in jobs} == {"train_model", "certify_model", "cp_train_arithmetic", "cp_train_masks"}
    assert {job.state for job in jobs} == {"COMPLETED"}
    for job in jobs:
        assert job.partition == ("accelerated" if job.rule in GPU_RULES else "main")
        assert ("gres/gpu=1" in job.tres) == (job.rule in GPU_RULES)


def test_jobs_with_a_gpu_follow_each_other_and_others_need_not(built):
    jobs = accounted(built)
    with_gpu = [job for job in jobs if "gres/gpu=1" in job.tres]
    trainings = [job for job in with_gpu if job.rule == "cp_train_arithmetic"]
    assert max(job.submit for job in trainings) < min(job.end for job in trainings), "they wanted the GPU at the same time"
    assert most_at_once(with_gpu) == 1
    assert most_at_once([job for job in jobs if job.rule == "train_model"]) == 2, "the control: jobs without one do overlap"


@full_only
def test_the_whole_study_builds(tmp_path, study):
    folder = filled_in(copy_project(tmp_path / "project"))
    must(snakemake(folder, "all", *PROFILE, *SMOKE))
    tables = [path.relative_to(study) for path in (study / "cache").rglob("*.parquet")]
    assert len(tables) > 50
    assert [str(path) for path in tables if (folder / path).read_bytes() != (study / path).read_bytes()] == []


@full_only
def test_a_job_that_ran_out_of_memory_is_tried_again_with_twice_as_much(tmp_path):
    # The rule asks for 1600 MB; with this it needs more, but less than twice that.
    run = HeldRun(tmp_path, RULE, "ballast = bytearray(1900 << 20)\ntime.sleep(6)")
    done = must(snakemake(filled_in(run.folder), TARGET, *PROFILE, *SMOKE))
    assert [job.memory for job in accounted(run.folder)] == ["1600M", "3200M"]
    assert [job.state == "COMPLETED" for job in accounted(run.folder)] == [False, True]
    assert "ran into its limit" not in done.stdout, "it was mended without the user"
    assert (run.folder / TARGET).exists()


@full_only
def test_a_job_that_ran_out_of_memory_twice_is_named(tmp_path):
    run = HeldRun(tmp_path, RULE, "ballast = bytearray(1900 << 20)\ntime.sleep(6)")
    done = snakemake(filled_in(run.folder), TARGET, *PROFILE, *SMOKE, "--retries", "0")
    assert done.returncode == 1
    assert limit_of(done, run.folder).startswith(
        f"Rule {RULE} ran into its limit of memory, 1600 MB: give it more with --set-resources {RULE}:mem_mb=3200 (its log: "
    )


@full_only
def test_a_job_that_ran_out_of_time_is_named(tmp_path):
    run = HeldRun(tmp_path, RULE, "time.sleep(300)")
    done = snakemake(filled_in(run.folder), TARGET, *PROFILE, *SMOKE, "--retries", "0", *asks("runtime", 1, RULE))
    assert done.returncode == 1
    assert limit_of(done, run.folder).startswith(
        f"Rule {RULE} ran into its limit of time, 1 minutes: give it more with --set-resources {RULE}:runtime=2 (its log: "
    )


def limit_of(done: subprocess.CompletedProcess, folder: Path) -> str:
    """Return the one sentence about a limit that a run said, after looking that the log which it names is there."""
    (sentence,) = [line for line in (done.stdout + done.stderr).splitlines() if "ran into its limit" in line]
    log = Path(sentence.rpartition("(its log: ")[2].rstrip(")"))
    assert log.is_file() and log.is_relative_to(folder)
    return sentence


@full_only
def test_ctrl_c_cancels_the_jobs(tmp_path):
    run = HeldRun(tmp_path, RULE)
    filled_in(run.folder)
    # A program that was started in the background would ignore it.
    main = run.start("env", "--default-signal=INT", str(SNAKEMAKE), TARGET, *PROFILE, *SMOKE)
    job = run.until_started(main)
    assert queued(run.folder)
    os.killpg(main.pid, signal.SIGINT)
    said, _ = main.communicate(timeout=120)
    assert main.returncode != 0, said
    until(lambda: not queued(run.folder))
    until(lambda: not alive(job), 10)
    run.release.touch()
    must(snakemake(run.folder, TARGET, *PROFILE, *SMOKE))  # nothing is locked


@full_only
@pytest.mark.parametrize(("mode", "starts"), [("wait", 1), ("cancel", 2)])
def test_a_killed_run_goes_on_and_two_jobs_never_write_one_file(tmp_path, mode, starts):
    run = HeldRun(tmp_path, RULE, HOLD)
    filled_in(run.folder)
    main = run.start(str(SNAKEMAKE), TARGET, *PROFILE, *SMOKE)
    job = run.until_started(main)
    os.kill(main.pid, signal.SIGKILL)
    main.wait()
    finished = run.folder / "cache/circuit_probing/rows/shared_nodes/cp_rows.parquet"
    before = finished.stat().st_mtime_ns
    assert alive(job) and len(queued(run.folder)) == 1, "the job does not know that its run is gone"
    assert "lock" in snakemake(run.folder, TARGET, *PROFILE, *SMOKE).stderr
    # A job of another folder is nobody's business here, nor is one of this folder that the user submitted.
    others = {}
    for folder in (tmp_path, run.folder):
        own = ["sbatch", "--parsable", "-D", str(folder), "-o", "/dev/null", "--mem", "100", "--wrap", "sleep 240"]
        others[folder] = must(subprocess.run(own, capture_output=True, text=True)).stdout.strip()
    words = (mode, TARGET, *PROFILE, *SMOKE)
    resumed = run.start(sys.executable, "-m", "recircuit.resume", *words)
    if mode == "cancel":
        run.until_started(resumed, 2)
        assert not alive(job), "it was ended before another started"
    run.release.touch()
    said, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, said
    assert "what the killed run left: SLURM jobs" in said
    assert len(run.noted("start")) == starts
    assert (run.folder / TARGET).exists() and finished.stat().st_mtime_ns == before
    assert all(number in queued(folder) for folder, number in others.items())
    must(subprocess.run(["scancel", *others.values()], env=environment(run.folder), capture_output=True, text=True))
