"""Path patching of every edge, exact effects and edge graphs against literal twins, in float64 to 1e-10."""

import json
from importlib.resources import files

import pytest
import torch

import edge_oracle
import oracle
from recircuit.core.families import load
from recircuit.core.nodes import Circuit, Edge, Node
from recircuit.methods.ablation import Prompts, circuit_logits, mean_reference
from recircuit.methods.edge_base import all_edges, base_of
from recircuit.methods.edge_graph import graph_logits, without_each
from recircuit.methods.paths import candidate_edges, patch_edges

N, T, VOCAB, CHUNK = 19, 9, 50, 16
CIRCUITS = {
    "some": Circuit.of([(0, 1), (0, 2), (1, 3), (2, 0), (2, 2)], [0, 2]),
    "gaps": Circuit.of([(0, 0), (2, 1)], [1]),
    "whole": Circuit.full(3, 4),
    "low": Circuit.of([(0, 1), (0, 3), (1, 2)], [0, 1, 2]),
    "lowest": Circuit.of([(0, 0)], [0, 2]),
    "no heads": Circuit.of([], [0, 1, 2]),
    "last MLP out": Circuit.of([(0, 3), (1, 0), (1, 1), (2, 3)], [0, 1]),
}


@pytest.fixture(scope="module")
def slow():
    return oracle.random_gpt2(std=0.3)


