"""Ablations on reviews: many edits at once against transformers' own models with hooks; masks, means and conditions."""

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
import sentiment_reviews
from recircuit.core.families import load
from recircuit.experiments.sentiment.review_ablation import KEYS, Marks
from recircuit.experiments.sentiment.review_baseline import baseline, prompts
from recircuit.experiments.sentiment.setting import by_length
from recircuit.methods.direction_hooks import edited_differences, remove, to_mean, to_mean_but
from recircuit.methods.directions import unit
from recircuit.methods.stream_edits import Edit, edited_ends
from sentiment_oracle import LAYERS, WIDTH, family_fixture, rng

N, LENGTH = 9, 8

study, ablations = sentiment_reviews.study, sentiment_reviews.ablations
family = family_fixture("gpt2", "neox")


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


def test_a_model_of_one_layer(tmp_path):
    """What leaves its layer is read at once, so that only the last token's own part goes."""
    theirs = oracle.random_gpt2(layers=1).requires_grad_(requires_grad=False)
    model = load(oracle.save(theirs, tmp_path), dtype=torch.float64)
    tokens, end, answers = reviews_of()
    direction = torch.randn(1, WIDTH, generator=rng(5), dtype=torch.float64)
    found = edited_ends(model, tokens, end, answers, [Edit(remove(direction), masks()[name]) for name in ("late", "all")])
    kept = []
    handle = theirs.transformer.ln_f.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    theirs(tokens)
    handle.remove()
    d = unit(direction)[0]
    for row, final in zip(found, (kept[0], kept[0] - (kept[0] @ d)[..., None] * d), strict=True):
        logits = theirs.transformer.ln_f(final[:, -1]) @ theirs.lm_head.weight.T
        expected = logits.gather(1, answers[:, 0, :1]) - logits.gather(1, answers[:, 0, 1:])
        assert (row - expected[:, 0]).abs().max() < 1e-10


# ---- which tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaffold", ["suffix", "continuation"])
def test_masks_are_of_the_review_alone(study, scaffold):
    marks = Marks.of(study.tokenizer)
    for batch in by_length(study.reviews[study.reviews["scaffold"] == scaffold], "cpu"):
        found = {name: marks.mask(name, batch) for name in ("commas", "periods", "review", "all", "before commas")}
        drawn = {(name, i): marks.mask(name, batch, i) for name in ("random tokens", "random words") for i in (0, 1)}
        for row, (tokens, facts) in enumerate(zip(batch.tokens.tolist(), batch.rows.itertuples(), strict=True)):
            words = study.tokenizer.decode(tokens)
            inside = range(facts.text_start, facts.text_end)
            picked = {name: set(mask[row].nonzero()[:, 0].tolist()) for name, mask in (found | drawn).items()}
            commas = {i for i in inside if words[i] == ","}
            assert picked["commas"] == commas and len(commas) == facts.n_commas
            assert picked["periods"] == {i for i in inside if words[i] == "."}
            assert picked["before commas"] == {i - 1 for i in commas}
            assert picked["review"] == set(inside) and picked["all"] == set(range(len(tokens)))
            for i in (0, 1):
                some, named = picked["random tokens", i], picked["random words", i]
                assert len(some) == len(named) == len(commas)
                assert not (some | named) & commas and some | named <= set(inside)
                assert all(words[place] not in ",." for place in named)
        assert any((drawn[name, 0] != drawn[name, 1]).any() for name in ("random tokens", "random words"))
        assert (marks.mask("random tokens", batch, 1) == drawn["random tokens", 1]).all()


# ---- conditions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(study):
    """The reviews of the published scaffold, two in three of them kept by decree."""
    found = baseline(study.model, prompts(study.reviews, study.tokenizer)["suffix"], "suffix", 16, lambda line: None)
    return found.assign(kept=np.arange(len(found)) % 3 != 1)


