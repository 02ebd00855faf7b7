"""Directional patching, edits of the stream and logit differences against transformers' own models with hooks, in float64."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score

import oracle
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.methods import direction_hooks as hooks
from recircuit.methods.direction_hooks import (
    Patch,
    PromptPairs,
    accuracy,
    bias,
    centred,
    denoising,
    directional_patching,
    edited_differences,
    edited_stream,
    frame_of,
    leaving,
    logit_difference,
    logit_flip,
    masked_means,
    next_token_losses,
    noising,
    partners,
    probability_difference,
    read,
    readout,
    remove,
    resample,
    shift,
    steered,
    streams,
    to_mean,
    to_mean_but,
)
from recircuit.runs.generation import generate
from sentiment_oracle import family_fixture, frozen

N, LENGTH, WIDTH, LAYERS = 10, 7, 32, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def pairs_of(start=2, seed=0, n=N):
    """Prompts that differ from position ``start`` on, with three answer pairs each."""
    clean, other = (torch.randint(50, (n, LENGTH), generator=rng(seed + i)) for i in (0, 1))
    corrupted = torch.cat([clean[:, :start], other[:, start:]], 1)
    answers = torch.stack([torch.randperm(50, generator=rng(seed + 2 + i))[:6] for i in range(n)]).view(n, 3, 2)
    return PromptPairs(clean, corrupted, torch.full((n,), LENGTH - 1), answers)


family = family_fixture("gpt2", "neox", "llama")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return frozen(oracle.random_gpt2(), tmp_path_factory.mktemp("gpt2"))


def blocks_of(theirs):
    inner = getattr(theirs, theirs.base_model_prefix)
    return inner.h if hasattr(inner, "h") else inner.layers


def final_norm(theirs):
    inner = getattr(theirs, theirs.base_model_prefix)
    return inner.ln_f if hasattr(inner, "ln_f") else getattr(inner, "final_layer_norm", None) or inner.norm


def hooked(theirs, tokens, entering=None, leaving=None):
    """Return logits and the stream entering each layer and the final norm, with replacements.

    ``entering`` maps a layer (or the number of layers, for the final norm) to a function of the stream, ``leaving`` too.
    """
    entering, leaving, kept, handles = entering or {}, leaving or {}, {}, []

    def before(layer):
        def hook(module, args):
            kept[layer] = entering[layer](args[0]) if layer in entering else args[0]
            return (kept[layer], *args[1:])

        return hook

    for layer, part in enumerate([*blocks_of(theirs), final_norm(theirs)]):
        handles.append(part.register_forward_pre_hook(before(layer)))
        if layer in leaving:
            handles.append(part.register_forward_hook(lambda module, args, out, f=leaving[layer]: f(out)))
    logits = theirs(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, [kept[layer] for layer in range(len(blocks_of(theirs)) + 1)]


def differences_of(logits, pairs):
    """Return logit differences, one prompt and one pair after the other."""
    found = []
    for row, end, own in zip(logits, pairs.end.tolist(), pairs.answers.tolist(), strict=True):
        found.append(sum(row[end, good] - row[end, bad] for good, bad in own) / len(own))
    return torch.stack(found)


# ---- metrics --------------------------------------------------------------------------------------------------------


def test_differences_are_means_over_answer_pairs():
    logits, pairs = random(N, LENGTH, 50), pairs_of()
    rows = torch.arange(N)
    picked = logits[rows, pairs.end][rows[:, None, None], pairs.answers]
    assert (logit_difference(picked) - differences_of(logits, pairs)).abs().max() < 1e-12
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    found = probability_difference(logits[rows, pairs.end], pairs.answers)
    assert (found - differences_of(probabilities, pairs)).abs().max() < 1e-12


def test_denoising_and_noising_are_one_scale():
    clean, corrupted, patched = random(N) + 2, random(N, seed=1) - 2, random(4, N, seed=2)
    found = denoising(patched, clean, corrupted)
    for row, value in zip(patched, found.tolist(), strict=True):
        expected = 100 * (row.sum() - corrupted.sum()) / (clean.sum() - corrupted.sum())
        assert value == pytest.approx(float(expected), rel=1e-12)
    for run, high, low in ((clean, 100, 0), (corrupted, 0, -1)):
        assert float(denoising(run, clean, corrupted)) == pytest.approx(high, abs=1e-10)
        assert float(noising(run, clean, corrupted)) == pytest.approx(low, abs=1e-10)
    expected = (patched.mean(1) - clean.mean()) / (clean.mean() - corrupted.mean())
    assert (noising(patched, clean, corrupted) - expected).abs().max() < 1e-12
    scores, full = (part.numpy() for part in (patched - corrupted, clean - corrupted))
    low, high = bootstrap_percent(scores, full, stream(0, "test"))
    assert (low < found.numpy()).all() and (found.numpy() < high).all()  # the study's intervals are of this percentage


def test_centring_takes_the_preference_for_an_answer_off():
    positive = torch.arange(N) % 2 == 0
    signs = torch.where(positive, 1.0, -1.0)
    plain = random(N)
    assert float(bias(plain + 3 * signs, positive)) == pytest.approx(float(bias(plain, positive)) + 3)
    assert (centred(plain + 3 * signs, positive) - centred(plain, positive)).abs().max() < 1e-12
    found = centred(plain, positive)
    assert float(found.mean()) == pytest.approx(float(plain.mean()))  # as many of each class
    assert float(found[positive].mean()) == pytest.approx(float(found[~positive].mean()))
    unequal = torch.arange(N) < 7
    beta = sum(v if s else -v for v, s in zip(plain.tolist(), unequal.tolist(), strict=True)) / N
    expected = [v - (beta if s else -beta) for v, s in zip(plain.tolist(), unequal.tolist(), strict=True)]
    assert centred(plain, unequal).tolist() == pytest.approx(expected)
    both = centred(torch.stack([plain, 2 * plain]), unequal)
    assert (both[1] - 2 * both[0]).abs().max() < 1e-12 and (both[0] - centred(plain, unequal)).abs().max() < 1e-12


def test_flips_are_of_accuracies_centred_over_all_prompts():
    positive = torch.arange(40) % 2 == 0
    signs = torch.where(positive, 1.0, -1.0)
    clean, corrupted, patched = random(40) + 2 + 3 * signs, random(40, seed=1) - 1 - signs, random(3, 40, seed=2) + 1.5 * signs

    def share(values, centre):
        """Guess the class from the sign of what favours the positive answer, centred or not."""
        favours = values * signs
        return accuracy_score(positive, favours > (favours.mean() if centre else 0))

    for centre in (True, False):
        found = logit_flip(patched, clean, corrupted, positive if centre else None)
        good, bad = share(clean, centre), share(corrupted, centre)
        expected = [100 * (share(row, centre) - bad) / (good - bad) for row in patched]
        assert found.tolist() == pytest.approx(expected)
    assert (logit_flip(patched, clean, corrupted, positive) != logit_flip(patched, clean, corrupted)).any()
    assert accuracy(torch.tensor([0.0, -1.0, 2.0, 3.0])) == 0.5


# ---- streams and readouts -------------------------------------------------------------------------------------------


def test_streams_and_readouts_are_those_of_the_model(family):
    theirs, model = family
    pairs = pairs_of()
    logits, kept = hooked(theirs, pairs.clean)
    found = streams(model, pairs.clean)
    assert len(found) == LAYERS + 1
    for ours, plain in zip(found, kept, strict=True):
        assert (ours - plain).abs().max() < 1e-10
    end = found[-1][torch.arange(N), pairs.end]
    assert (read(model, end, readout(model, pairs.answers)) - differences_of(logits, pairs)).abs().max() < 1e-10


# ---- directional patching -------------------------------------------------------------------------------------------


def patches_of(seed=0):
    """Patches of several widths and strengths."""
    one, three = frame_of(random(WIDTH, seed=seed)), frame_of(random(3, WIDTH, seed=seed + 1))
    return [Patch(one), Patch(three), Patch(one, -0.5), Patch(three, 0.0, 1.0), Patch(one, 2.0, 0.25)]


def literally(theirs, pairs, layer, patch, positions=None):
    """Return the logit differences of a whole run with a hook, the patch built up from its axes."""
    clean, corrupted = (hooked(theirs, tokens)[1][layer] for tokens in (pairs.clean, pairs.corrupted))
    inside = torch.zeros_like(clean)
    for axis in patch.frame.T:
        inside = inside + ((clean - corrupted) * axis).sum(-1, keepdim=True) * axis
    change = patch.along * inside + patch.across * (clean - corrupted - inside)
    change = change if positions is None else change * positions[..., None]
    return differences_of(hooked(theirs, pairs.corrupted, {layer: lambda x: x + change})[0], pairs), inside, clean - corrupted


@pytest.mark.parametrize("start", [0, 2, LENGTH - 1])
@pytest.mark.parametrize("chunk", [8, 64])
def test_patching_is_a_hook_on_a_whole_run(family, start, chunk):
    theirs, model = family
    pairs = pairs_of(start)
    patches = {layer: patches_of(layer) for layer in (3, 0, 1, 2)}
    found = directional_patching(model, pairs, patches, chunk)
    for ours, tokens in ((found.clean, pairs.clean), (found.corrupted, pairs.corrupted)):
        assert (ours - differences_of(hooked(theirs, tokens)[0], pairs)).abs().max() < 1e-10
    for layer, chosen in patches.items():
        assert found.patched[layer].shape == (5, N)
        for i, patch in enumerate(chosen):
            expected, inside, delta = literally(theirs, pairs, layer, patch)
            assert (found.patched[layer][i] - expected).abs().max() < 1e-10
            assert (found.shares[layer][i] - inside.square().sum((1, 2))).abs().max() < 1e-9
        assert (found.wholes[layer] - delta.square().sum((1, 2))).abs().max() < 1e-9
        assert (found.patched[layer][0] - found.corrupted).abs().max() > 1e-4


@pytest.mark.parametrize("start", [2, 5])
def test_patching_some_positions_and_reading_before_the_last_one(gpt2, start):
    """Some prompts are read before the first position at which they differ, where nothing has changed yet."""
    theirs, model = gpt2
    pairs = pairs_of(start)
    pairs = PromptPairs(pairs.clean, pairs.corrupted, torch.arange(N) % 3 + 3, pairs.answers)
    mask = torch.rand(N, LENGTH, generator=rng(4)) < 0.5
    patches = {1: patches_of(), 3: patches_of(7)[:2]}
    found = directional_patching(model, pairs, patches, 8, mask)
    for layer, chosen in patches.items():
        for i, patch in enumerate(chosen):
            expected, inside, delta = literally(theirs, pairs, layer, patch, mask)
            seen = mask & (torch.arange(LENGTH) <= int(pairs.end.max()))
            assert (found.patched[layer][i] - expected).abs().max() < 1e-10
            assert (found.shares[layer][i] - (inside * seen[..., None]).square().sum((1, 2))).abs().max() < 1e-9
            assert (found.wholes[layer] - (delta * seen[..., None]).square().sum((1, 2))).abs().max() < 1e-9


def test_the_whole_stream_patched_is_the_clean_run_and_nothing_patched_the_corrupted_one(family):
    model = family[1]
    eye = torch.eye(WIDTH, dtype=torch.float64)
    patches = [Patch(eye), Patch(eye[:, :3], 1.0, 1.0), Patch(eye, 0.0), Patch(eye[:, :3], 0.0, 0.0)]
    found = directional_patching(model, pairs_of(), dict.fromkeys(range(LAYERS + 1), patches), 16)
    for layer in range(LAYERS + 1):
        assert (found.patched[layer][:2] - found.clean).abs().max() < 1e-10
        assert (found.patched[layer][2:] - found.corrupted).abs().max() < 1e-10
        assert (found.shares[layer][0] - found.wholes[layer]).abs().max() < 1e-9
    assert (found.clean - found.corrupted).abs().max() > 0.1


def test_prompts_that_do_not_differ_stay_as_they_are(gpt2):
    pairs = pairs_of()
    pairs = PromptPairs(pairs.clean, pairs.clean, pairs.end, pairs.answers)
    found = directional_patching(gpt2[1], pairs, {1: patches_of()}, 16)
    assert (found.patched[1] - found.clean).abs().max() < 1e-10 and (found.wholes[1] == 0).all()


def test_axes_that_are_not_orthonormal_are_refused(gpt2):
    for frame in (2 * frame_of(random(WIDTH)), random(WIDTH, 2), torch.zeros(WIDTH, 1)):
        with pytest.raises(ValueError, match="not orthonormal"):
            directional_patching(gpt2[1], pairs_of(), {1: [Patch(frame)]}, 16)
    found = frame_of(random(3, WIDTH))
    assert (found.T @ found - torch.eye(3)).abs().max() < 1e-12
    assert (found @ found.T @ random(3, WIDTH).T - random(3, WIDTH).T).abs().max() < 1e-12


# ---- edits of the stream leaving every layer -----------------------------------------------------------------------


def axes(n=LAYERS, seed=0):
    """Vectors that are not of length 1."""
    return 3 * random(n, WIDTH, seed=seed)


def at_mask(change, mask):
    """Return hooks for every layer that replace single tokens, one by one."""

    def of(layer):
        def hook(x):
            x = x.clone()
            for row, position in mask.nonzero().tolist():
                x[row, position] = change(layer, x[row, position])
            return x

        return hook

    return {layer: of(layer) for layer in range(LAYERS)}


def without(layer, vector, directions):
    unit = directions[layer] / directions[layer].norm()
    return vector - (vector @ unit) * unit


def every_mask():
    some = torch.rand(N, LENGTH, generator=rng(3)) < 0.3
    return {"some": some, "all": torch.ones(N, LENGTH, dtype=torch.bool), "none": torch.zeros(N, LENGTH, dtype=torch.bool)}


LITERAL = {
    "remove": (lambda d, m: remove(d), lambda l, v, d, m: without(l, v, d)),
    "hold": (
        lambda d, m: remove(d, torch.arange(3.0)),
        lambda l, v, d, m: without(l, v, d) + l * d[l] / d[l].norm(),
    ),
    "mean": (lambda d, m: to_mean(m), lambda l, v, d, m: m[l]),
    "inverse": (lambda d, m: to_mean_but(m, d), lambda l, v, d, m: without(l, m[l], d) + v - without(l, v, d)),
    "added": (lambda d, m: to_mean_but(m, d, added=True), lambda l, v, d, m: m[l] + v - without(l, v, d)),
    "shift": (lambda d, m: shift(d[1], 1), lambda l, v, d, m: v + d[1] if l == 1 else v),
}


@pytest.mark.parametrize("kind", list(LITERAL))
@pytest.mark.parametrize("where", ["some", "all", "none"])
def test_edits_are_hooks_on_every_layer(family, kind, where):
    theirs, model = family
    pairs, mask, directions, means = pairs_of(), every_mask()[where], axes(), random(LAYERS, WIDTH, seed=8)
    ours, literal = LITERAL[kind]
    hooks = at_mask(lambda layer, vector: literal(layer, vector, directions, means), mask)
    logits, kept = hooked(theirs, pairs.clean, leaving=hooks)
    found = edited_stream(model, pairs.clean, ours(directions, means), mask)
    assert (found - kept[-1]).abs().max() < 1e-10
    other = edited_differences(model, pairs.clean, pairs.end, pairs.answers, ours(directions, means), 8, mask)
    assert (other - differences_of(logits, pairs)).abs().max() < 1e-10
    if where == "all":
        assert (edited_stream(model, pairs.clean, ours(directions, means)) - found).abs().max() < 1e-12
    plain = differences_of(hooked(theirs, pairs.clean)[0], pairs)
    assert bool((other - plain).abs().max() > 1e-3) is (where != "none")


def test_ablation_is_idempotent_and_leaves_nothing_along_its_direction():
    change, x = remove(axes()), random(N, LENGTH, WIDTH)
    for layer in range(LAYERS):
        once = change(layer, x)
        assert (change(layer, once) - once).abs().max() < 1e-12
        assert (once @ axes()[layer]).abs().max() < 1e-12 < (once - x).abs().max()
    kept = to_mean_but(random(LAYERS, WIDTH, seed=8), axes())(1, x)
    assert ((kept - x) @ axes()[1]).abs().max() < 1e-12  # the token's own projection is what is left


def test_directions_are_one_layer_late_as_published_or_aligned(gpt2):
    theirs, model = gpt2
    pairs, entering = pairs_of(), axes(LAYERS + 1)
    assert (leaving(entering, "published") - entering[:LAYERS]).abs().max() == 0
    aligned = leaving(entering, "aligned")
    assert (aligned[:2] - entering[1:3]).abs().max() == 0 and (aligned[2] == 0).all()
    everywhere = torch.ones(N, LENGTH, dtype=torch.bool)
    by_hand = at_mask(lambda layer, vector: without(layer + 1, vector, entering), everywhere)
    del by_hand[LAYERS - 1]
    expected = differences_of(hooked(theirs, pairs.clean, leaving=by_hand)[0], pairs)
    found = edited_differences(model, pairs.clean, pairs.end, pairs.answers, remove(aligned), 16)
    assert (found - expected).abs().max() < 1e-10
    late = edited_differences(model, pairs.clean, pairs.end, pairs.answers, remove(leaving(entering, "published")), 16)
    assert (late - found).abs().max() > 1e-3


# ---- frozen attention -----------------------------------------------------------------------------------------------


def frozen_run(theirs, tokens, changes):
    """Return logits of a GPT-2 whose heads mix values by the unchanged run's own attention, and whose stream is changed."""
    patterns, values, handles = theirs(tokens, output_attentions=True).attentions, {}, []
    for layer, block in enumerate(theirs.transformer.h):

        def keep(module, args, out, layer=layer):
            values[layer] = out[..., -WIDTH:].unflatten(-1, (theirs.config.n_head, -1))

        def mix(module, args, layer=layer):
            return (torch.einsum("nhqk,nkhe->nqhe", patterns[layer], values[layer]).flatten(2),)

        handles += [block.attn.c_attn.register_forward_hook(keep), block.attn.c_proj.register_forward_pre_hook(mix)]
    logits = hooked(theirs, tokens, leaving=changes)[0]
    for handle in handles:
        handle.remove()
    return logits


