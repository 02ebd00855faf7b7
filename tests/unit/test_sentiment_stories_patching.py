"""Values patched at some positions, with patterns frozen or free, against transformers' own models with hooks, in float64."""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.methods.direction_hooks import PromptPairs
from recircuit.methods.value_patching import ValuePatch, position_paths, value_patching

N, LENGTH, LAYERS, HEADS = 10, 9, 3, 4
COMMAS = (3, 6)  # tokens that both runs share
FAMILIES = {"gpt2": oracle.random_gpt2, "neox": oracle.random_neox}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        theirs = FAMILIES[request.param]().requires_grad_(requires_grad=False)
        yield theirs, load(oracle.save(theirs, tmp_path_factory.mktemp(request.param)), dtype=torch.float64)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    theirs = oracle.random_gpt2(layers=1).requires_grad_(requires_grad=False)
    return theirs, load(oracle.save(theirs, tmp_path_factory.mktemp("one")), dtype=torch.float64)


def pairs_of(n=N, seed=0):
    """Prompts whose tokens differ before the last two, but for those at COMMAS."""
    rng = torch.Generator().manual_seed(seed)
    clean, corrupted = (torch.randint(50, (n, LENGTH), generator=rng) for _ in range(2))
    for same in (*COMMAS, LENGTH - 2, LENGTH - 1):
        corrupted[:, same] = clean[:, same]
    answers = torch.stack([torch.randperm(50, generator=rng)[:4] for _ in range(n)]).view(n, 2, 2)
    return PromptPairs(clean, corrupted, torch.full((n,), LENGTH - 1), answers)


def differences(logits, pairs):
    """Return the mean over answer pairs of correct less incorrect, at the end."""
    rows = []
    for row, end, own in zip(logits, pairs.end.tolist(), pairs.answers.tolist(), strict=True):
        rows.append(sum(row[end, good] - row[end, bad] for good, bad in own) / len(own))
    return torch.stack(rows)


def projections(theirs):
    """Return the module that computes queries, keys and values of each layer, and the one that reads z."""
    if hasattr(theirs, "transformer"):
        return [(block.attn.c_attn, block.attn.c_proj) for block in theirs.transformer.h]
    return [(layer.attention.query_key_value, layer.attention.dense) for layer in theirs.gpt_neox.layers]


