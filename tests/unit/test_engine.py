"""The forward pass, every ablation and every tail against transformers with plain hooks, in float64 to 1e-10."""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import Circuit
from recircuit.methods import ablation
from recircuit.methods.ablation import Prompts
from recircuit.methods.sweep import all_nodes, sweep_nodes
from recircuit.runs.forward import forward, run_with_cache

N, T, VOCAB = 19, 9, 50


@pytest.fixture(scope="module")
def hooked():
    return oracle.Hooked(oracle.random_gpt2())


@pytest.fixture(scope="module")
def model(hooked, tmp_path_factory):
    return load(oracle.save(hooked.model, tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(1)
    tokens, corrupted = (torch.randint(VOCAB, (N, T), generator=rng) for _ in range(2))
    return tokens, corrupted, torch.randint(VOCAB, (N, 2), generator=rng)


def ends(kind: str) -> torch.Tensor:
    return torch.full((N,), T - 1) if kind == "last" else torch.arange(N) % (T - 2) + 2


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_forward_equals_transformers(data, end, activation, tmp_path):
    slow = oracle.random_gpt2(activation=activation, seed=3)
    fast = load(oracle.save(slow, tmp_path), dtype=torch.float64)
    tokens, _, answers = data
    with torch.no_grad():
        expected = slow(tokens).logits[torch.arange(N), ends(end)]
    assert (forward(fast, tokens, ends(end)) - expected).abs().max() < 1e-10
    assert (forward(fast, tokens, ends(end), answers) - expected.gather(1, answers)).abs().max() < 1e-10


def test_single_precision_is_close(hooked, data, tmp_path):
    fast = load(oracle.save(hooked.model, tmp_path), dtype=torch.float32)
    tokens, _, answers = data
    with torch.no_grad():
        expected = oracle.answer_logits(hooked.model(tokens).logits, ends("last"), answers)
    assert (forward(fast, tokens, ends("last"), answers) - expected).abs().max() < 1e-5


def test_cache_holds_what_the_hooks_see(hooked, model, data):
    _, zs, outs = hooked.run(data[0])
    with torch.inference_mode():
        cache = run_with_cache(model, data[0])
    for layer in range(3):
        assert (cache.z[layer] - zs[layer]).abs().max() < 1e-10
        assert (cache.mlp[layer] - outs[layer]).abs().max() < 1e-10


def references(hooked, model, data):
    """Every kind of reference: ours, and the hooks' values of z and MLP output per layer."""
    _, corrupted, _ = data
    _, zs, outs = hooked.run(corrupted)
    templates = torch.arange(N) % 3
    by_template = [torch.stack([a[templates == t].mean(0) for t in range(3)])[templates] for a in (*zs, *outs)]
    zeros = [torch.zeros(T, 4, 8).double()] * 3, [torch.zeros(T, 32).double()] * 3
    folded = []
    for block in hooked.blocks:
        w, b = block.attn.c_attn.weight[:, 64:], block.attn.c_attn.bias[64:]
        folded.append((block.ln_1.bias @ w + b).detach().view(4, 8).expand(T, 4, 8))
    everywhere = [[a.mean((0, 1)).expand(T, *a.shape[2:]) for a in part] for part in (zs, outs)]
    return {
        "zero, raw": (ablation.zero_reference(model, T, folded=False), *zeros),
        "zero, folded": (ablation.zero_reference(model, T, folded=True), folded, zeros[1]),
        "mean by position": (
            ablation.mean_reference(model, corrupted, "position", 8),
            [z.mean(0) for z in zs],
            [o.mean(0) for o in outs],
        ),
        "mean over data set": (ablation.mean_reference(model, corrupted, "dataset", 8), *everywhere),
        "mean by template": (
            ablation.mean_reference(model, corrupted, "template", 8, templates),
            by_template[:3],
            by_template[3:],
        ),
        "resample": (ablation.resample_reference(model, corrupted, 8), zs, outs),
    }


KINDS = ["zero, raw", "zero, folded", "mean by position", "mean over data set", "mean by template", "resample"]


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_sweep_equals_one_hook_per_node(hooked, model, data, kind, end):
    tokens, _, answers = data
    reference, z_ref, mlp_ref = references(hooked, model, data)[kind]
    prompts = Prompts(tokens, ends(end), answers)
    sweep = sweep_nodes(model, prompts, reference, chunk=8)
    full = oracle.answer_logits(hooked.run(tokens)[0], prompts.end, answers)
    assert (sweep.full - full).abs().max() < 1e-10
    assert len(sweep.nodes) == 3 * 5
    for i, node in enumerate(all_nodes(model)):
        heads = {(node.layer, node.head): z_ref[node.layer][..., node.head, :]} if node.kind == "attn" else {}
        mlps = {node.layer: mlp_ref[node.layer]} if node.kind == "mlp" else {}
        slow = oracle.answer_logits(hooked.run(tokens, heads, mlps)[0], prompts.end, answers)
        assert (sweep.ablated[i] - slow).abs().max() < 1e-10, str(node)


CIRCUITS = [
    Circuit.full(3, 4),
    Circuit.of([], []),
    Circuit.of([(0, 1), (0, 2), (1, 3), (2, 0)], [0, 2]),
    Circuit.of([(1, 0)], [1]),
    Circuit.of([], [0, 1, 2]),
]


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("circuit", CIRCUITS, ids=range(len(CIRCUITS)))
def test_circuit_equals_hooks_on_all_the_rest(hooked, model, data, kind, published, end, circuit):
    tokens, corrupted, answers = data
    if published and kind == "resample":
        pytest.skip("the published MLP means are means")
    reference, z_ref, mlp_ref = references(hooked, model, data)[kind]
    extra = corrupted if published else None
    if published and kind == "mean by template":
        pytest.skip("the published MLP means are over all corrupted prompts, whose heads have one mean")
    prompts = Prompts(tokens, ends(end), answers)
    ours = ablation.circuit_logits(model, prompts, circuit, reference, 8, extra)
    slow = oracle.circuit_logits(
        hooked, tokens, prompts.end, answers, set(circuit.heads()), set(circuit.mlps()), z_ref, mlp_ref, extra
    )
    assert (ours - slow).abs().max() < 1e-10


def test_mean_ablation_does_not_depend_on_folding(hooked, model, data):
    """Zero ablation of raw and of folded weights differ; by exactly what the value bias writes, mean ablation cannot."""
    raw = ablation.zero_reference(model, T, folded=False)
    folded = ablation.zero_reference(model, T, folded=True)
    assert (raw.heads - folded.heads).abs().max() > 0.1


def test_a_node_that_the_model_lacks_is_refused(model, data):
    prompts = Prompts(data[0], ends("last"), data[2])
    with pytest.raises(ValueError, match=r"a7\.h0"):
        ablation.circuit_logits(model, prompts, Circuit.of([(7, 0)], []), ablation.zero_reference(model, T, folded=False), 8)
