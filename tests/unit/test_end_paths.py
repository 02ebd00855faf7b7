"""Path patching by deltas against a literal evaluator of path trees (greater-than, section 1.1), in float64 to 1e-10."""

from itertools import combinations

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import head
from recircuit.experiments.greater_than import circuits, stages
from recircuit.experiments.greater_than.setting import Pair
from recircuit.methods.end_paths import end_suffix, plain_run, prefix, take

LAYERS, HEADS, D, T, N, VOCAB = 4, 2, 8, 6, 3, 30
END, YY = T - 1, 3
LATE_HEADS, LATE_MLPS = (head(1, 1), head(2, 0), head(3, 1)), (2, 3)
LOW_HEADS, LOW_MLPS, FEEDING = (head(0, 0), head(0, 1)), (0, 1), (head(0, 1),)


class Tree:
    """Evaluates a set of paths word for word: a node on a path is recomputed from its inputs, each evaluated in its turn.

    A path goes from the logits down to a sender. A step is a node with a position, and below a head the input it was read by.
    """

    def __init__(self, hf, base, patch):
        self.hf, self.blocks = hf, hf.transformer.h
        self.tokens, self.base, self.patch = base, self._plain(base), self._plain(patch)

    def _plain(self, tokens):
        values = {}
        hooked = oracle.Hooked(self.hf)
        _, zs, outs = hooked.run(tokens)
        e = D // HEADS
        with torch.no_grad():
            embeds = self.hf.transformer.wte(tokens) + self.hf.transformer.wpe(torch.arange(tokens.shape[1]))
            for pos in range(T):
                values["e", pos] = embeds[:, pos]
                for l, block in enumerate(self.blocks):
                    values["m", l, pos] = outs[l][:, pos] - block.mlp.c_proj.bias
                    for h in range(HEADS):
                        values["a", l, h, pos] = zs[l][:, pos, h] @ block.attn.c_proj.weight[h * e : (h + 1) * e]
        return values

    def inputs(self, layer, pos, *, mid):
        """Name every node that is read by layer ``layer`` at a position (``mid``: by its MLP)."""
        heads = [("a", l, h, pos) for l in range(layer + mid) for h in range(HEADS)]
        return [("e", pos), *heads, *(("m", l, pos) for l in range(layer))]

    def bias(self, layer, *, mid):
        attention = sum((self.blocks[l].attn.c_proj.bias for l in range(layer + mid)), torch.zeros(D).double())
        return attention + sum((self.blocks[l].mlp.c_proj.bias for l in range(layer)), torch.zeros(D).double())

    @torch.no_grad()
    def logits(self, paths):
        self.paths = set(paths)
        self.inner = {path[:i] for path in paths for i in range(len(path))}
        return self.hf.lm_head(self.hf.transformer.ln_f(self.stream(LAYERS, END, (), mid=False)))

    def stream(self, layer, pos, before, *, mid, channel=None):
        steps = [((channel, node) if channel else node, node) for node in self.inputs(layer, pos, mid=mid)]
        return sum(self.value(node, (*before, step)) for step, node in steps) + self.bias(layer, mid=mid)

    def value(self, node, path):
        if path in self.paths:
            return self.patch[node]
        if path not in self.inner:
            return self.base[node]
        return self.mlp(node, path) if node[0] == "m" else self.head(node, path)

    def mlp(self, node, path):
        _, layer, pos = node
        block = self.blocks[layer]
        return block.mlp(block.ln_2(self.stream(layer, pos, path, mid=True))) - block.mlp.c_proj.bias

    def head(self, node, path):
        _, layer, h, pos = node
        block, e = self.blocks[layer], D // HEADS
        w, b = block.attn.c_attn.weight, block.attn.c_attn.bias

        def read(channel, where):
            i = "qkv".index(channel) * D + h * e
            return block.ln_1(self.stream(layer, where, path, mid=False, channel=channel)) @ w[:, i : i + e] + b[i : i + e]

        q = read("q", pos)
        k, v = (torch.stack([read(c, t) for t in range(pos + 1)], 1) for c in "kv")
        pattern = (torch.einsum("ne,nte->nt", q, k) / e**0.5).softmax(-1)
        return torch.einsum("nt,nte->ne", pattern, v) @ block.attn.c_proj.weight[h * e : (h + 1) * e]


def at_end(node):
    return ("a", node.layer, node.head, END) if node.kind == "attn" else ("m", node.layer, END)