def split(theirs, out):
    """Return views of q, k, v [n T H e] in what such a module gives: side by side in GPT-2, head by head in NeoX."""
    if hasattr(theirs, "transformer"):
        return [part.unflatten(-1, (HEADS, -1)) for part in out.split(out.shape[-1] // 3, -1)]
    return list(out.unflatten(-1, (HEADS, -1)).chunk(3, -1))


def run(theirs, tokens, edit=None, edit_z=None):
    """Return logits, and (q, k, v) and z of every layer; ``edit(layer, q, k, v)`` and ``edit_z(layer, z)`` change them."""
    kept, zs, handles = [], [], []
    for layer, (module, reader) in enumerate(projections(theirs)):

        def hook(module, args, out, layer=layer):
            out = out.clone()
            parts = split(theirs, out)
            if edit:
                edit(layer, *parts)
            kept.append([part.clone() for part in parts])
            return out

        def before(module, args, layer=layer):
            z = args[0].clone().unflatten(-1, (HEADS, -1))
            if edit_z:
                edit_z(layer, z)
            zs.append(z)
            return (z.flatten(-2),)

        handles += [module.register_forward_hook(hook), reader.register_forward_pre_hook(before)]
    logits = theirs(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, kept, zs


def patched(theirs, pairs, patch):
    """The literal definition: hooks that overwrite values, and queries and keys where patterns are frozen."""
    _, clean, _ = run(theirs, pairs.clean)
    _, corrupted, _ = run(theirs, pairs.corrupted)

    def edit(layer, q, k, v):
        if patch.frozen:
            q.copy_(clean[layer][0])
            k.copy_(clean[layer][1])
        for position in patch.positions:
            if patch.layers is None or layer in patch.layers:
                v[:, position] = corrupted[layer][2][:, position]
        for position in patch.held:
            v[:, position] = clean[layer][2][:, position]

    return differences(run(theirs, pairs.clean, edit)[0], pairs)


PATCHES = {
    "free": ValuePatch((1, 2, 3, 4, 5, 6), frozen=False),
    "frozen": ValuePatch(COMMAS),
    "held": ValuePatch((1, 2, 4, 5), held=COMMAS),
    "held, one layer": ValuePatch((1, 2, 4, 5), held=COMMAS, layers=range(1, 2)),
    "held, free": ValuePatch((1, 4), held=COMMAS, frozen=False),
    "everywhere": ValuePatch(range(LENGTH)),
}


def test_values_are_patched_as_hooks_do(family):
    theirs, model = family
    pairs = pairs_of()
    found = value_patching(model, pairs, list(PATCHES.values()), chunk=8)
    assert (found.clean - differences(theirs(pairs.clean).logits, pairs)).abs().max() < 1e-10
    assert (found.corrupted - differences(theirs(pairs.corrupted).logits, pairs)).abs().max() < 1e-10
    for row, (name, patch) in zip(found.patched, PATCHES.items(), strict=True):
        assert (row - patched(theirs, pairs, patch)).abs().max() < 1e-10, name
        assert (row - found.clean).abs().max() > 1e-3, name
    assert len({round(float(row.mean()), 6) for row in found.patched}) == len(PATCHES)


def test_what_cannot_change_the_answer_does_not(family):
    _, model = family
    pairs = pairs_of()
    same = PromptPairs(pairs.clean, pairs.clean, pairs.end, pairs.answers)
    ended = LENGTH - 1  # what stands there is read by itself alone, and is the same in both runs up to layer 0
    nothing = [
        ValuePatch(()),
        ValuePatch((), held=range(LENGTH)),
        ValuePatch((1, 4), layers=range(0)),
        ValuePatch(COMMAS, layers=range(1)),  # the stream that enters layer 0 at a comma is the same in both runs
        ValuePatch((ended,), layers=range(1), frozen=False),
    ]
    found = value_patching(model, pairs, nothing, chunk=16)
    assert (found.patched - found.clean).abs().max() < 1e-12
    again = value_patching(model, same, list(PATCHES.values()), chunk=16)
    assert (again.patched - again.clean).abs().max() < 1e-12


def test_values_of_the_whole_corrupted_run_leave_only_the_last_token_s_own_stream(gpt2):
    """One layer, all values patched, patterns free: the attention output is the clean pattern's mean of the other values."""
    theirs, model = gpt2
    pairs = pairs_of()
    block = theirs.transformer.h[0]

    def entering(tokens):
        return theirs.transformer.wte(tokens) + theirs.transformer.wpe(torch.arange(LENGTH))

    width = theirs.config.n_embd
    clean, corrupted = entering(pairs.clean), entering(pairs.corrupted)
    q, k, _ = block.attn.c_attn(block.ln_1(clean)).split(width, -1)
    v = block.attn.c_attn(block.ln_1(corrupted)).split(width, -1)[2]
    q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in (q, k, v))
    scores = torch.einsum("nhe,nkhe->nhk", q[:, -1], k) / (width // HEADS) ** 0.5  # the last token sees all
    z = torch.einsum("nhk,nkhe->nhe", scores.softmax(-1), v)
    mid = clean[:, -1] + block.attn.c_proj(z.flatten(1))
    final = theirs.transformer.ln_f(mid + block.mlp(block.ln_2(mid)))
    expected = differences((final @ theirs.lm_head.weight.T)[:, None].expand(-1, LENGTH, -1), pairs)
    found = value_patching(model, pairs, [ValuePatch(range(LENGTH), frozen=False), ValuePatch(range(LENGTH))], chunk=16)
    assert (found.patched - expected).abs().max() < 1e-10


def test_a_position_is_patched_or_held():
    pairs = pairs_of()
    with pytest.raises(ValueError, match="position 4"):
        value_patching(None, pairs, [ValuePatch((1, 4), held=(4, 6))], chunk=8)


def test_chunks_change_nothing(family):
    _, model = family
    pairs = pairs_of(n=21)
    whole, parts = (value_patching(model, pairs, list(PATCHES.values()), chunk).patched for chunk in (64, 8))
    assert (whole - parts).abs().max() < 1e-12
    for kind in ("reads", "writes"):
        whole, parts = (position_paths(model, pairs, COMMAS, kind, chunk) for chunk in (1000, 8))
        assert (whole - parts).abs().max() < 1e-12


def test_a_head_that_reads_the_corrupted_commas_is_path_patched(family):
    """Senders: the stream at the commas; receiver: one head's values. Three runs with hooks, all positions, free patterns."""
    theirs, model = family
    pairs = pairs_of()
    zs = run(theirs, pairs.corrupted)[2]

    def senders(layer, z):
        z[:, list(COMMAS)] = zs[layer][:, list(COMMAS)]

    # Second step: what all heads write at the commas is the corrupted run's; every head's other writes stay clean.
    clean = run(theirs, pairs.clean)

    def frozen(layer, z):
        z.copy_(clean[2][layer])
        senders(layer, z)

    received = run(theirs, pairs.clean, edit_z=frozen)[1]
    found = position_paths(model, pairs, COMMAS, "reads", chunk=64)
    for layer in range(LAYERS):
        for head in range(HEADS):

            def third(here, q, k, v, layer=layer, head=head):
                if here == layer:
                    v[:, :, head] = received[layer][2][:, :, head]

            expected = differences(run(theirs, pairs.clean, third)[0], pairs)
            assert (found[layer, head] - expected).abs().max() < 1e-10
    assert (found[0] - differences(clean[0], pairs)).abs().max() < 1e-12  # commas enter layer 0 as in the clean run
    assert (found[1:] - differences(clean[0], pairs)).abs().amax(-1).min() > 1e-6


def test_a_head_that_writes_at_the_commas_as_in_the_corrupted_run(family):
    theirs, model = family
    pairs = pairs_of()
    zs = run(theirs, pairs.corrupted)[2]
    found = position_paths(model, pairs, COMMAS, "writes", chunk=64)
    for layer in range(LAYERS):
        for head in range(HEADS):

            def edit(here, z, layer=layer, head=head):
                if here == layer:
                    z[:, list(COMMAS), head] = zs[layer][:, list(COMMAS), head]

            expected = differences(run(theirs, pairs.clean, edit_z=edit)[0], pairs)
            assert (found[layer, head] - expected).abs().max() < 1e-10
    plain = differences(theirs(pairs.clean).logits, pairs)
    assert (found[-1] - plain).abs().max() < 1e-12  # nothing reads what the last layer writes at a comma
    assert (found[0] - plain).abs().amax(-1).min() > 1e-6
