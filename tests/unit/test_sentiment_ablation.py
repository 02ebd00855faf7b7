"""Ablations on reviews: many edits at once against transformers' own models with hooks, masks, means, filters, summaries."""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.methods.direction_hooks import edited_differences, remove, to_mean, to_mean_but
from recircuit.methods.directions import unit
from recircuit.methods.stream_edits import Edit, edited_ends

N, LENGTH, WIDTH, LAYERS = 9, 8, 32, 3
FAMILIES = {"gpt2": oracle.random_gpt2, "neox": oracle.random_neox}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        theirs = FAMILIES[request.param]().requires_grad_(requires_grad=False)
        yield theirs, load(oracle.save(theirs, tmp_path_factory.mktemp(request.param)), dtype=torch.float64)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def reviews_of(seed=0, n=N):
    """Tokens, ends and answers of prompts that are read at the last position."""
    tokens = torch.randint(50, (n, LENGTH), generator=rng(seed))
    answers = torch.stack([torch.randperm(50, generator=rng(seed + 1 + i))[:2] for i in range(n)])[:, None]
    return tokens, torch.full((n,), LENGTH - 1), answers


def blocks_of(theirs):
    return theirs.transformer.h if hasattr(theirs, "transformer") else theirs.gpt_neox.layers


def attentions_of(theirs):
    """Return the module of each layer that computes queries, keys and values, and the width of a head's part of it."""
    if hasattr(theirs, "transformer"):
        return [block.attn.c_attn for block in theirs.transformer.h]
    return [layer.attention.query_key_value for layer in theirs.gpt_neox.layers]


def queries_and_keys(theirs, out):
    """Return views of q and k in what such a module gives."""
    if hasattr(theirs, "transformer"):
        return out.split(WIDTH, -1)[:2]
    return out.unflatten(-1, (theirs.config.num_attention_heads, -1)).chunk(3, -1)[:2]


def literal(theirs, tokens, answers, change, mask, frozen=False):
    """Hooks on every block that change the masked tokens one by one; with ``frozen`` queries and keys are the plain run's."""
    kept, handles = [], []
    for module in attentions_of(theirs):
        handles.append(module.register_forward_hook(lambda module, args, out: kept.append(out.clone())))
    theirs(tokens)
    for handle in handles:
        handle.remove()
    handles = []

    def after(layer):
        def hook(module, args, out):
            stream = out[0] if isinstance(out, tuple) else out
            stream = stream.clone()
            for row, position in mask.nonzero().tolist():
                stream[row, position] = change(layer, stream[row, position])
            return (stream, *out[1:]) if isinstance(out, tuple) else stream

        return hook

    def as_before(layer):
        def hook(module, args, out):
            out = out.clone()
            for own, old in zip(queries_and_keys(theirs, out), queries_and_keys(theirs, kept[layer]), strict=True):
                own.copy_(old)
            return out

        return hook

    for layer, (block, module) in enumerate(zip(blocks_of(theirs), attentions_of(theirs), strict=True)):
        handles.append(block.register_forward_hook(after(layer)))
        if frozen:
            handles.append(module.register_forward_hook(as_before(layer)))
    logits = theirs(tokens).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits.gather(1, answers[:, 0, :1])[:, 0] - logits.gather(1, answers[:, 0, 1:])[:, 0]


def masks():
    """Masks by name, each with rows that have none."""
    drawn = torch.rand(N, LENGTH, generator=rng(7))
    late = torch.zeros(N, LENGTH, dtype=torch.bool)
    late[:, 3:6] = drawn[:, 3:6] < 0.5
    late[0] = False
    every, end = torch.ones(N, LENGTH, dtype=torch.bool), torch.zeros(N, LENGTH, dtype=torch.bool)
    end[:, -1] = True
    return {"some": drawn < 0.4, "late": late, "all": every, "late and end": late | end}


