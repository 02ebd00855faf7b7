"""The embedded model: its gates, and pruning of it equal to the paper's loop over plain hooks, decision by decision."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import GPT2LMHeadModel

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import head, mlp
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.setting import prompts_of, select
from recircuit.methods.ablation import mean_reference
from recircuit.methods.pruning import Pruner
from recircuit.tasks.sequence_continuation import TASKS, prompts_table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """The default study's model, trained by its rule (about two minutes) unless the project's cache has the current one."""
    target = "cache/models/pocket/model.safetensors"
    command = [sys.executable, "-m", "snakemake", target, "--cores", "1", "--quiet", "all"]
    fresh = subprocess.run([*command, "-n"], cwd=ROOT, capture_output=True, text=True, check=True)
    if (ROOT / target).is_file() and "train_model" not in fresh.stdout + fresh.stderr:
        return (ROOT / target).parent
    copy = tmp_path_factory.mktemp("pocket")
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy)
    for name in ("rules", "workflow_scripts", "profiles", "envs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run(command, cwd=copy, check=True)
    return (copy / target).parent


def test_gates_are_met_on_held_out_prompts(pocket):
    gates = yaml.safe_load((ROOT / "config.yaml").read_text())["models"]["pocket"]["gates"]
    scores = json.loads((pocket / "manifest.json").read_text())["gates"]
    assert set(gates) >= {"numerals", "numwords", "months", "year_spans", "reviews", "agreement", "reflexives"}
    for kind, limits in gates.items():
        for metric, limit in limits.items():
            assert scores[kind][metric] >= limit


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_pruning_of_pocket_equals_the_literal_loop(pocket, task, published):
    table = prompts_table(Tokenizer.load(pocket), 16, 0, released=True)
    clean, corrupted = (prompts_of(select(table, task, kind), torch.device("cpu")) for kind in ("clean", "corrupted"))
    hooked = oracle.Hooked(GPT2LMHeadModel.from_pretrained(pocket, local_files_only=True, dtype=torch.float64).eval())
    model = load(pocket, dtype=torch.float64)
    layers, heads = model.spec.n_layers, model.spec.n_heads
    extra = corrupted.tokens if published else None
    _, zs, outs = hooked.run(corrupted.tokens)
    z_means, mlp_means = [z.mean(0) for z in zs], [out.mean(0) for out in outs]

    def difference(logits):
        return logits[:, 0] - logits[:, 1]

    full = difference(oracle.answer_logits(hooked.run(clean.tokens)[0], clean.end, clean.answers)).mean()

    def score(kept_heads, kept_mlps):
        args = (clean.tokens, clean.end, clean.answers, kept_heads, kept_mlps, z_means, mlp_means, extra)
        return float(100 * difference(oracle.circuit_logits(hooked, *args)).mean() / full)

    rows, kept_heads, kept_mlps = oracle.literal_pruning(score, layers, heads, 20)
    pruner = Pruner(model, clean, mean_reference(model, corrupted.tokens, "position", 16), 20, 16, corrupted=extra)
    decisions = pruner.run()
    assert len(decisions) == len(rows)
    for ours, (iteration, direction, component, value, removed) in zip(decisions, rows, strict=True):
        node = head(*component) if isinstance(component, tuple) else mlp(component)
        assert (ours.iteration, ours.direction, ours.node, ours.removed) == (iteration, direction, node, removed)
        assert abs(ours.score - value) < 1e-8
    assert (pruner.circuit.heads(), pruner.circuit.mlps()) == (sorted(kept_heads), sorted(kept_mlps))
