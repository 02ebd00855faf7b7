"""What a user reads: mistakes are one sentence without a traceback, and the documented commands do what they say."""

import re
from collections import Counter

import pytest

from recircuit.study import inventory
from recircuit.study.compute import SPARE
from recircuit.study.tables import read_table
from workflow import (
    SMOKE,
    clone_study,
    copy_project,
    jobs_of,
    must,
    planned,
    rules,
    snakemake,
    write_yaml,
)

pytestmark = pytest.mark.slow
# Published counts of parameters.
MILLIONS = {
    "gpt2-small": 124, "gpt2-medium": 355, "llama-2-7b-chat": 6738,
    "pythia-160m": 162, "pythia-410m": 405, "pythia-1.4b": 1415, "pythia-2.8b": 2775,
}  # fmt: skip
FIGURE = "figures/sequence_continuation/{}/t1-head-drops.png"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which nothing was computed."""
    return copy_project(tmp_path_factory.mktemp("messages") / "project")


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """A finished smoke study of these tests' own."""
    return clone_study(study, tmp_path_factory.mktemp("finished") / "project")


def refusal(folder, *words):
    """Run Snakemake on a user's mistake and return all that it said; no traceback, and not exit code 0."""
    done = snakemake(folder, *words)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    return said


def lines_with(said, text):
    """Return the lines that hold a text, without time and rule in front."""
    return {re.sub(r"^\d\d:\d\d:\d\d [^:]+: ", "", line).strip() for line in said.splitlines() if text in line}


def overlay(folder, **choices):
    """Write a config file of a user's own and return the words that lay it over the others."""
    return "--configfile", "configs/smoke.yaml", str(write_yaml(folder / "mine.yaml", choices))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"sed": 1}, "config: the key 'sed' at the top level is not known; did you mean 'seed'?"),
        (
            {"sequence_continuation": {"treshold": 10}},
            "config: the key 'treshold' at sequence_continuation is not known; did you mean 'threshold'?",
        ),
        (
            {"sequence_continuation": {"models": ["specks"]}},
            "config: sequence_continuation.models names 'specks', which is not under models; did you mean 'speck'?",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence(project, tmp_path, choices, sentence):
    said = refusal(project, "-n", "all", *overlay(tmp_path, **choices))
    assert lines_with(said, "config:") == {sentence}
    assert not (project / "cache").exists()


def test_a_mistake_on_the_command_line_is_one_sentence(project):
    said = refusal(project, "-n", "all", "--config", "device=gpu")
    assert lines_with(said, "config:") == {"config: device is 'gpu'; did you mean 'cpu'?"}


def test_a_model_folder_that_is_not_there_is_one_sentence(project, tmp_path):
    folder = tmp_path / "no" / "model"
    mine = {"source": "local", "path": str(folder), "layers": 2, "heads": 4, "width": 64}
    words = overlay(tmp_path, models={"mine": mine}, sequence_continuation={"models": ["mine"]})
    assert planned(project, FIGURE.format("mine"), *words)["copy_model"] == 1
    said = refusal(project, "--cores", "1", FIGURE.format("mine"), *words)
    sentence = f"error: the model folder {folder} is not there; expected a folder in Hugging Face format"
    assert lines_with(said, "is not there") == {sentence}
    assert "rule certify_model" not in said.partition("Select jobs")[2], "nothing is tried on a model that is not there"
    assert not (project / "cache" / "models" / "mine" / "config.json").exists()


def test_a_figure_that_no_rule_makes_is_told(project):
    said = refusal(project, "-n", FIGURE.format("pocket").replace("drops", "drop"))
    assert "MissingRuleException" in said and "t1-head-drop.png" in said
    said = refusal(project, "-n", FIGURE.format("poket"))
    assert "MissingRuleException" in said and "poket" in said


def test_one_figure_is_a_target(project):
    found = planned(project, FIGURE.format("pocket"))
    assert found == Counter(
        train_model=1, seq_make_prompts=1, gt_make_prompts=1, cp_make_sentences=1, se_make_prompts=1, certify_model=1,
        seq_run_baseline=1, seq_run_means=1, seq_prune_nodes=3, seq_run_circuits=1, seq_run_single_ablations=1,
        seq_plot_head_drops=1,
    )  # fmt: skip
    assert found["all"] == 0
    light = "figures/sequence_continuation/llama-2-7b-chat/tl3-circuit-overlap.png"
    assert planned(project, light) == Counter(seq_score_published_overlaps=1, seq_plot_overlaps=1)


def test_a_figure_for_another_model_of_the_config_needs_no_other_choice(project):
    # The paper's list of models says what `all` builds, not what can be built.
    found = planned(project, FIGURE.format("pocket"), *SMOKE)
    assert found["train_model"] == 1 and found["seq_plot_head_drops"] == 1


def test_the_whole_paper_can_be_planned_without_its_models(project):
    found = planned(project, "all", "--configfile", "configs/paper.yaml")
    assert found["fetch_model"] == 7 and found["se_fetch_data"] == 1 and found["train_model"] == 0


def test_the_cluster_profile_can_be_planned(project):
    paper = ("all", "--configfile", "configs/paper.yaml", "--config", "device=cuda")
    done = must(snakemake(project, "-n", "--workflow-profile", "profiles/slurm", *paper))
    jobs = {job["rule"]: job for job in jobs_of(done.stdout)}
    assert set(jobs) == set(planned(project, *paper))
    asking = {rule.name for rule in rules() if re.search(r"\bgpu=", rule.parts["resources"])}
    for rule, job in jobs.items():
        if rule != "all":
            assert ("gpu=1" in job["resources"]) == (rule in asking), rule
            assert "slurm_account=CHANGE_ME" in job["resources"]
    # Two models are held beside each other where one is certified; on a cluster a job has what it asks for, and no more.
    asked = {
        job["wildcards"].removeprefix("model="): job["resources"] for job in jobs_of(done.stdout) if "certify" in job["rule"]
    }
    assert set(asked) >= set(MILLIONS)
    for model, millions in MILLIONS.items():
        assert int(re.search(r"mem_mb=(\d+)", asked[model])[1]) * 2**20 > 2 * SPARE * 4e6 * millions + 600e6, model


def test_a_cluster_profile_that_nobody_filled_in_is_refused(project):
    done = snakemake(project, "all", "--workflow-profile", "profiles/slurm", *SMOKE)
    assert done.returncode == 1
    lines = (project / "profiles/slurm/config.yaml").read_text(encoding="utf-8").splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "CHANGE_ME" in line)
    assert f"profiles/slurm/config.yaml, line {number}: CHANGE_ME stands for a name of your cluster" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_prints_every_item(finished):
    done = must(snakemake(finished, "--cores", "1", "list", *SMOKE))
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    assert rows[0] == ["paper", "id", "title", "model", "target", "built"]
    assert [tuple(row[:3]) for row in rows[1:]] == [(item.paper, item.id, item.title) for item in inventory.items()]
    assert {row[5] for row in rows[1:]} == {"yes"}
    assert all((finished / row[4]).is_file() for row in rows[1:])
    other = must(snakemake(finished, "--cores", "1", "list")).stdout.splitlines()
    others = [re.split(r"  +", line) for line in other[1:]]
    assert [row[5] for row in others] == ["yes" if (finished / row[4]).is_file() else "no" for row in others]
    assert {row[5] for row in others} == {"yes", "no"}, "the default study's pictures are not built, the published lists' are"


