"""What runs again after what: everything that a result depends on, and nothing else; told by dry-runs on a finished study."""

import ast
import os
import re
import resource
import subprocess
import tarfile
import time
from collections import Counter

import pytest

from recircuit.study.digest import modules
from workflow import (
    NOTHING,
    SCRIPTS,
    SMOKE,
    clone_study,
    environment,
    git,
    graph,
    must,
    planned,
    read_yaml,
    rules,
    snakemake,
    write_yaml,
)

pytestmark = pytest.mark.slow
SWEEP = "workflow_scripts/recircuit/methods/sweep.py"
SCORES = "cache/sequence_continuation/circuits/speck/published/scores.parquet"


@pytest.fixture
def copy(study, tmp_path):
    """A finished smoke study of the test's own."""
    return clone_study(study, tmp_path / "project")


@pytest.fixture(scope="module")
def jobs(study):
    """All jobs of the smoke study, and which of them use whose files."""
    return graph(study)


def edited(path, change):
    """Change a file's text by a function and return a function that puts the old text back."""
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")
    return lambda: path.write_text(before, encoding="utf-8")


def with_docstring(text):
    """Give a docstring to the first function that has none."""
    bare = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and ast.get_docstring(n) is None]
    first = bare[0].body[0]
    lines = text.splitlines(keepends=True)
    lines.insert(first.lineno - 1, f'{" " * first.col_offset}"""Explained at last."""\n')
    return "".join(lines)


def with_another_number(text):
    """Add one to the first whole number in the code."""
    numbers = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and type(node.value) is int)
    first = min(numbers, key=lambda node: node.lineno)
    lines = text.splitlines(keepends=True)
    line, start, end = lines[first.lineno - 1], first.col_offset, first.end_col_offset
    lines[first.lineno - 1] = f"{line[:start]}{first.value + 1}{line[end:]}"
    return "".join(lines)


def backwards(value):
    """Return a value with the keys of all its mappings in the opposite order."""
    return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def rules_whose_spec_has(*keys):
    """Return the rules whose spec names one of some keys of the configuration."""
    return {rule.name for rule in rules() if any(f'"{key}"' in rule.parts["params"] for key in keys)}


def test_a_finished_study_has_nothing_to_do_and_says_so_soon(study):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert NOTHING in must(snakemake(study, "-n", "all", *SMOKE)).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of a core, which do not depend on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_touching_every_file_runs_nothing(copy):
    files = [p for p in copy.rglob("*") if p.is_file() and not {".git", ".snakemake"} & set(p.relative_to(copy).parts)]
    assert {"Snakefile", "config.yaml", "sweep.py", "model.safetensors", "scores.parquet"} <= {path.name for path in files}
    # The first made is touched last: by time alone, all would have to run.
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for age, path in enumerate(reversed(files)):
        os.utime(path, (time.time() - age,) * 2)
    assert planned(copy) == Counter()
    assert planned(copy, "all", *SMOKE, "--rerun-triggers", "mtime", "--max-checksum-file-size", "0"), "times alone would"


def test_a_comment_and_a_docstring_run_nothing(copy):
    edited(copy / SWEEP, lambda text: with_docstring(text) + "\n# Only said, not done.\n")
    assert planned(copy) == Counter()


def test_the_order_of_keys_runs_nothing(copy):
    for name in ("config.yaml", "configs/smoke.yaml"):
        before = (copy / name).read_text(encoding="utf-8")
        assert write_yaml(copy / name, backwards(read_yaml(copy / name))).read_text(encoding="utf-8") != before
    assert next(iter(read_yaml(copy / "config.yaml"))) != "seed"
    assert planned(copy) == Counter()


def test_a_change_of_meaning_runs_what_reaches_it_and_what_follows(copy, jobs):
    first = {rule.name for rule in rules() if SCRIPTS.parent / SWEEP in modules(rule.script)}
    assert first == {"seq_run_single_ablations", "seq_prune_llama"}
    revert = edited(copy / SWEEP, with_another_number)
    found = planned(copy)
    assert found == jobs.from_rules(first)
    assert found["seq_run_single_ablations"] == 1 and found["seq_plot_single_ablations"] == 3 and found["all"] == 1
    revert()
    assert planned(copy) == Counter()


def test_a_change_in_a_figure_runs_pictures_alone(copy, jobs):
    path = "workflow_scripts/recircuit/figures/heat_table.py"
    first = {rule.name for rule in rules() if SCRIPTS.parent / path in modules(rule.script)}
    assert first and all("_plot_" in name for name in first)
    edited(copy / path, with_another_number)
    found = planned(copy)
    assert found == jobs.from_rules(first)
    assert set(found) == first | {"all"}


def test_a_change_in_a_script_runs_that_rule_and_what_follows(copy, jobs):
    edited(copy / "workflow_scripts/sequence_continuation/seq_score_overlaps.py", lambda text: text + "\nCHANGED = True\n")
    found = planned(copy)
    assert found == jobs.from_rules({"seq_score_overlaps"})
    assert found["seq_score_overlaps"] == 2


