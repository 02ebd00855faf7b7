"""Ablations on reviews: many edits at once against transformers' own models with hooks, masks, means, filters, summaries."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress, pearsonr

import oracle
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment import review_baseline, reviews
from recircuit.experiments.sentiment.review_ablation import KEYS, Ablations, Marks
from recircuit.experiments.sentiment.review_baseline import baseline, begun, cut, prompts
from recircuit.experiments.sentiment.review_summary import Samples, comma_distance, summary
from recircuit.experiments.sentiment.setting import by_length
from recircuit.figures.sentiment import ablation as pictures
from recircuit.figures.sentiment.ablation_rows import collapsed
from recircuit.figures.style import plt
from recircuit.methods.direction_hooks import edited_differences, remove, to_mean, to_mean_but
from recircuit.methods.directions import unit
from recircuit.methods.stream_edits import Edit, edited_ends
from recircuit.study.tables import schema, write_table
from recircuit.tasks import reviews as stand_ins
from recircuit.tasks import sst
from recircuit.tasks.corpus import vocabulary
from sentiment_oracle import family_fixture

N, LENGTH, WIDTH, LAYERS = 9, 8, 32, 3


family = family_fixture("gpt2", "neox")


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


# ---- reviews --------------------------------------------------------------------------------------------------------

CHOICES = {"seed": 0, "ablation_seeds": [0, 1], "random_directions": 3, "bootstrap_draws": 100}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(tokenizer, transformers' model, ours, reviews, directions) of the embedded models' vocabulary."""
    tokenizer = Tokenizer(word_level(list(vocabulary())), "pocket")
    size = tokenizer.inner.get_vocab_size()
    theirs = oracle.random_gpt2(vocab=size, positions=64, d=WIDTH).requires_grad_(requires_grad=False)
    model = load(oracle.save(theirs, tmp_path_factory.mktemp("reviews")), dtype=torch.float64)
    sentences = stand_ins.reviews(tokenizer, {"train": 8, "test": 12}, seed=3)
    sentences["text"] = "I thought this movie was average, I liked it. " + sentences["text"]  # each with a comma and a period
    found = pd.concat([sst.prompts(sentences, tokenizer, name, stand_ins.SCAFFOLDS) for name in stand_ins.SCAFFOLDS])
    rows = [
        {"method": method, "set": "movie", "variant": "paper", "layer": layer, "component": 0, "seed": 0,
         "vector": torch.randn(WIDTH, generator=rng(100 + 10 * i + layer)).numpy()}
        for i, method in enumerate(("das", "kmeans", "mean_diff"))
        for layer in range(LAYERS + (method != "das"))
    ]  # fmt: skip
    return SimpleNamespace(tokenizer=tokenizer, theirs=theirs, model=model, reviews=found, directions=pd.DataFrame(rows))


@pytest.fixture(scope="module")
def ablations(study):
    return Ablations(study.model, study.tokenizer, study.directions, 16)


@pytest.fixture(scope="module")
def examples(study):
    """The reviews of the published scaffold, two in three of them kept by decree."""
    found = baseline(study.model, prompts(study.reviews, study.tokenizer)["suffix"], "suffix", 16, lambda line: None)
    return found.assign(kept=np.arange(len(found)) % 3 != 1)


def logits_of(theirs, tokens):
    return theirs(torch.tensor(np.array(tokens))[None].long()).logits[0]


