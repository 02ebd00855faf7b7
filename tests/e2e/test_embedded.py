"""An embedded model: its gates, and pruning of it equal to the paper's loop over plain hooks, decision by decision."""

import json

import pytest
import torch
from transformers import GPT2LMHeadModel

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import head, mlp
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.setting import prompts_of, select
from recircuit.methods.ablation import mean_reference
from recircuit.methods.pruning import Pruner
from recircuit.tasks.sequence_continuation import TASKS, prompts_table
from workflow import ROOT, planned, read_yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded(study):
    """The folder and the configuration of a trained model: the default study's if the project has the current one, or speck.

    Training pocket takes more than three minutes, and a study that trains it checks its gates.
    """
    target = "cache/models/pocket/model.safetensors"
    if (ROOT / target).is_file() and "train_model" not in planned(ROOT, target, "--nolock"):
        return (ROOT / target).parent, read_yaml(ROOT / "config.yaml")["models"]["pocket"]
    return study / "cache/models/speck", read_yaml(study / "configs/smoke.yaml")["models"]["speck"]


def test_gates_are_met_on_held_out_prompts(embedded):
    folder, choices = embedded
    scores = json.loads((folder / "manifest.json").read_text())["gates"]
    assert set(choices["mixture"]) & set(scores) >= set(choices["gates"]) >= {"numerals"}
    for kind, limits in choices["gates"].items():
        for metric, limit in limits.items():
            assert scores[kind][metric] >= limit


def test_the_default_study_s_model_has_a_gate_for_every_task():
    gates = read_yaml(ROOT / "config.yaml")["models"]["pocket"]["gates"]
    assert set(gates) >= {"numerals", "numwords", "months", "year_spans", "reviews", "agreement", "reflexives"}


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_pruning_of_a_trained_model_equals_the_literal_loop(embedded, task, published):
    folder, _ = embedded
    table = prompts_table(Tokenizer.load(folder), 16, 0, released=True)
    clean, corrupted = (prompts_of(select(table, task, kind), torch.device("cpu")) for kind in ("clean", "corrupted"))
    hooked = oracle.Hooked(GPT2LMHeadModel.from_pretrained(folder, local_files_only=True, dtype=torch.float64).eval())
    model = load(folder, dtype=torch.float64)
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