def at_yy(node):
    return ("a", node.layer, node.head, YY) if node.kind == "attn" else ("m", node.layer, YY)


def subsets(layers):
    return [tuple(sorted(c, reverse=True)) for size in range(len(layers) + 1) for c in combinations(layers, size)]


def chains(node, mlps):
    """List the ways from the logits down to a head: through any of the late MLPs that can hear it."""
    return [(*(("m", l, END) for l in c), at_end(node)) for c in subsets(mlps) if not c or c[-1] >= node.layer]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    hf = oracle.random_gpt2(layers=LAYERS, heads=HEADS, d=D, vocab=VOCAB, positions=T, seed=5, std=0.4)
    model = load(oracle.save(hf, tmp_path_factory.mktemp("tiny")), dtype=torch.float64)
    rng = torch.Generator().manual_seed(2)
    good = torch.randint(VOCAB, (N, T), generator=rng)
    bad = good.clone()
    bad[:, YY] = torch.randint(VOCAB, (N,), generator=rng)
    positions = {"end": torch.full((N,), END), "yy": torch.full((N,), YY)}
    first = plain_run(model, bad, positions)
    pair = Pair(
        plain_run(model, good, positions, prefix(first, YY, torch.arange(N))), first, torch.full((N,), 5), "gt", torch.arange(N)
    )
    return model, pair, Tree(hf, good, bad), Tree(hf, bad, good)


def logits(model, final):
    return torch.nn.functional.layer_norm(final, (D,), *model.final_norm, model.spec.eps) @ model.unembedding.T


def close(model, final, expected):
    assert (logits(model, final) - expected).abs().max() < 1e-10


def test_the_runs_are_those_of_transformers_with_and_without_a_shared_prefix(case):
    model, pair, good_first, _ = case
    for side, values in ((pair.good, good_first.base), (pair.bad, good_first.patch)):
        for layer in range(LAYERS):
            out = side.at["end"].out[layer] - model.blocks[layer].down_bias
            assert (out - values["m", layer, END]).abs().max() < 1e-12
            if layer < LAYERS - 1:
                assert (side.at["yy"].pre[0] - values["e", YY]).abs().max() < 1e-12
    twice = take(pair.bad, torch.tensor([0, 0, 1]))
    assert torch.equal(twice.at["end"].final[1], pair.bad.at["end"].final[0])


def test_senders_to_the_logits(case):
    model, pair, tree, _ = case
    for node, final in stages.logits_stage(model, pair, stages.senders(model, LAYERS)):
        close(model, final, tree.logits([(at_end(node),)]))


@pytest.mark.parametrize("receiver", [1, 2, 3])
def test_senders_to_a_late_mlp_and_on_through_all_later_ones(case, receiver):
    model, pair, tree, _ = case
    for node, final in stages.mlp_stage(model, pair, stages.senders(model, receiver + 1, mlps_before=receiver), receiver):
        above = [
            (*(("m", l, END) for l in c), ("m", receiver, END), at_end(node)) for c in subsets(range(receiver + 1, LAYERS))
        ]
        close(model, final, tree.logits(above))


@pytest.mark.parametrize("which", ["v", "k", "q"])
def test_senders_to_the_inputs_of_the_circuits_heads(case, which):
    model, pair, tree, _ = case
    where = at_end if which == "q" else at_yy
    for node, final in stages.input_stage(model, pair, stages.senders(model, 3), which, LATE_HEADS, LATE_MLPS):
        heard = [h for h in LATE_HEADS if h.layer > node.layer]
        close(model, final, tree.logits([(*c, (which, where(node))) for h in heard for c in chains(h, LATE_MLPS)]))


@pytest.mark.parametrize("receiver", [0, 1])
def test_senders_to_a_low_mlp(case, receiver):
    model, pair, tree, _ = case
    nodes = stages.senders(model, receiver + 1, mlps_before=receiver)
    for node, final in stages.low_mlp_stage(model, pair, nodes, receiver, LATE_HEADS, LATE_MLPS):
        heard = [h for h in LATE_HEADS if h.layer > receiver]
        paths = [(*c, ("v", ("m", receiver, YY)), at_yy(node)) for h in heard for c in chains(h, LATE_MLPS)]
        close(model, final, tree.logits(paths))


CIRCUIT = circuits.YearCircuit(
    LATE_HEADS, LATE_MLPS, LOW_HEADS, LOW_MLPS, FEEDING, {2: frozenset(LATE_HEADS[:2]), 3: frozenset(LATE_HEADS[2:])}
)