@pytest.mark.parametrize("where", ["some", "all", "none"])
def test_frozen_attention_is_that_of_the_unchanged_run(gpt2, where):
    theirs, model = gpt2
    pairs, mask, directions = pairs_of(), every_mask()[where], axes()
    changes = at_mask(lambda layer, vector: without(layer, vector, directions), mask)
    expected = differences_of(frozen_run(theirs, pairs.clean, changes), pairs)
    run = (model, pairs.clean, pairs.end, pairs.answers, remove(directions), 8, mask)
    assert (edited_differences(*run, frozen=True) - expected).abs().max() < 1e-10
    assert bool((edited_differences(*run) - expected).abs().max() > 1e-4) is (where != "none")


def test_freezing_changes_nothing_where_nothing_changes(family):
    model, tokens = family[1], pairs_of().clean
    found = edited_stream(model, tokens, lambda layer, x: x, frozen=True)
    assert (found - streams(model, tokens)[-1]).abs().max() < 1e-10


# ---- resampling, means, losses, steering ----------------------------------------------------------------------------


def test_resampling_gives_each_row_the_projection_of_another(gpt2):
    theirs, model = gpt2
    tokens, directions, others = pairs_of().clean, axes(), partners(N, LAYERS, 0)

    def of(layer):
        unit = directions[layer] / directions[layer].norm()

        def hook(x):
            rows = []
            for row in range(N):
                other = x[int(others[layer, row])]
                rows.append(x[row] - (x[row] @ unit)[:, None] * unit + (other @ unit)[:, None] * unit)
            return torch.stack(rows)

        return hook

    kept = hooked(theirs, tokens, leaving={layer: of(layer) for layer in range(LAYERS)})[1]
    found = edited_stream(model, tokens, resample(directions, others))
    assert (found - kept[-1]).abs().max() < 1e-10
    assert (found - streams(model, tokens)[-1]).abs().max() > 1e-2
    for row in others:
        assert sorted(row.tolist()) == list(range(N))
    assert (others[0] != others[1]).any() and (partners(N, LAYERS, 1) != others).any()
    assert (partners(N, LAYERS, 0) == others).all()