def changes():
    """Return (our change, the same for one vector, written out) by name."""
    directions, means = (torch.randn(LAYERS, WIDTH, generator=rng(seed), dtype=torch.float64) for seed in (11, 12))
    axes = directions / directions.square().sum(1, keepdim=True).sqrt()

    def kept(layer, x):
        return means[layer] - (means[layer] @ axes[layer]) * axes[layer] + (x @ axes[layer]) * axes[layer]

    return {
        "removed": (remove(directions), lambda layer, x: x - (x @ axes[layer]) * axes[layer]),
        "mean": (to_mean(means), lambda layer, x: means[layer]),
        "inverse": (to_mean_but(means, directions), kept),
        "inverse, added": (
            to_mean_but(means, directions, added=True),
            lambda layer, x: means[layer] + (x @ axes[layer]) * axes[layer],
        ),
    }


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", list(changes()))
def test_edits_of_masked_tokens_are_those_of_hooks(family, name, frozen):
    theirs, model = family
    tokens, end, answers = reviews_of()
    ours, one = changes()[name]
    found = edited_ends(model, tokens, end, answers, [Edit(ours, mask, frozen) for mask in masks().values()])
    plain = literal(theirs, tokens, answers, one, torch.zeros(N, LENGTH, dtype=torch.bool))
    for row, (where, mask) in zip(found, masks().items(), strict=True):
        assert (row - literal(theirs, tokens, answers, one, mask, frozen)).abs().max() < 1e-10, where
        assert (row - edited_differences(model, tokens, end, answers, ours, N, mask, frozen=frozen)).abs().max() < 1e-10
        assert (row - plain).abs().max() > 1e-3
    assert (found[1, 0] - plain[0]).abs() < 1e-12  # the first review has no token in the second mask


def test_an_ablation_done_twice_is_done_once(family):
    _, model = family
    tokens, end, answers = reviews_of(seed=3)
    directions = torch.randn(LAYERS, WIDTH, generator=rng(5), dtype=torch.float64)
    once, flipped = remove(directions), remove(-3 * directions)

    def twice(layer, x):
        return once(layer, once(layer, x))

    edits = [Edit(change, masks()["some"]) for change in (once, twice, flipped)]
    found = edited_ends(model, tokens, end, answers, edits)
    assert (found[1:] - found[0]).abs().max() < 1e-12
    nothing = [
        Edit(remove(torch.zeros_like(directions)), masks()["all"]),
        Edit(lambda layer, x: x, masks()["some"], frozen=True),
    ]
    none = torch.zeros(N, LENGTH, dtype=torch.bool)
    plain = edited_ends(model, tokens, end, answers, [Edit(once, none)])[0]
    assert (edited_ends(model, tokens, end, answers, nothing) - plain).abs().max() < 1e-12
    assert (plain - edited_differences(model, tokens, end, answers, lambda layer, x: x, 4)).abs().max() < 1e-12


def test_a_layer_more_or_less(tmp_path):
    """A model of one layer: what leaves it is read at once, so that only the last token's own part goes."""
    theirs = oracle.random_gpt2(layers=1).requires_grad_(requires_grad=False)
    model = load(oracle.save(theirs, tmp_path), dtype=torch.float64)
    tokens, end, answers = reviews_of()
    direction = torch.randn(1, WIDTH, generator=rng(5), dtype=torch.float64)
    found = edited_ends(model, tokens, end, answers, [Edit(remove(direction), masks()[name]) for name in ("late", "all")])
    x = theirs.transformer(tokens, output_hidden_states=True)
    stream = []
    handle = theirs.transformer.ln_f.register_forward_pre_hook(lambda module, args: stream.append(args[0]))
    theirs(tokens)
    handle.remove()
    d = unit(direction)[0]
    for row, final in zip(found, (stream[0], stream[0] - (stream[0] @ d)[..., None] * d), strict=True):
        logits = theirs.transformer.ln_f(final[:, -1]) @ theirs.lm_head.weight.T
        expected = logits.gather(1, answers[:, 0, :1]) - logits.gather(1, answers[:, 0, 1:])
        assert (row - expected[:, 0]).abs().max() < 1e-10
    assert x is not None
