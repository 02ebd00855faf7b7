"""What a run on a cluster says: placeholders that nobody filled in, and the limits that its jobs ran into."""

import pytest

from recircuit.core.errors import UserError
from recircuit.study.cluster import Failure, advice, check_profile, explain, failures
from workflow import ROOT

# As Snakemake 9.27 writes it, with the executor for SLURM 2.8: job 3 fails twice, job 4 once and is then done.
JOB = """[Sat Nov 21 23:07:55 2026]
rule {rule}:
    input: cache/a.parquet
    output: cache/b.parquet
    log: cache/logs/{rule}/speck.log
    jobid: {job}
    reason: Missing output files: cache/b.parquet
    wildcards: model=speck
    resources: tmpdir=<TBD>, disk_mb=1000, mem_mb={memory}, mem=2 GB, slurm_account=lab, runtime={minutes}, gpu=0
Job {job} has been submitted with SLURM jobid {number} (log: {folder}/{number}.log).
"""
ERROR = """[Sat Nov 21 23:08:36 2026]
Error in rule {rule}:
    message: SLURM-job '{number}' failed, SLURM status is: '{state}'. Detailed failure reason unavailable.
    jobid: {job}
    input: cache/a.parquet
    log: cache/logs/{rule}/speck.log, {folder}/{number}.log (check log file(s) for error details)
    external_jobid: {number}
"""
DONE = """[Sat Nov 21 23:09:36 2026]
Finished jobid: 4 (Rule: train_model)
"""
KILLED = "slurmstepd-n: error: StepId=1.0 exceeded memory limit (2265686016 > 2097152000), being killed\n"
LATE = "slurmstepd: error: *** JOB 9 ON n CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME LIMIT ***\n"


def written(folder, *ends):
    """Write the log of a run whose jobs ended so, and SLURM's logs of them; return the former's path."""
    text = "Building DAG of jobs...\n"
    for number, (rule, job, state, slurm, memory, minutes) in enumerate(ends):
        facts = {"rule": rule, "job": job, "number": number, "state": state, "folder": folder}
        text += JOB.format(memory=memory, minutes=minutes, **facts) + ERROR.format(**facts)
        (folder / f"{number}.log").write_text(slurm, encoding="utf-8")
    path = folder / "snakemake.log"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_failed_run_names_rule_limit_key_and_log(tmp_path, capsys):
    log = written(
        tmp_path,
        ("seq_prune_nodes", 3, "FAILED", KILLED, 2000, 10),
        ("seq_prune_nodes", 3, "FAILED", KILLED, 4000, 20),
        ("gt_run_circuits", 5, "TIMEOUT", LATE, 2000, 30),
        ("gt_run_tasks", 6, "OUT_OF_MEMORY", "", 3000, 30),
        ("se_fit_das", 7, "FAILED", "ValueError: no such head\n", 3000, 30),
    )
    explain([str(log)])
    assert capsys.readouterr().out.splitlines() == [
        "Rule seq_prune_nodes ran into its limit of memory, 4000 MB: give it more with "
        f"--set-resources seq_prune_nodes:mem_mb=8000 (its log: {tmp_path}/1.log)",
        "Rule gt_run_circuits ran into its limit of time, 30 minutes: give it more with "
        f"--set-resources gt_run_circuits:runtime=60 (its log: {tmp_path}/2.log)",
        "Rule gt_run_tasks ran into its limit of memory, 3000 MB: give it more with "
        f"--set-resources gt_run_tasks:mem_mb=6000 (its log: {tmp_path}/3.log)",
    ]


def test_a_job_that_ended_well_when_tried_again_is_not_named(tmp_path, capsys):
    log = written(tmp_path, ("train_model", 4, "FAILED", KILLED, 2000, 10))
    assert [failure.rule for failure in failures(log.read_text())] == ["train_model"]
    log.write_text(log.read_text() + DONE, encoding="utf-8")
    explain([str(log)])
    assert capsys.readouterr().out == ""


def test_a_log_that_is_gone_leaves_what_slurm_called_the_end():
    failure = Failure("train_model", "gone.log", "TIMEOUT", "?", "?")
    assert "train_model:runtime=..." in advice(failure, "")
    assert advice(Failure("train_model", "gone.log", "FAILED", "1", "1"), "") is None


def test_a_run_without_slurm_says_nothing(tmp_path, capsys):
    explain([str(tmp_path / "gone.log")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", ["--workflow-profile {}", "--workflow-profile={}", "all --profile {} --jobs 3"])
def test_a_profile_that_nobody_filled_in_is_refused_in_one_sentence(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        UserError, match=r"^profiles/slurm/config.yaml, line \d+: CHANGE_ME .* \(slurm_account: .*; write the name"
    ):
        check_profile(words.format("profiles/slurm").split())


def test_partitions_are_asked_for_after_the_account(tmp_path):
    for name in ("config.yaml", "partitions.yaml"):
        text = (ROOT / "profiles/slurm" / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("'CHANGE_ME'", "'lab'"), encoding="utf-8")
    with pytest.raises(UserError, match=r"partitions.yaml, line \d+: CHANGE_ME .*CHANGE_ME_cpu"):
        check_profile(["--workflow-profile", str(tmp_path)])
    text = (tmp_path / "partitions.yaml").read_text(encoding="utf-8")
    (tmp_path / "partitions.yaml").write_text(text.replace("CHANGE_ME", "lab"), encoding="utf-8")
    check_profile(["--workflow-profile", str(tmp_path)])


@pytest.mark.parametrize(
    "words", ["-n --workflow-profile profiles/slurm", "--cores 1 all", "--workflow-profile none", "--profile"]
)
def test_other_command_lines_pass(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_profile(words.split())