@pytest.fixture(scope="module")
def model(slow, tmp_path_factory):
    return load(oracle.save(slow, tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(1)
    tokens, corrupted = (torch.randint(VOCAB, (N, T), generator=rng) for _ in range(2))
    return tokens, corrupted, torch.randint(VOCAB, (N, 2), generator=rng)


def ends(kind: str) -> torch.Tensor:
    return torch.full((N,), T - 1) if kind == "last" else torch.arange(N) % (T - 2) + 2


class Case:
    """A circuit with its base, its literal twin and its prompts."""

    def __init__(self, slow, model, data, circuit: Circuit, end: str = "last", published: bool = True):
        tokens, self.corrupted, answers = data
        self.circuit, self.prompts = circuit, Prompts(tokens, ends(end), answers)
        hooked = oracle.Hooked(slow)
        _, zs, outs = hooked.run(self.corrupted)
        reference = mean_reference(model, self.corrupted, "position", CHUNK)
        extra = self.corrupted if published else None
        self.base = base_of(model, circuit, reference, CHUNK, extra)
        gone = {(l, h): zs[l].mean(0)[:, h] for l in range(3) for h in range(4) if (l, h) not in circuit.heads()}
        outs = hooked.run(self.corrupted, gone)[2] if published else outs
        self.twin = edge_oracle.Circuit(
            slow, set(circuit.heads()), set(circuit.mlps()), [z.mean(0) for z in zs], [o.mean(0) for o in outs]
        )
        self.plain = circuit_logits(model, self.prompts, circuit, reference, CHUNK, extra)

    def answers(self, logits):
        return oracle.answer_logits(logits, self.prompts.end, self.prompts.answers)


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("variant", ["published", "fixed"])
def test_every_edge_equals_the_three_steps(slow, model, data, name, variant, end):
    case = Case(slow, model, data, CIRCUITS[name], end, variant == "published")
    patched = patch_edges(case.base, case.circuit, case.prompts, case.corrupted, variant, CHUNK)
    edges = patched.edges if name != "whole" or end == "last" else patched.edges[::7]
    for edge in edges:
        literal = case.answers(edge_oracle.path_patch(case.twin, case.prompts.tokens, case.corrupted, edge, variant))
        ours = patched.logits[patched.edges.index(edge)]
        assert (ours - literal).abs().max() < 1e-10, f"{variant} {edge}"


def kind_of(edge: Edge) -> str:
    return f"{edge.src.kind} {edge.dst.kind}"


def test_variants_differ_where_the_conventions_do(slow, model, data):
    case = Case(slow, model, data, CIRCUITS["whole"])
    found = {v: patch_edges(case.base, case.circuit, case.prompts, case.corrupted, v, CHUNK) for v in ("published", "fixed")}
    both = [edge for edge in found["fixed"].edges if edge in set(found["published"].edges)]
    apart: dict[str, float] = {}
    for edge in both:
        ours = [part.logits[part.edges.index(edge)] for part in found.values()]
        apart[kind_of(edge)] = max(apart.get(kind_of(edge), 0), float((ours[0] - ours[1]).abs().max()))
    assert apart.pop("attn attn") < 1e-12 and apart.pop("attn mlp") < 1e-12
    assert set(apart) == {"mlp attn", "mlp mlp", "attn logits", "mlp logits"} and min(apart.values()) > 1e-3
    extra = set(found["fixed"].edges) - set(both)
    assert extra == {edge for edge in found["fixed"].edges if kind_of(edge) == "attn mlp" and edge.src.layer == edge.dst.layer}
    assert len(extra) == 12


def listed(task: str) -> Circuit:
    text = (files("recircuit.tasks") / "data/sequence_continuation/circuits_gpt2.json").read_text(encoding="utf-8")
    found = json.loads(text)[task]
    return Circuit.of(map(tuple, found["heads"]), found["mlps"])


@pytest.mark.parametrize(("task", "count"), [("numerals", 606), ("numwords", 999), ("months", 523)])
def test_the_published_circuits_have_the_published_number_of_edges(task, count):
    assert len(candidate_edges(listed(task), "published")) == count


def test_edges_of_the_numerals_circuit_by_kind():
    numerals = candidate_edges(listed("numerals"), "published")
    kinds = [kind_of(edge).split()[-1] if edge.dst.kind == "logits" else kind_of(edge) for edge in numerals]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {"attn attn": 243, "mlp mlp": 55, "attn mlp": 70, "mlp attn": 213, "logits": 25}


@pytest.mark.parametrize(("task", "count"), [("numerals", 13), ("numwords", 19), ("months", 13)])
def test_fixed_adds_the_heads_of_the_mlps_own_layer(task, count):
    more = set(candidate_edges(listed(task), "fixed")) - set(candidate_edges(listed(task), "published"))
    assert len(more) == count and all(edge.src.layer == edge.dst.layer for edge in more)


def test_parallel_models_have_no_edge_into_the_mlp_of_the_same_layer():
    edges = candidate_edges(Circuit.full(3, 4), "fixed", parallel=True)
    assert not any(edge.src.layer == edge.dst.layer for edge in edges)


def test_a_circuit_without_nodes_has_no_edges(slow, model, data):
    case = Case(slow, model, data, Circuit.of([], []))
    patched = patch_edges(case.base, case.circuit, case.prompts, case.corrupted, "published", CHUNK)
    assert patched.edges == [] and patched.logits.shape == (0, N, 2)


# Edge graphs ----------------------------------------------------------------------------------------------------------


def literal_graph(case: Case, removed) -> torch.Tensor:
    """The graph, written out: every receiver adds up what its senders wrote, corrupted over removed edges."""
    with torch.no_grad():
        _, corrupted = edge_oracle.split_run(case.twin, case.corrupted)
        gone: dict[str, list[str]] = {}
        for edge in removed:
            gone.setdefault(str(edge.dst), []).append(str(edge.src))

        def extra(receiver, written):
            return sum(corrupted[s] - written[s] for s in gone[receiver]) if receiver in gone else None

        return case.answers(edge_oracle.split_run(case.twin, case.prompts.tokens, extra)[0])


def some_graphs(circuit: Circuit, count: int = 4):
    edges, rng = all_edges(circuit), torch.Generator().manual_seed(2)
    for share in torch.linspace(0.1, 0.9, count):
        yield [edge for edge, drawn in zip(edges, torch.rand(len(edges), generator=rng), strict=True) if drawn < share]


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_graphs_equal_the_literal_sums(slow, model, data, name, end):
    case = Case(slow, model, data, CIRCUITS[name], end)
    graphs = list(some_graphs(case.circuit))
    ours = graph_logits(case.base, case.circuit, case.prompts, case.corrupted, graphs, CHUNK)
    for found, removed in zip(ours, graphs, strict=True):
        assert (found - literal_graph(case, removed)).abs().max() < 1e-10


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("name", [*CIRCUITS, "empty"])
def test_all_edges_are_the_circuit_and_none_its_corrupted_run(slow, model, data, name, end):
    case = Case(slow, model, data, CIRCUITS.get(name, Circuit.of([], [])), end)
    edges = all_edges(case.circuit)
    into_logits = [edge for edge in edges if edge.dst.kind == "logits"]
    graphs = [[], edges, into_logits]
    whole, none, cut = graph_logits(case.base, case.circuit, case.prompts, case.corrupted, graphs, CHUNK)
    corrupted = case.answers(case.twin.run(case.corrupted)[0])
    assert (whole - case.plain).abs().max() < 1e-10
    assert (none - corrupted).abs().max() < 1e-10
    assert (cut - corrupted).abs().max() < 1e-10, "all edges into the logits at once give the corrupted run"
    assert (none - whole).abs().max() > 1e-3


def test_taking_one_more_edge_out_equals_the_graph_without_it(slow, model, data):
    case = Case(slow, model, data, CIRCUITS["some"], "ragged")
    removed = next(some_graphs(case.circuit))
    left = [edge for edge in all_edges(case.circuit) if edge not in set(removed)]
    plain, without = without_each(case.base, case.circuit, case.prompts, case.corrupted, removed, left, CHUNK)
    expected = graph_logits(
        case.base, case.circuit, case.prompts, case.corrupted, [removed, *([*removed, edge] for edge in left)], CHUNK
    )
    assert (plain - expected[0]).abs().max() < 1e-12 and (without - expected[1:]).abs().max() < 1e-12


def test_an_edge_that_is_not_there_is_refused(slow, model, data):
    case = Case(slow, model, data, CIRCUITS["gaps"])
    for wrong in (Edge(Node.parse("a0.h1"), Node.parse("m1")), Edge(Node.parse("m1"), Node.parse("m1"))):
        with pytest.raises(ValueError, match="no edge of this circuit"):
            graph_logits(case.base, case.circuit, case.prompts, case.corrupted, [[wrong]], CHUNK)


def test_results_do_not_depend_on_chunks(slow, model, data):
    case = Case(slow, model, data, CIRCUITS["some"])
    a, b = (patch_edges(case.base, case.circuit, case.prompts, case.corrupted, "fixed", c).logits for c in (16, 64))
    assert (a - b).abs().max() < 1e-12
