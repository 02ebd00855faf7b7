"""``status`` and ``prune`` on a finished study: what they say is what a dry-run would do, and nothing needed is removed."""

import re
import resource

import pytest

from workflow import NOTHING, SMOKE, clone_study, jobs_of, must, planned, snakemake, write_yaml

pytestmark = pytest.mark.slow
SCORES = "cache/sequence_continuation/circuits/speck/published/scores.parquet"
PICTURE = "figures/sequence_continuation/speck/x2-size-performance.png"
FILES = [("--configfile", "configs/smoke.yaml", name) for name in ("bare.yaml", "quoted.yaml")]
STATES = ("built", "stale", "missing", "failed", "running")


@pytest.fixture
def copy(study, tmp_path):
    """A finished smoke study of the test's own."""
    return clone_study(study, tmp_path / "project")


def status(folder, *words):
    """Return what ``status`` says: (state, why) by picture, and its last line."""
    said = must(snakemake(folder, "--cores", "1", "status", *(words or SMOKE))).stdout.splitlines()
    rows = [line.split(maxsplit=2) for line in said if line.split()[1].startswith("figures/")]
    assert {row[0] for row in rows} <= set(STATES)
    return {row[1]: (row[0], "".join(row[2:])) for row in rows}, said[-1]


def computed(folder):
    """Return everything computed, with times."""
    files = [path for name in ("cache", "figures") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def edit(path, old, new):
    """Replace a text in a file once."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def flip(path):
    """Change a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_finished_study_is_built_soon_and_untouched(study):
    before = computed(study)
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows, last = status(study)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert {state for state, _ in rows.values()} == {"built"} and last.endswith("0 running; 0 jobs to run")
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 10
    assert computed(study) == before
    assert NOTHING in must(snakemake(study, "-n", "all", *SMOKE)).stdout


CHANGES = {
    "code": (
        lambda copy: edit(copy / "workflow_scripts/recircuit/methods/sweep.py", "\n\n\n", "\n\n\nCHANGED = True\n\n\n"),
        "figures/sequence_continuation/speck/fa4-single-ablation-numerals.png",
        r"code: seq_run_single_ablations; 2 jobs to run",
    ),
    "config": (
        lambda copy: edit(copy / "configs/smoke.yaml", "bootstrap_draws: 100", "bootstrap_draws: 123"),
        PICTURE,
        r"config: sequence_continuation\.bootstrap_draws \(was 100, is 123\); \d+ jobs to run",
    ),
    "data": (
        lambda copy: edit(
            copy / "workflow_scripts/recircuit/tasks/data/sequence_continuation/clean_prompts.csv", ",Sun,", ",Sea,"
        ),
        PICTURE,
        r"data: sequence_continuation/clean_prompts\.csv; \d+ jobs to run",
    ),
    "model": (
        lambda copy: flip(copy / "cache/models/speck/model.safetensors"),
        PICTURE,
        r"model: cache/models/speck/model\.safetensors has changed; \d+ jobs to run",
    ),
    "table": (lambda copy: flip(copy / SCORES), PICTURE, rf"data: {SCORES} has changed; 1 job to run"),
    "gone": (lambda copy: (copy / SCORES).unlink(), PICTURE, rf"data: {SCORES} is missing; \d+ jobs to run"),
    "weights gone": (  # as in Snakemake, nothing that is there misses them
        lambda copy: (copy / "cache/models/speck/model.safetensors").unlink(),
        PICTURE,
        "",
    ),
    "caption": (
        lambda copy: edit(
            copy / "workflow_scripts/recircuit/study/inventory.yaml", "title: Size against performance", "title: Size and"
        ),
        PICTURE,
        r"text: title of seq_plot_size_performance; 1 job to run",
    ),
    "claims": (
        lambda copy: edit(copy / "workflow_scripts/recircuit/study/claims/sequence_continuation.csv", ",0.002,", ",0.003,"),
        "figures/scorecard.html",
        r"data: claims.sequence_continuation; 1 job to run",
    ),
    "picture": (lambda copy: (copy / PICTURE).unlink(), PICTURE, r"1 job to run"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_status_names_the_reason_and_agrees_with_a_dry_run(copy, kind):
    change, target, why = CHANGES[kind]
    change(copy)
    rows, last = status(copy)
    assert re.fullmatch(why, rows[target][1]), rows[target]
    assert rows[target][0] == {"picture": "missing", "weights gone": "built"}.get(kind, "stale")
    would = jobs_of(must(snakemake(copy, "-n", "all", *SMOKE)).stdout)
    made = {path for job in would for path in job.get("output", "").split(", ")}
    assert {path for path, (state, _) in rows.items() if state != "built"} == made & set(rows)
    left = len([job for job in would if job["rule"] not in ("all", "report_write_manifest")])
    assert last.endswith(f"; {left} job{'s' * (left != 1)} to run")


def test_a_job_that_failed_shows_why(copy):
    table = copy / SCORES
    table.write_bytes(table.read_bytes()[:-100])
    done = snakemake(copy, "--cores", "1", PICTURE, *SMOKE, "--allowed-rules", "seq_plot_size_performance")
    assert done.returncode == 1 and not (copy / PICTURE).exists()
    rows, last = status(copy)
    state, why = rows[PICTURE]
    assert state == "failed" and why.startswith(f"seq_plot_size_performance speck: error: {SCORES} is damaged (")
    assert "1 failed" in last


def test_prune_of_a_finished_study_finds_nothing(copy):
    before = computed(copy)
    said = must(snakemake(copy, "--cores", "1", "prune", *SMOKE, "--config", "yes=true")).stdout
    assert said.splitlines() == ["0 files of 0 bytes removed"]
    assert computed(copy) == before
    assert planned(copy) == {}


def test_prune_removes_what_is_left_over_and_nothing_else(copy, tmp_path):
    before = computed(copy)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (copy / "cache/greater_than/retired/speck").mkdir(parents=True)
    (copy / "cache/greater_than/retired/speck/old.parquet").write_bytes(b"12345")
    (copy / "cache/logs/retired.log").write_text("12")
    (copy / "figures/away").symlink_to(tmp_path / "elsewhere")
    listed = must(snakemake(copy, "--cores", "1", "prune", *SMOKE)).stdout.splitlines()
    names = ["cache/greater_than/retired/speck/old.parquet", "cache/logs/retired.log", "figures/away"]
    assert [line.split()[1] for line in listed[:-1]] == names and listed[-1].startswith("3 files of ")
    assert (copy / names[0]).is_file() and (copy / names[1]).is_file() and (copy / names[2]).is_symlink()
    must(snakemake(copy, "--cores", "1", "prune", *SMOKE, "--config", "yes=true"))
    assert computed(copy) == before and not (copy / "cache/greater_than/retired").exists()
    assert (tmp_path / "elsewhere" / "precious").is_file() and not (copy / names[2]).is_symlink()
    assert planned(copy) == {}


def test_prune_of_another_configuration_leaves_what_that_one_needs(copy):
    listed = must(snakemake(copy, "--cores", "1", "prune")).stdout.splitlines()
    names = {line.split()[1] for line in listed[:-1]}
    assert SCORES in names and "cache/models/speck/model.safetensors" in names
    assert "figures/sequence_continuation/llama-2-7b-chat/tl3-circuit-overlap.png" not in names
    assert not any("disambiguation" in name for name in names), "models without a choice of their own are needed"
    assert "(models pocket, pocket-llama)" in listed[-1]


def test_a_model_that_no_paper_lists_keeps_its_files(copy, tmp_path):
    nobody = {"sequence_continuation": {"models": ["pocket"]}, "greater_than": {"models": []}}
    overlay = "--configfile", "configs/smoke.yaml", str(write_yaml(tmp_path / "mine.yaml", nobody))
    said = must(snakemake(copy, "--cores", "1", "prune", *overlay)).stdout
    assert said.startswith("0 files of 0 bytes")


@pytest.mark.parametrize("words", [("--config", "yes=maybe"), ("--config", "yes=True"), *FILES])
def test_yes_is_true_or_false_and_from_the_command_line(copy, words):
    (copy / "bare.yaml").write_text("yes: true\n", encoding="utf-8")
    (copy / "quoted.yaml").write_text('"yes": true\n', encoding="utf-8")
    before = computed(copy)
    done = snakemake(copy, "--cores", "1", "prune", *words)
    told = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("config: ")]
    assert done.returncode == 1 and len(told) == 1 and "Traceback" not in done.stdout + done.stderr
    assert computed(copy) == before