def test_means_are_over_the_masked_tokens_of_all_batches(gpt2):
    theirs, model = gpt2
    parts = [
        (pairs_of(seed=seed, n=n).clean, torch.rand(n, LENGTH, generator=rng(seed)) < 0.4) for seed, n in ((0, 6), (30, 9))
    ]
    found, tokens = masked_means(model, parts), [[] for _ in range(LAYERS)]
    for part, mask in parts:
        kept = hooked(theirs, part)[1]
        for layer in range(LAYERS):
            tokens[layer] += [kept[layer + 1][row, position] for row, position in mask.nonzero().tolist()]
    for layer in range(LAYERS):
        assert (found[layer] - torch.stack(tokens[layer]).mean(0)).abs().max() < 1e-10
    with pytest.raises(ValueError, match="no token is in the mask"):
        masked_means(model, [(parts[0][0], torch.zeros_like(parts[0][1]))])


def test_losses_are_the_models_own(family):
    theirs, model = family
    tokens = pairs_of().clean
    found = next_token_losses(model, streams(model, tokens)[-1], tokens)
    assert found.shape == (N, LENGTH - 1)
    assert float(found.mean()) == pytest.approx(float(theirs(tokens, labels=tokens).loss), abs=1e-6)  # theirs is in float32
    log_probabilities = F.log_softmax(theirs(tokens).logits, -1)
    for row, position in ((0, 0), (3, 2), (9, 5)):
        expected = -log_probabilities[row, position, tokens[row, position + 1]]
        assert float(found[row, position]) == pytest.approx(float(expected), abs=1e-10)