def test_a_change_in_the_config_runs_what_has_the_key_and_what_follows(copy, jobs):
    draws = re.compile(r"bootstrap_draws: \d+")  # sequence_continuation's, the first of them
    revert = edited(copy / "configs/smoke.yaml", lambda text: draws.sub("bootstrap_draws: 123", text, count=1))
    first = rules_whose_spec_has("sequence_continuation.bootstrap_draws")
    assert first == {"seq_run_single_ablations", "seq_run_circuits", "seq_patch_edges"}
    assert planned(copy) == jobs.from_rules(first)
    revert()
    assert planned(copy) == Counter()


def test_another_seed_runs_everything_that_is_random(copy, jobs):
    edited(copy / "config.yaml", lambda text: text.replace("seed: 0", "seed: 1"))
    first = rules_whose_spec_has("seed")
    assert {"train_model", "seq_make_prompts"} <= first
    assert planned(copy) == jobs.from_rules(first)


def test_exchanged_values_are_noticed(copy, jobs):
    overlay = read_yaml(copy / "configs/smoke.yaml")
    choices = read_yaml(copy / "config.yaml")["sequence_continuation"] | overlay["sequence_continuation"]
    one, other = choices["threshold"], choices["random_circuits"]
    assert one != other
    overlay["sequence_continuation"] |= {"threshold": other, "random_circuits": one}
    # One rule that has both, and nothing before it: the same two values, under each other's name.
    alone = (SCORES, "--allowed-rules", "seq_run_circuits", *SMOKE)
    assert planned(copy, *alone) == Counter()
    revert = edited(copy / "configs/smoke.yaml", lambda _: "")
    write_yaml(copy / "configs/smoke.yaml", overlay)
    assert planned(copy, *alone) == Counter(seq_run_circuits=1)
    keys = ("sequence_continuation.threshold", "sequence_continuation.random_circuits")
    assert planned(copy) == jobs.from_rules(rules_whose_spec_has(*keys))
    revert()
    assert planned(copy) == Counter()


def test_a_changed_data_file_runs_who_reads_it_and_what_follows(copy, jobs):
    prompts = copy / "workflow_scripts/recircuit/tasks/data/sequence_continuation/clean_prompts.csv"
    edited(prompts, lambda text: text.replace(",Sun,", ",Sea,", 1))
    assert planned(copy) == jobs.from_rules({"seq_make_prompts"})


def test_a_changed_claim_runs_the_scorecard(copy, jobs):
    claims = copy / "workflow_scripts/recircuit/study/claims/sequence_continuation.csv"
    edited(claims, lambda text: text.replace(",0.002,", ",0.003,", 1))
    assert planned(copy) == jobs.from_rules({"report_score_claims"})


def test_a_changed_caption_runs_its_picture(copy):
    path = copy / "workflow_scripts/recircuit/study/inventory.yaml"
    edited(path, lambda text: text.replace("title: Size against performance", "title: Size and performance"))
    assert planned(copy) == Counter(seq_plot_size_performance=1, all=1)


def test_a_deleted_picture_is_one_job(copy):
    picture = copy / "figures/sequence_continuation/speck/x1-pruning-path.png"
    content = picture.read_bytes()
    picture.unlink()
    assert planned(copy) == Counter(seq_plot_pruning_path=1, all=1)
    picture.write_bytes(content)
    assert planned(copy) == Counter()


def test_a_changed_table_runs_what_follows(copy, jobs):
    table = copy / "cache/sequence_continuation/ablations/speck/single_ablation.parquet"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    found = planned(copy)
    assert found == jobs.from_rules({"seq_run_single_ablations"}) - Counter(seq_run_single_ablations=1)


def test_a_cache_on_a_fresh_clone_is_up_to_date(study, tmp_path):
    with tarfile.open(tmp_path / "computed.tar", "w") as tar:
        for name in ("cache", "figures"):
            tar.add(study / name, name)
    git(tmp_path, "clone", "--quiet", str(study), "clone")
    clone = tmp_path / "clone"
    assert not (clone / "cache").exists()
    assert planned(clone)["all"] == 1, "without the cache there is much to do"
    with tarfile.open(tmp_path / "computed.tar") as tar:
        tar.extractall(clone, filter="data")
    assert NOTHING in must(snakemake(clone, "-n", "all", *SMOKE)).stdout


def test_a_job_runs_the_code_of_its_own_checkout(copy):
    for path in ("workflow_scripts/report/list.py", "workflow_scripts/recircuit/study/lineage.py"):
        edited(copy / path, lambda text, path=path: f'{text}\nprint("{path} of", __import__("recircuit").__file__)\n')
    said = must(snakemake(copy, "--cores", "1", "list")).stdout
    package = copy / "workflow_scripts/recircuit/__init__.py"
    assert f"workflow_scripts/report/list.py of {package}" in said
    assert f"workflow_scripts/recircuit/study/lineage.py of {package}" in said


def test_a_checkout_uses_its_own_library_whoever_started_snakemake(copy):
    # As typed in a second checkout while the first one's environment is active.
    env = environment(copy)
    del env["PYTHONPATH"]
    words = [env["PATH"].split(os.pathsep)[0] + "/snakemake", "-n", "all", *SMOKE]
    done = must(subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True))
    assert NOTHING in done.stdout