def test_trace_prints_the_tree_down_to_the_model(finished):
    done = must(snakemake(finished, "--cores", "1", "trace", "--config", f"item={FIGURE.format('speck')}"))
    lines = done.stdout.splitlines()
    files = [line.split()[0] for line in lines if "sha256" in line]
    assert files[0] == FIGURE.format("speck")
    assert lines[0].startswith(files[0]) and "rule seq_plot_head_drops" in lines[0]
    depth = {line.split()[0]: len(line) - len(line.lstrip()) for line in reversed(lines) if "sha256" in line}
    chain = [
        files[0],
        "cache/sequence_continuation/circuits/speck/published/head_drop.parquet",
        next(name for name in files if name.startswith("cache/sequence_continuation/pruning/speck/published/months/")),
    ]
    assert [depth[name] for name in chain] == [0, 2, 4]
    model = next(line for line in lines if "model.safetensors" in line)
    assert re.search(r"sha256 [0-9a-f]{12}  rule train_model  code [0-9a-f]{16}  log cache/logs/train_model/speck.log", model)
    for line in lines:
        if " log " in line:
            assert (finished / line.split(" log ")[1]).is_file()
    assert {"cache/models/speck/certificate.parquet", "cache/sequence_continuation/prompts/speck/prompts.parquet"} <= set(files)


def test_trace_explains_a_claim(finished):
    card = finished / "cache" / "report" / "scorecard.parquet"
    judged = read_table(card, "scorecard").query("verdict != 'not run'").drop_duplicates("paper").set_index("paper")
    rules_of = {"sequence_continuation": "seq_score_published_overlaps", "circuit_probing": "cp_make_arithmetic"}
    assert set(judged.index) == set(rules_of)
    for paper, rule in rules_of.items():
        explained(finished, judged.loc[paper], rule)


def explained(finished, row, rule):
    lines = must(snakemake(finished, "--cores", "1", "trace", "--config", f"item={row['id']}")).stdout.splitlines()
    numbers = f"published {row['published']}, ours {row['ours']}, {row['verdict']}"
    assert lines[0] == f"{row['id']}: {row['quantity']} ({row['model']}): {numbers}"
    assert lines[1].startswith("cache/report/scorecard.parquet")
    assert any(f"rule {rule}" in line for line in lines)