@pytest.mark.parametrize("edge_set", ["code", "text"])
@pytest.mark.parametrize("mode", ["sufficiency", "necessity"])
def test_the_circuit_of_late_heads_and_mlps(case, mode, edge_set):
    model, pair, good_first, bad_first = case
    final = circuits.evaluate(model, CIRCUIT, pair, circuits.Variant("E3", mode, edge_set))
    paths = [c for h in LATE_HEADS for c in chains(h, LATE_MLPS)]
    if edge_set == "text":  # below a head stands the last MLP of its chain, which must be one that hears it
        named = {layer: {at_end(h) for h in nodes} for layer, nodes in CIRCUIT.heard.items()}
        paths = [c for c in paths if len(c) == 1 or c[-1] in named[c[-2][1]]]
    close(model, final, (good_first if mode == "necessity" else bad_first).logits(paths))


def test_the_circuit_from_the_input_to_the_logits(case):
    model, pair, _, tree = case
    final = circuits.evaluate(model, CIRCUIT, pair, circuits.Variant("E6", "full", "code"))
    paths = []
    for h in LATE_HEADS:
        below = [("q", node) for node in tree.inputs(h.layer, END, mid=False)]
        to_low = [(("e", YY),), *((at_yy(f),) for f in FEEDING)]
        for channel in "kv":
            below += [(channel, at_yy(low)) for low in LOW_HEADS if low.layer < h.layer]
        paths += [(*c, step) for c in chains(h, LATE_MLPS) for step in below]
        for channel in "kv":
            for c in subsets([l for l in LOW_MLPS if l < h.layer]):
                if c:
                    first, *rest = (("m", l, YY) for l in c)
                    paths += [
                        (*up, (channel, first), *rest, *low)
                        for up in chains(h, LATE_MLPS)
                        for low in to_low
                        if low[0][0] == "e" or low[0][1] <= c[-1]
                    ]
    close(model, final, tree.logits(paths))


@pytest.mark.parametrize("qkv", ["gbb", "bgb", "bbg", "bbb", "ggb"])
def test_heads_with_inputs_of_both_runs(case, qkv):
    model, pair, _, tree = case
    final = circuits.evaluate(model, CIRCUIT, pair, circuits.Variant("E3", "sufficiency", "code", qkv))
    paths = []
    for h in LATE_HEADS:
        for channel, letter in zip("qkv", qkv, strict=True):
            if letter == "g":  # this input is clean everywhere it reads
                places = [END] if channel == "q" else range(T)
                steps = [(channel, node) for pos in places for node in tree.inputs(h.layer, pos, mid=False)]
                paths += [(*c, step) for c in chains(h, LATE_MLPS) for step in steps]
    close(model, final, tree.logits(paths))


def test_everything_into_the_logits_is_the_corrupted_run(case):
    model, pair, tree, _ = case
    everything = tree.logits([(node,) for node in tree.inputs(LAYERS, END, mid=False)])
    close(model, pair.bad.at["end"].final, everything)
    total = sum(stages.sender_delta(model, pair, node, "end") for node in stages.senders(model, LAYERS))
    token = pair.bad.at["end"].pre[0] - pair.good.at["end"].pre[0]
    close(model, pair.good.at["end"].final + total + token, everything)


@torch.no_grad()
def patched_at_the_end(tree, x, layer):
    """Return the logits at the end when the stream entering a layer (the final norm: layer L) is replaced there."""
    blocks = tree.hf.transformer.h

    def replace(module, args, kwargs=None):
        h = args[0].clone()
        h[:, END] = x
        return (h, *args[1:])

    handle = (blocks[layer] if layer < LAYERS else tree.hf.transformer.ln_f).register_forward_pre_hook(replace)
    try:
        return tree.hf(tree.tokens).logits[:, END]
    finally:
        handle.remove()


@pytest.mark.parametrize("layer", range(LAYERS + 1))
def test_a_patch_at_the_end_costs_one_row_and_equals_a_full_forward(case, layer):
    model, pair, tree, _ = case
    x = torch.stack([pair.bad.at["end"].pre[layer], 0.5 * pair.good.at["end"].pre[layer]])
    found = end_suffix(model, pair.good, x, layer)
    for i in range(2):
        close(model, found[i], patched_at_the_end(tree, x[i], layer))
    same = end_suffix(model, pair.good, pair.good.at["end"].pre[layer], layer)
    assert (same - pair.good.at["end"].final).abs().max() < 1e-10