def test_the_filter_is_that_of_the_paper(study):
    for scaffold, rows in prompts(study.reviews, study.tokenizer).items():
        lines = []
        found = baseline(study.model, rows, scaffold, 8, lines.append).set_index("sentence_index")
        signs, lds = [], []
        for row in rows.itertuples():
            logits, own = logits_of(study.theirs, row.tokens), found.loc[row.sentence_index]
            ld = float(logits[-1, row.right] - logits[-1, row.wrong])
            assert own["ld"] == pytest.approx(ld, abs=1e-10)
            order = [line.tolist().index(row.right) for line in logits.argsort(-1, descending=True)]
            assert (own["rank"], own["rank_anywhere"]) == (order[-1], min(order))
            lds.append(ld)
            signs.append(1 if row.label else -1)
        preference = sum(s * ld for s, ld in zip(signs, lds, strict=True)) / len(lds)
        fair = {i: ld - s * preference for i, s, ld in zip(rows["sentence_index"], signs, lds, strict=True)}
        for index, own in found.iterrows():
            assert own["ld_centred"] == pytest.approx(fair[index], abs=1e-10)
            if scaffold == "continuation":
                expected = "kept" if fair[index] > 0 else "wrong answer"
            elif own["ld"] <= 0:
                expected = "wrong answer"
            elif own["rank"] < 10:
                expected = "kept"
            else:
                expected = "in the top ten elsewhere" if own["rank_anywhere"] < 10 else "not in the top ten"
            assert own["reason"] == expected and own["kept"] == (expected == "kept")
        assert f"{100 * np.mean(np.array(lds) > 0):.1f} % right" in lines[0]


def test_reasons_come_in_the_filter_s_order():
    rows = pd.DataFrame(
        [(1.0, 3, 3, 1), (1.0, 3, 3, 0), (-1.0, 0, 0, 1), (1.0, 10, 9, 1), (1.0, 10, 10, 0), (0.0, 1, 1, 1)],
        columns=["ld", "rank", "rank_anywhere", "n_commas"],
    )
    rows["ld_centred"] = -rows["ld"]
    expected = ["kept", "no comma", "wrong answer", "in the top ten elsewhere", "not in the top ten", "wrong answer"]
    assert review_baseline.reasons(rows, substitute=False).tolist() == expected
    expected = ["wrong answer", "wrong answer", "kept", "wrong answer", "wrong answer", "wrong answer"]
    assert review_baseline.reasons(rows, substitute=True).tolist() == expected


def test_a_token_in_front_and_a_prompt_cut_off(study):
    rows = study.reviews[study.reviews["scaffold"] == "suffix"].reset_index(drop=True)
    moved, short = begun(rows, study.tokenizer.bos), cut(rows, 20)
    for old, new, other in zip(rows.itertuples(), moved.itertuples(), short.itertuples(), strict=True):
        assert new.tokens.tolist() == [study.tokenizer.bos, *old.tokens] and new.n_tokens == len(new.tokens)
        assert new.tokens[new.text_start : new.text_end].tolist() == list(old.tokens[old.text_start : old.text_end])
        assert other.tokens == old.tokens[:20] and other.n_tokens == min(20, old.n_tokens) == len(other.tokens)
        assert other.text_end <= other.n_tokens
    assert (short["n_tokens"] < rows["n_tokens"]).any()
    assert list(prompts(study.reviews, study.tokenizer)) == ["suffix", "suffix_bos", "continuation"]


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


# ---- summaries ------------------------------------------------------------------------------------------------------