def test_trace_of_a_changed_file_says_so(study, tmp_path):
    copy = clone_study(study, tmp_path / "project")
    table = copy / "cache/sequence_continuation/circuits/speck/published/scores.parquet"
    table.write_bytes((copy / "cache/sequence_continuation/circuits/speck/fixed/scores.parquet").read_bytes())
    picture = "figures/sequence_continuation/speck/x2-size-performance.png"
    said = must(snakemake(copy, "--cores", "1", "trace", "--config", f"item={picture}")).stdout
    assert re.search(r"! cache/\S+/published/scores.parquet has changed since: it was sha256 [0-9a-f]{12}", said)
    table.unlink()
    said = must(snakemake(copy, "--cores", "1", "trace", "--config", f"item={picture}")).stdout
    assert re.search(r"- cache/\S+/published/scores.parquet  sha256 [0-9a-f]{12}  \(no longer here\)", said)


def test_trace_of_nothing_and_of_the_unknown_is_one_sentence(finished):
    said = refusal(finished, "--cores", "1", "trace", "--config", "item=figures/sequence_continuation/pocket/t1-head-drop.png")
    assert lines_with(said, "error: there is no") == {
        "error: there is no file or claim 'figures/sequence_continuation/pocket/t1-head-drop.png'; "
        "did you mean 'figures/sequence_continuation/pocket/t1-head-drops.png'?"
    }
    said = refusal(finished, "--cores", "1", "trace")
    assert len(lines_with(said, "error: trace needs an item: snakemake --cores 1 trace --config item=figures/...")) == 1


def test_trace_of_a_pdf_is_that_of_its_picture(finished):
    item = FIGURE.format("speck").replace(".png", ".pdf")
    lines = must(snakemake(finished, "--cores", "1", "trace", "--config", f"item={item}")).stdout.splitlines()
    assert "rule seq_plot_head_drops" in lines[0] and len(lines) > 1


def test_trace_of_the_scorecards_page_names_its_tables(finished):
    said = must(snakemake(finished, "--cores", "1", "trace", "--config", "item=figures/scorecard.html")).stdout
    assert "rule report_score_claims" in said.splitlines()[0]
    assert "cache/sequence_continuation/circuits/speck/published/scores.parquet" in said


def test_trace_of_a_pdf_without_its_png_is_no_traceback(study, tmp_path):
    copy = clone_study(study, tmp_path / "project")
    (copy / FIGURE.format("speck")).unlink()
    item = FIGURE.format("speck").replace(".png", ".pdf")
    done = snakemake(copy, "--cores", "1", "trace", "--config", f"item={item}")
    assert "Traceback" not in done.stdout + done.stderr


def test_a_damaged_table_is_one_sentence(study, tmp_path):
    copy = clone_study(study, tmp_path / "project")
    table = copy / "cache/sequence_continuation/circuits/speck/published/scores.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    picture = "figures/sequence_continuation/speck/x2-size-performance.png"
    said = refusal(copy, "--cores", "1", picture, *SMOKE, "--allowed-rules", "seq_plot_size_performance")
    told = lines_with(said, "is damaged")
    assert len(told) == 1
    assert told.pop().startswith(f"error: {table.relative_to(copy)} is damaged (")
    assert not (copy / picture).exists() and list(copy.rglob("*.part")) == []


def test_a_model_that_cannot_do_the_task_stops_before_the_work(tmp_path):
    copy = copy_project(tmp_path / "project")
    words = overlay(tmp_path, models={"speck": {"steps": 2, "gates": {"numerals": {"accuracy": 0.0}}}})
    said = refusal(copy, "--cores", "1", FIGURE.format("speck"), *words)
    told = lines_with(said, "error: ")
    assert len(told) == 1 and "'speck'" in (sentence := told.pop()) and "0.6" in sentence
    assert (copy / "cache/models/speck/certificate.parquet").is_file()
    assert not (copy / "cache/sequence_continuation/means").exists(), "nothing was spent on it"


def test_a_model_that_misses_its_gates_is_not_kept(tmp_path):
    copy = copy_project(tmp_path / "project")
    words = overlay(tmp_path, models={"speck": {"steps": 2, "gates": {"numerals": {"accuracy": 0.99}}}})
    said = refusal(copy, "--cores", "1", FIGURE.format("speck"), *words)
    told = lines_with(said, "error: ")
    assert len(told) == 1
    missed = r"error: model 'speck' missed its gates .*numerals accuracy 0\.\d+ < 0.99.*; raise its steps"
    assert re.fullmatch(missed, told.pop())
    assert not list((copy / "cache" / "models").rglob("model.safetensors"))