def test_a_steered_model_adds_its_vector_at_every_position(family):
    theirs, model = family
    tokens, vector = pairs_of().clean, random(WIDTH)
    for layer in range(LAYERS):
        kept = hooked(theirs, tokens, leaving={layer: lambda x: x + vector})[1]
        ours = steered(model, vector, layer)
        assert (streams(ours, tokens)[-1] - kept[-1]).abs().max() < 1e-10
        assert (edited_stream(model, tokens, shift(vector, layer)) - kept[-1]).abs().max() < 1e-10
    assert (streams(model, tokens)[-1] - kept[-1]).abs().max() > 0.1  # the model itself is as it was


def test_what_a_steered_model_writes_is_steered_too(gpt2):
    theirs, model = gpt2
    tokens, vector, steps = pairs_of().clean[:, :5], 4 * random(WIDTH), 6
    found, text = generate(steered(model, vector, 0), tokens, steps, 16), tokens
    for _ in range(steps):
        logits = hooked(theirs, text, leaving={0: lambda x: x + vector})[0]
        text = torch.cat([text, logits[:, -1].argmax(1)[:, None]], 1)
    assert (found == text[:, 5:]).all()
    assert (found != generate(model, tokens, steps, 16)).any()


def test_many_patches_share_a_batch(gpt2, monkeypatch):
    """Of a hundred patches of ten prompts in chunks of a hundred rows, ten run at once."""
    sizes, run_on = [], hooks.run_on
    monkeypatch.setattr(hooks, "run_on", lambda model, x, *rest: sizes.append(len(x)) or run_on(model, x, *rest))
    patches = [Patch(frame_of(random(WIDTH, seed=seed))) for seed in range(25)]
    directional_patching(gpt2[1], pairs_of(), {1: patches}, 100)
    assert sizes == [100, 100, 50]