def table_of(n=60, seed=0):
    """Ablations of made-up reviews, twice as many positive as negative, and their examples."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 3 > 0
    base = generator.normal(2, 0.5, n) + 0.4 * label
    facts = {"sentence_index": np.arange(n) * 7, "label": label.astype(int), "strict": np.arange(n) % 5 > 0}
    rows = []
    for condition, mask, direction, draw, ld in (
        ("none", "none", "none", 0, base),
        ("direction", "commas", "das", 0, base - generator.normal(1.5, 1.5, n)),
        *(("random direction", "commas", "random", i, base - 0.01 * i) for i in range(9)),
    ):
        alignment = "published" if condition == "direction" else "none"
        key = dict(zip(KEYS, (condition, mask, direction, alignment, False, draw), strict=True))
        rows.append(pd.DataFrame(facts | key | {"ld": ld}))
    distances = {"mean_comma_dist": generator.uniform(5, 30, n), "first_comma_dist": generator.integers(10, 40, n)}
    return pd.concat(rows, ignore_index=True), pd.DataFrame(facts | distances | {"kept": True, "ld": base, "n_commas": 2})


def test_summaries_are_means_over_balanced_samples():
    ablation, examples = table_of()
    samples, preference = Samples.of(examples, [0, 1, 2]), 0.2
    assert samples.drawn.sum(1).tolist() == [40] * 3 and (samples.drawn[0] != samples.drawn[1]).any()
    found = summary(ablation, samples, preference, 0, 2000)
    own = ablation[(ablation["condition"] == "direction")]["ld"].to_numpy()
    sign, plain = np.where(examples["label"] == 1, 1, -1), examples["ld"].to_numpy()
    subsets = {"all": examples["label"] >= 0, "positive": examples["label"] == 1, "strict": examples["strict"]}
    for subset, belongs in subsets.items():
        parts = []
        for drawn in samples.drawn:
            some = drawn & belongs.to_numpy()
            fair = own - sign * (sign * own)[drawn].mean() > 0
            parts.append((own[some].mean(), plain[some].mean(), (own - sign * preference > 0)[some].mean(), fair[some].mean()))
        ld, base, share, centred = np.mean(parts, axis=0)
        row = found[(found["condition"] == "direction") & (found["subset"] == subset)].iloc[0]
        assert row["mean_ld"] == pytest.approx(ld) and row["relative"] == pytest.approx(ld / base - 1)
        assert row["sd_ld"] == pytest.approx(np.std([part[0] for part in parts], ddof=1))
        assert row["accuracy"] == pytest.approx(share) and row["accuracy_centred"] == pytest.approx(centred)
        assert row["ld_lo"] < row["mean_ld"] < row["ld_hi"] and row["ci_lo"] < row["accuracy"] < row["ci_hi"]
    row = found.query("condition == 'direction' and subset == 'positive'").iloc[0]
    spread = ablation.query("condition == 'direction' and label == 1")["ld"].std(ddof=0) / 20**0.5
    assert row["n"] == 20 and row["ld_hi"] - row["ld_lo"] == pytest.approx(2 * 1.96 * spread, rel=0.1)
    before = found.query("condition == 'none' and subset == 'all'").iloc[0]
    assert (before["relative"], before["accuracy"], before["lost"]) == (0, 1, 0)
    row = found.query("condition == 'direction' and subset == 'all'").iloc[0]
    assert row["lost"] == pytest.approx((1 - row["accuracy"]) / 0.5)


def test_a_direction_is_compared_with_random_ones():
    ablation, examples = table_of()
    samples = Samples.of(examples, [0])
    found = summary(ablation, samples, 0.0, 0, 100)
    assert found["p_random"].notna().sum() == 4  # one direction, four subsets
    assert (found.query("condition == 'direction'")["p_random"] == 0.1).all()  # none of nine random ones does as much
    base, weak = ablation[ablation["condition"] == "none"]["ld"].to_numpy(), ablation.copy()
    weak.loc[weak["condition"] == "direction", "ld"] = base - 0.055
    row = summary(weak, samples, 0.0, 0, 100).query("condition == 'direction' and subset == 'all'").iloc[0]
    assert row["p_random"] == pytest.approx((1 + 3) / 10)  # draws 6, 7 and 8 lower it more
    assert found["sd_ld"].isna().all()  # of one sample


def test_the_drop_by_distance_is_that_of_the_first_sample():
    ablation, examples = table_of()
    samples = Samples.of(examples, [4, 5])
    found = comma_distance(ablation, samples).set_index("distance")
    after = ablation[ablation["condition"] == "direction"].set_index("sentence_index")["ld"]
    chosen = examples[samples.drawn[0]]
    drop = chosen["ld"].to_numpy() - after.loc[chosen["sentence_index"]].to_numpy()
    for name, column in (("average", "mean_comma_dist"), ("first", "first_comma_dist")):
        row, theirs = found.loc[name], pearsonr(chosen[column], drop)
        assert row["r"] == pytest.approx(theirs.statistic) and row["n"] == 40
        assert (row["r_lo"], row["r_hi"]) == pytest.approx(tuple(theirs.confidence_interval()))
        assert row["slope"] == pytest.approx(linregress(chosen[column], drop).slope)
        assert row["mean_drop"] == pytest.approx(drop.mean())
    assert np.isnan(found.loc["number", "r"])  # every review has two commas


# ---- the whole ------------------------------------------------------------------------------------------------------


def text_rows(study):
    return np.tile([33, study.tokenizer.single(","), 35, 36], (3, 2))


def decree(examples, *, substitute):
    """Keep every second pair of reviews, whatever the model says."""
    return np.where(np.arange(len(examples)) % 4 < 2, "kept", "wrong answer")


def test_tables_of_all_scaffolds_fit_their_schemas(study, ablations, tmp_path, monkeypatch):
    monkeypatch.setattr(review_baseline, "reasons", decree)
    lines = []
    found = reviews.tables(ablations, prompts(study.reviews, study.tokenizer), text_rows(study), CHOICES, lines.append)
    for name, table in found.items():
        write_table(table.assign(model="pocket"), tmp_path / f"{name}.parquet", name, {})
    marked = found["se_ablation_summary"].groupby("scaffold")["substitute"].first()
    assert marked.to_dict() == {"continuation": True, "suffix": False, "suffix_bos": False}
    examples = found["se_examples"]
    assert (examples["sampled"] <= examples["kept"]).all()
    assert (examples[examples["sampled"]].groupby(["scaffold", "label"]).size().unstack().nunique(axis=1) == 1).all()
    assert sum("in a balanced sample" in line for line in lines) == 3
    before = found["se_ablation_summary"].query("condition == 'none' and scaffold == 'continuation' and subset == 'all'")
    centred = examples.query("scaffold == 'continuation' and sampled")["ld_centred"]
    assert before["accuracy"].item() == pytest.approx((centred > 0).mean(), abs=0.2)  # less the model's preference
    for file in ("t2-reviews", "x41-ablations", "x42-comma-controls", "a40-comma-distance", "x43-reviews-kept"):
        assert pictures.ablation_item(file, found, "t", published=file.startswith("a40")).axes
        plt.close("all")


def test_where_no_review_passes_there_are_examples_alone(study, ablations, tmp_path, monkeypatch):
    monkeypatch.setattr(review_baseline, "reasons", lambda rows, *, substitute: np.full(len(rows), "wrong answer"))
    lines = []
    found = reviews.tables(ablations, prompts(study.reviews, study.tokenizer), text_rows(study), CHOICES, lines.append)
    assert len(found["se_examples"]) == 3 * 40 and all(found[name].empty for name in reviews.NAMES[1:])
    assert sum("nothing is ablated" in line for line in lines) == 3
    empty = {name: pd.DataFrame(columns=schema(name)[0].names) for name in reviews.NAMES[1:]}
    for name, table in empty.items():
        write_table(table, tmp_path / f"{name}.parquet", name, {})
    figure = pictures.ablation_item("t2-reviews", found | empty, "t", published=False)
    assert "nothing is ablated" in figure.axes[0].texts[0].get_text()
    plt.close("all")


def test_of_draws_the_mean_and_the_range_are_shown():
    ablation, examples = table_of()
    found = summary(ablation, Samples.of(examples, [0, 1]), 0.0, 0, 100).assign(scaffold="suffix", substitute=False)
    rows = collapsed(found, "suffix").set_index("label")
    assert list(rows.index) == ["nothing ablated", "DAS at commas", "random direction at commas (9 draws)"]
    drawn = found.query("condition == 'random direction' and subset == 'all'")
    row = rows.loc["random direction at commas (9 draws)"]
    assert row["mean_ld"] == pytest.approx(drawn["mean_ld"].mean())
    assert (row["relative_lo"], row["relative_hi"]) == (drawn["relative"].min(), drawn["relative"].max())
    one = found.query("condition == 'direction' and subset == 'all'").iloc[0]
    assert rows.loc["DAS at commas", "ld_lo"] == one["ld_lo"]
    figure = pictures.intervals(found, "t")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(rows.index[1:]) and figure.axes[0].yaxis_inverted()
    plt.close("all")
