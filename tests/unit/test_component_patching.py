"""Patching of heads, positions and paths, and direct attribution, against transformer-lens in compatibility mode, in float64.

The judge folds LayerNorms and value biases and centres what writes and what unembeds; ours runs the weights as they are.
"""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.methods.component_patching import (
    COMPONENTS,
    HEAD_AT_POSITION,
    SITES,
    patch_heads,
    patch_heads_at_positions,
    patch_positions,
)
from recircuit.methods.direct_attribution import answer_vectors, attribution, head_outputs, scaled
from recircuit.methods.direction_hooks import PromptPairs
from recircuit.methods.end_paths import plain_run
from recircuit.methods.head_paths import Wanted, final_paths, value_paths
from recircuit.study.certify import transformer_bridge

N, LENGTH, START, LAYERS, HEADS = 6, 7, 2, 3, 4
CLOSE = {"gpt2": 1e-9, "neox": 1e-9, "llama": 2e-6}  # the judge takes a Llama's softmaxes in float32, whatever its type
FAMILIES = {"gpt2": oracle.random_gpt2, "neox": oracle.random_neox, "llama": oracle.random_llama}


class Judge:
    """transformer-lens' model with folded and centred weights, run from the tokens, one hook at a time."""

    def __init__(self, folder, model, pairs, patch):
        self.bridge = transformer_bridge(folder, model).eval()
        with patch.context() as exact:
            exact.setattr(torch.Tensor, "float", torch.Tensor.double)  # weights are processed in float32 otherwise
            self.bridge.enable_compatibility_mode()
        self.pairs, self.close, self.parallel = pairs, CLOSE[model.spec.family], model.spec.parallel
        self.clean, self.corrupted = (self.cache(tokens) for tokens in (pairs.clean, pairs.corrupted))

    @torch.no_grad()
    def cache(self, tokens):
        return self.bridge.run_with_cache(tokens, prepend_bos=False)[1]

    @torch.no_grad()
    def differences(self, tokens, hooks=()):
        """Return logit differences, one prompt and one pair of answers after the other."""
        logits = self.bridge.run_with_hooks(tokens, prepend_bos=False, fwd_hooks=list(hooks))
        rows = zip(logits[:, -1], self.pairs.answers.tolist(), strict=True)
        return torch.stack([sum(row[good] - row[bad] for good, bad in own) / len(own) for row, own in rows])


def name_of(layer, component):
    inner = "" if component in SITES else "attn."
    return f"blocks.{layer}.{inner}hook_{component}"


def put(value, head=None, position=None):
    """Return a hook that puts a head's or a position's part, or a head's at a position, of a cached activation in."""

    def hook(activation, hook):
        activation = activation.clone()
        where = (slice(None),) * (1 if hook.name.endswith("pattern") else 2)
        where = (*where, head) if head is not None else (slice(None), position)
        where = where if None in (head, position) else (slice(None), position, head)
        activation[where] = value[where]
        return activation

    return hook


def random_pairs(vocabulary=50, start=START):
    rng = torch.Generator().manual_seed(3)
    clean, other = (torch.randint(vocabulary, (N, LENGTH), generator=rng) for _ in range(2))
    corrupted = torch.cat([clean[:, :start], other[:, start:]], 1)
    corrupted[:, -2:] = clean[:, -2:]  # as in the toy reviews, the prompts end alike
    answers = torch.stack([torch.randperm(vocabulary, generator=rng)[:4] for _ in range(N)]).view(N, 2, 2)
    return PromptPairs(clean, corrupted, torch.full((N,), LENGTH - 1), answers)


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        theirs = FAMILIES[request.param]().requires_grad_(requires_grad=False)
        folder = oracle.save(theirs, tmp_path_factory.mktemp(request.param))
        model = load(folder, dtype=torch.float64)
        yield model, Judge(folder, model, random_pairs(), patch)


