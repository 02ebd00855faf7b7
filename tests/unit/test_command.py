"""The environment's ``snakemake`` command: targets behind ``key=value`` options are kept from them, nothing else moves."""

import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.cli import get_argument_parser

from recircuit.command import KEY_VALUE_OPTIONS, lock_nothing, targets_first
from workflow import copy_project, environment, must, planned, snakemake


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which nothing was computed."""
    return copy_project(tmp_path_factory.mktemp("command") / "project")


@pytest.mark.parametrize(
    ("typed", "added"),
    [
        ("--cores 1 status", True),
        ("--cores 1 status --configfile configs/smoke.yaml", True),
        ("--cores 1 prune --config yes=true", True),
        ("trace --cores 1 --config item=figures/a.png", True),
        ("--cores 1 -- list", True),
        ("--cores 1 all", False),
        ("--cores 1 list all", False),
        ("--cores 1 status figures/a.png", False),
        ("--cores 1 --configfile status.yaml", False),
    ],
)
def test_targets_that_only_look_take_no_lock(typed, added):
    words = shlex.split(typed)
    assert lock_nothing(words) == ["--nolock"] * added + words


@pytest.mark.parametrize("target", ["list", "status", "prune", "verify"])
def test_looking_leaves_the_locks_of_another_run(project, target):
    lock = project / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("cache/models/pocket/model.safetensors\n", encoding="utf-8")
    must(snakemake(project, "--cores", "1", target))
    assert lock.read_text(encoding="utf-8") == "cache/models/pocket/model.safetensors\n"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("--cores 1 --resources gpu=1 all", "all --cores 1 --resources gpu=1"),
        (
            "--cores 1 --resources gpu=1 all --configfile configs/paper.yaml",
            "all --cores 1 --resources gpu=1 --configfile configs/paper.yaml",
        ),
        ("--cores 1 --resources gpu=1 mem_mb=100 all list", "all list --cores 1 --resources gpu=1 mem_mb=100"),
        ("--cores 1 trace --config item=figures/a.png", "--cores 1 trace --config item=figures/a.png"),
        ("--config item=figures/a.png trace --cores 1", "trace --config item=figures/a.png --cores 1"),
        ("-C seed=1 device=cpu all", "all -C seed=1 device=cpu"),
        ("--set-threads a=1 b=2 figures/a.png", "figures/a.png --set-threads a=1 b=2"),
        ("--set-resources a:mem_mb=1 all -n", "all --set-resources a:mem_mb=1 -n"),
        ("--default-resources mem_mb=1 all", "all --default-resources mem_mb=1"),
        ("--res gpu=1 all", "all --res gpu=1"),
        ("--resources gpu=1 one two --config a=b three", "one two three --resources gpu=1 --config a=b"),
    ],
)
def test_targets_behind_pairs_come_first(typed, passed):
    assert targets_first(shlex.split(typed)) == shlex.split(passed)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "all --cores 1 --resources gpu=1",
        "--cores 1 --resources=gpu=1 all",
        "--resources gpu=1 --cores 1 all",
        "--cores 1 list",
        "-n --workflow-profile profiles/slurm all",
        "--set-threads a=1 b=2 --cores 2",
        "--rerun-triggers mtime params -- all",
        "--resources gpu=1 -- all",
        "--report report.zip --configfile configs/smoke.yaml",
        "-n figures/greater_than/pocket/a=b.png",
    ],
)
def test_other_command_lines_stay_as_they_are(typed):
    assert targets_first(shlex.split(typed)) == shlex.split(typed)


words = st.sampled_from(
    ["all", "figures/a.png", "gpu=1", "seed=2", "-n", "--cores", "1", "--resources", "--config", "--res=a=1"]
)


@given(st.lists(words, max_size=8))
def test_no_word_is_lost_and_a_second_pass_changes_nothing(typed):
    once = targets_first(typed)
    assert sorted(once) == sorted(typed)
    assert targets_first(once) == once
    assert [word for word in once if word.startswith("-")] == [word for word in typed if word.startswith("-")]


@given(st.lists(words, max_size=8))
def test_no_target_is_left_to_a_pair_option(typed):
    option = None
    for word in targets_first(typed):
        if word.startswith("-"):
            option = word
        else:
            assert option not in KEY_VALUE_OPTIONS or "=" in word


def pair_options():
    """Return Snakemake's options that take any number of words with an equals sign."""
    greedy = [action for action in get_argument_parser()._actions if action.nargs in ("+", "*") and action.option_strings]
    return {name for action in greedy if "=" in str(action.metavar) for name in action.option_strings}


def test_every_pair_option_of_snakemake_is_known():
    assert pair_options() and pair_options() == KEY_VALUE_OPTIONS - {"--groups", "--group-components"}


@pytest.mark.parametrize("option", ["--groups", "--group-components"])
def test_pair_options_that_snakemake_does_not_show_as_such_are_known(option):
    assert targets_first([option, "a=1", "all"]) == ["all", option, "a=1"]


@pytest.mark.slow
def test_the_documented_command_runs_as_typed(project):
    words = ("--cores", "1", "--resources", "gpu=1", "-n", "all")
    assert must(snakemake(project, *words)).stdout.count("This was a dry-run") == 1
    verbatim, first = planned(project, "--cores", "1", "--resources", "gpu=1", "all"), planned(project, "all", "--cores", "1")
    assert verbatim == first
    assert verbatim["all"] == 1 and verbatim["seq_prune_nodes"] == 6


@pytest.mark.slow
def test_the_repair_is_still_needed(project):
    # Snakemake's own command takes the target for a resource; when it no longer does, command.py can go.
    words = [sys.executable, "-m", "snakemake", "--cores", "1", "-n", "--resources", "gpu=1", "all"]
    done = subprocess.run(words, cwd=project, env=environment(project), capture_output=True, text=True)
    assert done.returncode != 0 and "dictionary update sequence" in done.stderr + done.stdout
