"""Estimated and exact effects of edges against autograd and a literal twin with an input of its own for every receiver."""

import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

import edge_oracle
import oracle
from recircuit.core.metrics import logit_diff
from recircuit.core.model import Block, Heads, Model, Norm, Spec
from recircuit.core.nodes import Circuit
from recircuit.methods.ablation import Prompts
from recircuit.methods.attribution import estimate, exact
from recircuit.methods.edge_base import all_edges, base_of
from recircuit.methods.edge_graph import graph_logits
from recircuit.runs.forward import forward
from recircuit.study.certify import transformer_bridge
from unit.test_edges import CHUNK, CIRCUITS, Case, N, data, model, slow  # noqa: F401 (fixtures)


def literal_estimate(case: Case, steps: int) -> dict[str, float]:
    """Autograd by an additive zero at every receiver's input, times what every sender writes differently."""
    twin, prompts = case.twin, case.prompts
    for parameter in twin.model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        _, clean = edge_oracle.split_run(twin, prompts.tokens)
        _, corrupted = edge_oracle.split_run(twin, case.corrupted)
    scores: dict[str, float] = {}
    for k in range(1, steps + 1):
        shift = (1 - k / steps) * (corrupted["embed"] - clean["embed"])
        bumps: dict[str, torch.Tensor] = {}

        def extra(receiver, written, bumps=bumps):
            bumps[receiver] = torch.zeros_like(clean["embed"], requires_grad=True)
            return bumps[receiver]

        twin.model.transformer.wte.register_forward_hook(lambda m, a, out, shift=shift: out + shift)
        logits, _ = edge_oracle.split_run(twin, prompts.tokens, extra)
        twin.model.transformer.wte._forward_hooks.clear()
        edge_oracle.difference(logits, prompts.end, prompts.answers).mean().backward()
        for edge in all_edges(case.circuit):
            change = corrupted[str(edge.src)] - clean[str(edge.src)]
            part = float((change * bumps[str(edge.dst)].grad).sum()) / steps
            scores[str(edge)] = scores.get(str(edge), 0) + part
    return scores


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_estimates_equal_autograd_at_every_receiver(slow, model, data, name, end, steps):  # noqa: F811
    case = Case(slow, model, data, CIRCUITS[name], end)
    edges, found = estimate(case.base, case.circuit, case.prompts, case.corrupted, CHUNK, steps=steps)
    for method, m in (("eap", 1), ("eap_ig", steps)):
        literal = literal_estimate(case, m)
        assert {str(edge) for edge in edges} == set(literal)
        for edge, score in zip(edges, found[method].tolist(), strict=True):
            assert abs(score - literal[str(edge)]) < 1e-10, f"{method} {edge}"
        assert max(map(abs, literal.values())) > 1e-2


READERS = {"q_input": "<q>", "k_input": "<k>", "v_input": "<v>"}


def lens_name(node) -> str:
    if node.kind in READERS or node.kind == "attn_head_out":
        return f"a{node.layer}.h{node.head}{READERS.get(node.kind, '')}"
    return f"m{node.layer}" if node.kind.startswith("mlp") else node.kind


def test_estimates_equal_transformer_lens_attribution_patching(slow, model, data, tmp_path):  # noqa: F811
    """It takes the gradient on the run it calls corrupted and patches towards the clean one: our two runs change places."""
    case, few = Case(slow, model, data, Circuit.full(3, 4)), 5
    bridge = transformer_bridge(oracle.save(slow, tmp_path), model).eval()
    literal: dict[str, float] = {}
    for row in range(few):
        right, wrong = case.prompts.answers[row].tolist()
        found = attribution_patch(
            bridge,
            case.corrupted[row : row + 1],
            case.prompts.tokens[row : row + 1],
            lambda logits, right=right, wrong=wrong: logits[0, -1, right] - logits[0, -1, wrong],
            EdgeAttributionConfig(granularity="edge"),
        )
        for (src, dst), score in found.edge_scores.items():  # one edge per position
            name = f"{lens_name(src)}->{lens_name(dst)}"
            literal[name] = literal.get(name, 0) + score / few
    prompts = Prompts(case.prompts.tokens[:few], case.prompts.end[:few], case.prompts.answers[:few])
    edges, scores = estimate(case.base, case.circuit, prompts, case.corrupted[:few], CHUNK, steps=1)
    assert {str(edge) for edge in edges} == set(literal)
    for edge, score in zip(edges, scores["eap"].tolist(), strict=True):
        assert abs(score - literal[str(edge)]) < 1e-10, str(edge)


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_exact_effects_equal_a_literal_twin(slow, model, data, name, end):  # noqa: F811
    case = Case(slow, model, data, CIRCUITS[name], end)
    edges = all_edges(case.circuit)[:: 3 if name == "whole" else 1]
    plain, patched = exact(case.base, case.prompts, case.corrupted, edges, CHUNK)
    assert (plain - case.plain).abs().max() < 1e-10
    with torch.no_grad():
        _, clean = edge_oracle.split_run(case.twin, case.prompts.tokens)
        _, corrupted = edge_oracle.split_run(case.twin, case.corrupted)
        for edge, found in zip(edges, patched, strict=True):
            change = corrupted[str(edge.src)] - clean[str(edge.src)]

            def extra(receiver, written, edge=edge, change=change):
                return change if receiver == str(edge.dst) else None

            literal = case.answers(edge_oracle.split_run(case.twin, case.prompts.tokens, extra)[0])
            assert (found - literal).abs().max() < 1e-10, str(edge)