def leaving_streams(theirs, tokens):
    """Return the stream leaving each layer, [T d]."""
    kept = []
    handles = [
        block.register_forward_hook(lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for block in theirs.transformer.h
    ]
    theirs(torch.tensor(np.array(tokens))[None].long())
    for handle in handles:
        handle.remove()
    return [stream[0] for stream in kept]


def comma_streams(study, rows, comma):
    """Return the streams leaving each layer at the commas of some reviews, [c L d]."""
    found = []
    for row in rows.itertuples():
        streams = leaving_streams(study.theirs, row.tokens)
        places = [i for i in range(row.text_start, row.text_end) if row.tokens[i] == comma]
        found += [torch.stack([stream[place] for stream in streams]) for place in places]
    return torch.stack(found)


def test_means_are_those_of_balanced_reviews(study, ablations, examples):
    kept = examples[examples["kept"]]
    comma = study.tokenizer.single(",")
    few, many = kept[kept["label"] == 0].iloc[:4], kept[kept["label"] == 1].iloc[:8]
    text = np.array([[25, comma, 27, 29], [comma, comma, 33, 34]])
    mean = ablations.text_mean(text, lambda line: None)
    streams = [leaving_streams(study.theirs, row) for row in text]
    expected = torch.stack([(streams[0][l][1] + streams[1][l][0] + streams[1][l][1]) / 3 for l in range(LAYERS)])
    assert (mean - expected).abs().max() < 1e-10
    assert ablations.text_mean(np.array([[25, 27]]), lambda line: None) is None
    found = ablations.means(pd.concat([few, many]), mean)
    # Eight of each class: the four negative ones twice.
    expected = comma_streams(study, pd.concat([few, few, many]), comma).mean(0)
    assert (found.balanced - expected).abs().max() < 1e-10
    assert (found.positive - comma_streams(study, many, comma).mean(0)).abs().max() < 1e-10
    assert (found.negative - comma_streams(study, few, comma).mean(0)).abs().max() < 1e-10


def test_conditions_are_what_they_are_called(study, ablations, examples):
    kept = examples[examples["kept"]]
    means = ablations.means(kept, torch.randn(LAYERS, WIDTH, generator=rng(8), dtype=torch.float64))
    conditions = ablations.conditions("suffix", means, 2, [0, 1])
    names = [condition[:-1] for condition in conditions]
    assert len(set(names)) == len(names)
    found = ablations.run(kept, conditions)
    assert len(found) == len(kept) * len(conditions)
    vectors = {(row.method, row.layer): torch.tensor(row.vector).double() for row in study.directions.itertuples()}
    vectors = {key: vector / vector.norm() for key, vector in vectors.items()}
    comma = study.tokenizer.single(",")

    def without(method, later):
        def change(layer, x):
            # No direction is one layer on from the last one.
            d = vectors[method, layer + later] if layer + later < LAYERS else torch.zeros(WIDTH).double()
            return x - (x @ d) * d

        return lambda label: change

    literal_ones = {
        ("none", "none", "none", "none", False): lambda label: lambda layer, x: x,
        ("direction", "commas", "das", "published", False): without("das", 0),
        ("direction", "commas", "das", "published", True): without("das", 0),
        ("direction", "all", "kmeans", "aligned", False): without("kmeans", 1),
        ("direction", "review", "mean_diff", "published", False): without("mean_diff", 0),
        ("mean", "commas", "none", "none", False): lambda label: lambda layer, x: means.balanced[layer],
        ("mean", "commas", "none", "none", True): lambda label: lambda layer, x: means.balanced[layer],
        ("mean of running text", "commas", "none", "none", False): lambda label: lambda layer, x: means.text[layer],
        ("mean of the other class", "commas", "none", "none", False): lambda label: (
            lambda layer, x: (means.negative if label else means.positive)[layer]
        ),
    }
    table = found.set_index([*KEYS, "sentence_index"])["ld"]
    for row in kept.iloc[::3].itertuples():
        tokens, answers = torch.tensor([list(row.tokens)]), torch.tensor([[[row.right, row.wrong]]])
        place = torch.arange(len(row.tokens))
        inside = (place >= row.text_start) & (place < row.text_end)
        spots = {"all": place >= 0, "review": inside, "commas": inside & (tokens[0] == comma), "none": place < 0}
        for name, make in literal_ones.items():
            ours = table[(*name, 0, row.sentence_index)]
            expected = literal(study.theirs, tokens, answers, make(row.label), spots[name[1]][None], name[-1])
            assert ours == pytest.approx(float(expected), abs=1e-10), name
    base = found[found["condition"] == "none"].set_index("sentence_index")["ld"]
    for condition in conditions[1:]:
        own = found[(found[KEYS] == list(condition[:-1])).all(axis=1)].set_index("sentence_index")["ld"]
        assert (own - base).abs().max() > 1e-6, condition
    few = ablations.conditions("suffix_bos", means, 2, [0, 1])
    assert {condition.condition for condition in few} == {"none", "direction"} and len(few) == 1 + 3 * 2
    assert not any(condition.frozen or condition.direction == "kmeans" for condition in few)