@pytest.mark.parametrize("component", COMPONENTS)
def test_heads_are_patched_as_by_hooks(case, component):
    model, judge = case
    found = patch_heads(model, judge.pairs, 64, [component])
    assert (found.clean - judge.differences(judge.pairs.clean)).abs().max() < judge.close
    assert (found.corrupted - judge.differences(judge.pairs.corrupted)).abs().max() < judge.close
    moved = 0.0
    for layer in range(LAYERS):
        name = name_of(layer, component)
        for head in range(HEADS):
            expected = judge.differences(judge.pairs.corrupted, [(name, put(judge.clean[name], head=head))])
            assert (found.patched[component][layer, head] - expected).abs().max() < judge.close
            moved = max(moved, float((expected - found.corrupted).abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("site", SITES)
def test_positions_are_patched_as_by_hooks(case, site):
    model, judge = case
    found = patch_positions(model, judge.pairs, 64, SITES).patched[site]
    for layer in range(LAYERS):
        name = name_of(layer, site)
        for position in (0, *range(START, LENGTH)):
            expected = judge.differences(judge.pairs.corrupted, [(name, put(judge.clean[name], position=position))])
            assert (found[layer, position] - expected).abs().max() < judge.close


def test_heads_at_positions_are_patched_as_by_hooks(case):
    model, judge = case
    done = patch_heads_at_positions(model, judge.pairs, 64)
    found, moved = done.patched[HEAD_AT_POSITION], 0.0
    assert found.shape == (LAYERS, HEADS, LENGTH, N)
    for layer in range(LAYERS):
        name = name_of(layer, "z")
        for head in range(HEADS):
            for position in (0, *range(START, LENGTH)):
                hook = put(judge.clean[name], head, position)
                expected = judge.differences(judge.pairs.corrupted, [(name, hook)])
                assert (found[layer, head, position] - expected).abs().max() < judge.close
                moved = max(moved, float((expected - done.corrupted).abs().max()))
    assert moved > 1e-3


def test_some_layers_are_patched_as_among_all(case):
    model, judge = case
    some = (0, LAYERS - 1)
    for work in (patch_heads, patch_positions, patch_heads_at_positions):
        every, few = work(model, judge.pairs, 64).patched, work(model, judge.pairs, 64, layers=some).patched
        assert every and all((few[name] - values[list(some)]).abs().max() < 1e-12 for name, values in every.items())


def test_chunks_change_nothing(case):
    model, judge = case
    for work in (patch_heads, patch_positions, patch_heads_at_positions):
        whole, parts = (work(model, judge.pairs, chunk) for chunk in (64, 4))
        for name, values in whole.patched.items():
            assert (values - parts.patched[name]).abs().max() < 1e-12


def test_the_whole_stream_carries_everything_and_ends_must_agree(case):
    model, judge = case
    found = patch_positions(model, judge.pairs, 64, ["resid_pre"])
    assert (found.patched["resid_pre"][:, :START] == found.corrupted).all()  # nothing differs there
    one = PromptPairs(judge.pairs.clean, judge.pairs.clean.clone(), judge.pairs.end, judge.pairs.answers)
    one.corrupted[:, 3] = judge.pairs.corrupted[:, 3]  # one word alone: patching it at the start is everything
    one.clean.copy_(judge.pairs.clean)
    alone = patch_positions(model, one, 64, ["resid_pre"])
    assert (alone.patched["resid_pre"][0, 3] - alone.clean).abs().max() < 1e-12
    ragged = PromptPairs(one.clean, one.corrupted, torch.arange(N), one.answers)
    with pytest.raises(ValueError, match="END is not at one position"):
        patch_heads(model, ragged, 8)


# ---- paths ----------------------------------------------------------------------------------------------------------


def frozen(judge, sender, position=None):
    """Hooks of the second step: all z clean but the sender's, which is the corrupted run's, at one position or at all."""
    found = []
    for layer in range(LAYERS):
        name = name_of(layer, "z")
        value = judge.clean[name].clone()
        where = slice(None) if position is None else position
        if layer == sender[0]:
            value[:, where, sender[1]] = judge.corrupted[name][:, where, sender[1]]
        found.append((name, lambda activation, hook, value=value: value))
    return found


def literal_path(judge, sender, receivers, position=None):
    """The three steps as they are described; receivers are (layer, head) pairs, or None for the final stream."""
    final, kept = f"blocks.{LAYERS - 1}.hook_resid_post", {}
    names = {name_of(layer, "v") for layer, _ in receivers or ()} or {final}

    def keep(name):  # a hook may go by another name than the one that it was asked for by
        return lambda activation, hook: kept.setdefault(name, activation.clone())

    judge.differences(judge.pairs.clean, [*frozen(judge, sender, position), *((name, keep(name)) for name in names)])
    if receivers is None:
        return judge.differences(judge.pairs.clean, [(final, lambda activation, hook: kept[final])])
    hooks = [(name_of(layer, "v"), put(kept[name_of(layer, "v")], head=head)) for layer, head in receivers]
    return judge.differences(judge.pairs.clean, hooks)


def test_paths_to_the_final_stream_are_the_three_steps(case):
    model, judge = case
    whole, parts = (final_paths(model, judge.pairs, chunk) for chunk in (64, 2))
    found = whole.patched["final"]
    assert (found - parts.patched["final"]).abs().max() < 1e-12
    assert (whole.clean - judge.differences(judge.pairs.clean)).abs().max() < judge.close
    assert (whole.corrupted - judge.differences(judge.pairs.corrupted)).abs().max() < judge.close
    for layer in range(LAYERS):
        for head in (0, 2):
            assert (found[layer, head] - literal_path(judge, (layer, head), None)).abs().max() < judge.close


def test_paths_to_values_are_the_three_steps(case):
    model, judge = case
    wanted = {
        "high": Wanted([(2, 0), (2, 3)]),
        "both": Wanted([(1, 1), (2, 2)], (None, 0, 2, 4)),
        "low": Wanted([(1, 0)], (3,)),
    }
    whole, parts = (value_paths(model, judge.pairs, wanted, chunk) for chunk in (64, 4))
    assert set(whole) == {(name, position) for name, want in wanted.items() for position in want.positions}
    plain, moved = judge.differences(judge.pairs.clean), 0.0
    for (name, position), values in whole.items():
        assert (values - parts[name, position]).abs().max() < 1e-12
        assert (values[max(layer for layer, _ in wanted[name].heads) :] - plain).abs().max() < judge.close  # nobody hears them
        for layer, head in ((0, 0), (0, 3), (1, 1), (1, 2)):
            expected = literal_path(judge, (layer, head), wanted[name].heads, position)
            assert (values[layer, head] - expected).abs().max() < judge.close, (name, position, layer, head)
            moved = max(moved, float((expected - plain).abs().max()))
    assert moved > 1e-3


def test_a_set_of_receivers_may_be_empty(case):
    model, judge = case
    assert value_paths(model, judge.pairs, {}, 8) == {}


# ---- direct attribution ---------------------------------------------------------------------------------------------


def judged(judge, vectors):
    """Return what the judge's own stacks give: the accumulated stream, every writer, every head, by label."""
    judge.bridge.set_use_attn_result(True)
    cache = judge.cache(judge.pairs.clean)
    middle = not judge.parallel
    stacks = [
        cache.accumulated_resid(incl_mid=middle, return_labels=True, pos_slice=-1),
        cache.decompose_resid(return_labels=True, pos_slice=-1),
        cache.stack_head_results(return_labels=True, pos_slice=-1),
    ]
    found = {}
    for stack, labels in stacks:
        stack = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
        found |= {label: (part * vectors).sum(-1) for label, part in zip(labels, stack, strict=True)}
    return found, cache


@torch.no_grad()
def test_attribution_is_the_judge_s(case):
    model, judge = case
    pairs = judge.pairs
    unembed = judge.bridge.W_U.T.double()  # [V d]
    rows = unembed[pairs.answers]
    expected, _ = judged(judge, (rows[:, :, 0] - rows[:, :, 1]).mean(1))
    for chunk in (2, 64):
        found = attribution(model, pairs.clean, pairs.end, pairs.answers, chunk)
        ours = {"final_post" if k == LAYERS else f"{int(k)}_{'mid' if k % 1 else 'pre'}": v for k, v in found.lens.items()}
        ours |= found.layers | {f"L{l}H{h}": found.heads[l, h] for l in range(LAYERS) for h in range(HEADS)}
        assert set(ours) == set(expected)
        for label, values in expected.items():
            assert (ours[label] - values).abs().max() < judge.close, label
    # Everything but the final norm's shift is some writer's; with it they are the logit difference.
    shift = judge.bridge.b_U[pairs.answers]
    total = sum(found.layers.values()) + (shift[:, :, 0] - shift[:, :, 1]).mean(1)
    assert (total - judge.differences(pairs.clean)).abs().max() < judge.close
    assert (sum(found.layers.values()) - found.lens[float(LAYERS)]).abs().max() < 1e-12


@torch.no_grad()
def test_head_outputs_along_an_answer_are_the_judge_s(case):
    model, judge = case
    unembed = judge.bridge.W_U.T.double()[judge.pairs.answers[:, :, 0]].mean(1)
    expected, _ = judged(judge, unembed)
    run = plain_run(model, judge.pairs.clean, {"end": judge.pairs.end}).at["end"]
    w = scaled(model, answer_vectors(model, judge.pairs.answers[:, :, 0]), run.final)
    dots = (head_outputs(model, run) * w).sum(-1)
    for layer in range(LAYERS):
        for head in range(HEADS):
            assert (dots[layer, head] - expected[f"L{layer}H{head}"]).abs().max() < judge.close