def test_estimates_do_not_depend_on_chunks(slow, model, data):  # noqa: F811
    case = Case(slow, model, data, CIRCUITS["some"])
    a, b = (estimate(case.base, case.circuit, case.prompts, case.corrupted, chunk, steps=2)[1]["eap_ig"] for chunk in (16, 64))
    assert (a - b).abs().max() < 1e-14


def test_gpt2_small_has_32491_edges():
    assert len(all_edges(Circuit.full(12, 12))) == 32_491


def test_pocket_has_479_edges():
    assert len(all_edges(Circuit.full(4, 4))) == 479


def random_model(family: str, **shape) -> Model:
    """A random model in float64 whose tokens 25..49 are tokens 0..24 moved by a hair."""
    rng = torch.Generator().manual_seed(0)

    def draw(*size, scale=0.3):
        return torch.randn(*size, generator=rng, dtype=torch.float64) * scale

    spec = Spec(
        family=family, n_layers=3, n_heads=4, d_model=32, d_head=8, d_mlp=48, n_positions=16, n_vocab=50, eps=1e-5,
        activation="gelu", **shape,
    )  # fmt: skip
    llama, keys = family == "llama", 8 * (spec.n_kv_heads or 4)

    def norm():
        return Norm(1 + draw(32), None if llama else draw(32))

    def block():
        bias = (None, None, None) if llama else (draw(32), draw(keys), draw(keys))
        heads = Heads(draw(32, 32), draw(32, keys), draw(32, keys), *bias, draw(32, 32))
        rest = draw(32, 48), None if llama else draw(48), draw(48, 32), None if llama else draw(32)
        return Block(norm(), heads, draw(32), norm(), *rest, draw(32, 48) if llama else None)

    tokens = draw(25, 32, scale=1.0)
    tokens = torch.cat([tokens, tokens + draw(25, 32, scale=1e-6)])
    return Model(spec, tokens, None if spec.rotary else draw(16, 32), tuple(block() for _ in range(3)), norm(), draw(50, 32))


FAMILIES = {
    "gpt2": {},
    "neox": {"rotary": 4, "parallel": True},
    "llama": {"rotary": 8, "n_kv_heads": 2},
}


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_of_small_changes_are_exact_in_every_family(family, steps):
    fast = random_model(family, **FAMILIES[family])
    rng = torch.Generator().manual_seed(3)
    tokens, answers = torch.randint(25, (N, 9), generator=rng), torch.randint(50, (N, 2), generator=rng)
    prompts, circuit = Prompts(tokens, torch.full((N,), 8), answers), Circuit.full(3, 4)
    base = base_of(fast, circuit, None, CHUNK)
    edges, found = estimate(base, circuit, prompts, tokens + 25, CHUNK, steps=steps)
    plain, patched = exact(base, prompts, tokens + 25, edges, CHUNK)
    effects = (logit_diff(patched.flatten(0, 1)).view(len(edges), N) - logit_diff(plain)).mean(1)
    assert effects.abs().max() > 1e-8
    for scores in found.values():
        assert (scores - effects).abs().max() < 1e-4 * effects.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_of_all_edges_and_of_none_in_every_family(family):
    """Rotations, shared keys and parallel MLPs: with all edges the clean run, with none the corrupted one."""
    fast = random_model(family, **FAMILIES[family])
    rng = torch.Generator().manual_seed(4)
    tokens, corrupted = (torch.randint(25, (N, 9), generator=rng) for _ in range(2))
    prompts = Prompts(tokens, torch.arange(N) % 7 + 2, torch.randint(50, (N, 2), generator=rng))
    circuit = Circuit.full(3, 4)
    base = base_of(fast, circuit, None, CHUNK)
    edges = all_edges(circuit, parallel=fast.spec.parallel)
    whole, none = graph_logits(base, circuit, prompts, corrupted, [[], edges], CHUNK)
    assert (whole - forward(fast, tokens, prompts.end, prompts.answers)).abs().max() < 1e-10
    assert (none - forward(fast, corrupted, prompts.end, prompts.answers)).abs().max() < 1e-10
    plain, single = exact(base, prompts, corrupted, edges[::5], CHUNK)
    graphs = graph_logits(base, circuit, prompts, corrupted, [[edge] for edge in edges[::5]], CHUNK)
    assert (plain - whole).abs().max() < 1e-10
    assert (graphs - single).abs().max() < 1e-10, "one edge removed is one edge patched"
