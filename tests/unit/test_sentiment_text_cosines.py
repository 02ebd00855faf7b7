"""Cosines of running text, labels, tables and pictures: transformers' GPT-2 with hooks, scikit-learn, and counts by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import oracle
import sentiment_text
from recircuit.core.families import load
from recircuit.core.stats import stream, wilson
from recircuit.experiments.sentiment import running_text, text_labels
from recircuit.experiments.sentiment import text_statistics as statistics
from recircuit.experiments.sentiment.running_text import Text, activations, all_layers, axes_of, first_layer
from recircuit.figures.sentiment import areas
from recircuit.figures.sentiment import text as pictures
from recircuit.figures.style import plt
from recircuit.methods.direction_hooks import centred_width
from sentiment_text import hidden

gpt2, worded = sentiment_text.gpt2, sentiment_text.worded
tokens, tokenizer, directions = sentiment_text.tokens, sentiment_text.tokenizer, sentiment_text.directions


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


def cosine(x, d):
    """One vector after the other, both without their mean."""
    x, d = x - x.mean(), d - d.mean()
    return float(torch.dot(x, d) / (torch.dot(x, x).sqrt() * torch.dot(d, d).sqrt()))


# ---- cosines --------------------------------------------------------------------------------------------------------


def test_cosines_at_index_1_are_those_of_transformers_stream(gpt2, tokens, directions):
    theirs, ours = gpt2
    x = hidden(theirs, tokens)[1]
    axes = axes_of(ours, [found[1] for found in directions.values()])
    cosines, lengths = first_layer(ours, tokens, axes, chunk=8)
    expected = [[[cosine(v, found[1]) for v in row] for row in x] for found in directions.values()]
    assert np.abs(cosines - np.array(expected)).max() < 1e-6 and np.abs(cosines).max() > 0.2
    assert np.abs(lengths - (x - x.mean(-1, keepdim=True)).norm(dim=-1).numpy()).max() < 1e-4
    assert cosines.dtype == np.float32, "kept for all tokens: half the size"


def test_all_layers_keep_moments_and_the_signed_tokens_own_cosines(gpt2, tokens, directions):
    theirs, ours = gpt2
    kept = np.random.default_rng(0).random(tokens.shape) < 0.3
    deep = all_layers(ours, tokens, directions, kept, chunk=8)
    for index, x in enumerate(hidden(theirs, tokens)):
        first, second, count = deep.moments[index]
        for i, found in enumerate(directions.values()):
            values = [cosine(v, found[1]) for v in x.flatten(0, 1)]
            assert first[i] == pytest.approx(sum(values), abs=1e-9)
            assert second[i] == pytest.approx(sum(value**2 for value in values), abs=1e-9)
        assert count == tokens.size
        for name, found in directions.items():
            assert ((name, index) in deep.chosen) == (index in found)
            if index in found:
                expected = [cosine(v, found[index]) for v in x[torch.from_numpy(kept)]]
                assert np.abs(deep.chosen[name, index] - expected).max() < 1e-9


def test_only_the_first_indices_are_pooled(gpt2, tokens, directions, monkeypatch):
    monkeypatch.setattr(running_text, "DEEPEST", 2)
    theirs, ours = gpt2
    deep = all_layers(ours, tokens, directions, np.ones(tokens.shape, bool), chunk=8)
    table = running_text.stats_table([*directions], deep, n_rows=20).set_index(["method", "layers"])
    assert set(table.index.get_level_values("layers")) == {"0", "1", "2", "0-2"}
    streams_ = hidden(theirs, tokens)
    for name, found in directions.items():
        for layers, indices in (("2", [2]), ("0-2", [0, 1, 2])):
            values = np.array([cosine(v, found[1]) for i in indices for v in streams_[i].flatten(0, 1)])
            row = table.loc[(name, layers)]
            assert (row["mean"], row["sd"]) == (pytest.approx(values.mean()), pytest.approx(values.std()))
            assert row["count"] == len(values) and row["layer_direction"] == 1


def test_the_stream_is_that_of_centred_weights(gpt2, tokens, directions, tmp_path):
    """Weights that write without a mean, as TransformerLens makes them: there a plain cosine is the same."""
    theirs, ours = gpt2
    centred = oracle.random_gpt2(positions=64)
    with torch.no_grad():
        for table in (centred.transformer.wte, centred.transformer.wpe):
            table.weight -= table.weight.mean(-1, keepdim=True)
        for block in centred.transformer.h:
            for out in (block.attn.c_proj, block.mlp.c_proj):
                out.weight -= out.weight.mean(-1, keepdim=True)
                out.bias -= out.bias.mean()
    found = directions["kmeans"][1]
    found = found - found.mean()
    for x, other in zip(hidden(theirs, tokens), hidden(centred, tokens), strict=True):
        cosines = activations(ours, x, axes_of(ours, [found]))[0][0]
        assert (cosines - torch.nn.functional.cosine_similarity(other, found, dim=-1)).abs().max() < 1e-10


def test_a_stream_that_is_read_with_its_mean_keeps_it(tmp_path):
    llama = load(oracle.save(oracle.random_llama(), tmp_path), dtype=torch.float64)
    x = torch.randn(2, 3, 32, dtype=torch.float64) + 2
    assert torch.equal(centred_width(llama, x), x)


def test_the_rows_of_all_layers_are_drawn_once_each():
    rows = running_text.deep_rows(2000, seed=0)
    assert len(rows) == len(set(rows)) == running_text.DEEP_ROWS and (np.diff(rows) > 0).all()
    assert rows.tolist() != running_text.deep_rows(2000, seed=1).tolist() and rows.max() > 1900
    assert running_text.deep_rows(30, seed=0).tolist() == [*range(30)]


# ---- samples, histograms, tokens ------------------------------------------------------------------------------------


def values_of(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(-0.4, 0.05, n // 2), rng.normal(0.5, 0.02, n // 2)])  # nothing in between
    values[::97] = 0.0
    return values


def test_twenty_tokens_are_drawn_from_each_bin_that_has_any():
    values = values_of()
    low, high = values[values != 0].min(), values[values != 0].max()
    rng, expected = np.random.RandomState(0), []
    for b in range(20):
        left, right = (low + (high - low) * k / 20 for k in (b, b + 1))
        inside = [i for i, v in enumerate(values) if v != 0 and left <= v and (v < right or b == 19)]
        if inside:
            expected += [(b, draw, int(i)) for draw, i in enumerate(rng.choice(inside, 20))]
    found = statistics.sample(values)
    assert list(found.itertuples(index=False, name=None)) == expected
    bins = found["bin"].unique()
    assert 5 < len(bins) < 20 and bins[0] == 0 and bins[-1] == 19
    assert found.groupby("bin")["flat"].nunique().min() < 20, "drawn with replacement"
    assert (values[found["flat"]] != 0).all()


def test_histograms_share_their_bins():
    values = values_of()
    mask = np.arange(len(values)) % 3 == 0
    table = statistics.histogram(values, {"third": mask})
    present = values[values != 0]
    for subset, own in (("all", present), ("third", values[mask & (values != 0)])):
        rows = table[table["subset"] == subset]
        counts, edges = np.histogram(own, 200, (present.min(), present.max()))
        assert rows["count"].tolist() == counts.tolist()
        assert np.allclose([*rows["left"], rows["right"].iloc[-1]], edges)


def test_token_statistics_are_those_of_frequent_tokens():
    rng = np.random.default_rng(3)
    ids = rng.choice([2, 3, 5, 9], 400, p=[0.5, 0.3, 0.19, 0.01])
    values = (1000 + rng.normal(size=400)).astype(np.float32)  # a mean that would eat the digits of squares
    table = statistics.token_stats(values, ids).set_index("token_id")
    groups = pd.Series(values.astype(np.float64)).groupby(ids)
    assert table.index.tolist() == [2, 3, 5] == [i for i, n in groups.size().items() if n >= 10]
    for token, row in table.iterrows():
        own = groups.get_group(token)
        assert row["count"] == len(own)
        assert (row["mean"], row["sd"]) == (pytest.approx(own.mean()), pytest.approx(own.std(ddof=0), rel=1e-6))


# ---- accuracy and AUC -----------------------------------------------------------------------------------------------

NEGATIVE, NEUTRAL, POSITIVE, UNLABELLED = range(4)


def test_the_published_accuracy_counted_by_hand():
    low = [NEGATIVE] * 6 + [NEUTRAL] * 2 + [POSITIVE] * 2 + [UNLABELLED] * 5
    high = [NEGATIVE] * 4 + [POSITIVE] * 1 + [NEUTRAL] * 3
    values = np.array([-1.0] * len(low) + [0.0] * 50 + [1.0] * len(high))
    codes = np.array([*low, *[POSITIVE] * 50, *high])
    found = statistics.accuracy(values, codes, (-1.0, 1.0))
    assert (found["n_low"], found["n_high"]) == (10, 8)  # the unlabelled are no part of it
    assert (found["share_low"], found["share_high"]) == (0.6, 0.5)  # the more frequent sign, whichever it is
    assert found["accuracy"] == pytest.approx(0.55)
    (a, b), (c, d) = wilson(6, 10), wilson(4, 8)
    assert found["ci_lo"] == pytest.approx(0.55 - 0.5 * ((0.6 - a) ** 2 + (0.5 - c) ** 2) ** 0.5)
    assert found["ci_hi"] == pytest.approx(0.55 + 0.5 * ((b - 0.6) ** 2 + (d - 0.5) ** 2) ** 0.5)


def test_an_empty_tail_has_no_accuracy():
    values, codes = np.array([-1.0, 0.0, 1.0]), np.array([UNLABELLED, POSITIVE, POSITIVE])
    found = statistics.accuracy(values, codes, (-0.5, 0.5))
    assert found["n_low"] == 0 and found["share_low"] is None and found["share_high"] == 1.0
    assert found["accuracy"] is found["ci_lo"] is found["ci_hi"] is None


def test_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40) / 4 + 0.2, rng.integers(0, 9, 70) / 4  # with ties after rounding
    positive[:20] -= 0.2
    labels, scores = np.r_[np.ones(40), np.zeros(70)], np.r_[positive, negative]
    assert statistics.auc(positive, negative) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    low, high = statistics.auc_interval(positive, negative, stream(0, "x"), draws=300)
    other = stream(0, "x")
    up, down = (other.multinomial(n, np.full(n, 1 / n), size=300) for n in (40, 70))
    drawn = [roc_auc_score(labels, scores, sample_weight=np.r_[a, b]) for a, b in zip(up, down, strict=True)]
    assert (low, high) == tuple(pytest.approx(q, abs=1e-12) for q in np.quantile(drawn, [0.025, 0.975]))


def test_auc_of_words_takes_each_word_once_and_can_leave_fitted_ones_out():
    ids = np.array([1] * 6 + [2] * 2 + [3] * 4 + [4] * 2 + [5] * 3)
    codes = np.array([POSITIVE] * 8 + [NEGATIVE] * 6 + [NEUTRAL] * 3)
    values = np.array([0.9] * 5 + [0.3] + [0.1, 0.3] + [0.2, 0.4, 0.4, 0.6] + [0.0, 0.1] + [5.0] * 3)
    rows = {row["words"]: row for row in statistics.auc_rows(values, codes, ids, np.array([1]), seed=0, draws=50)}
    signed = codes != NEUTRAL
    assert rows["all"]["auc_tokens"] == pytest.approx(roc_auc_score(codes[signed] == POSITIVE, values[signed]))
    assert (rows["all"]["n_tokens"], rows["all"]["n_words"]) == (14, 4)
    assert rows["all"]["auc_words"] == 0.75  # means 0.8 and 0.2 against 0.4 and 0.05
    assert rows["unseen"]["auc_words"] == 0.5 and rows["unseen"]["n_words"] == 3
    assert statistics.auc_rows(values, codes, ids, np.array([1, 2]), seed=0, draws=50)[-1]["words"] == "all"


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_tokens_have_the_label_of_their_word(tokenizer):
    words = {"good": "positive", "bad": "negative", "movie": "neutral"}
    rows = np.array([tokenizer.encode("good movie was bad Good"[:19])], np.int32)
    found = text_labels.codes(tokenizer, words, rows)
    assert [text_labels.LABELS[code] for code in found[0]] == ["positive", "neutral", "unlabelled", "negative"]


def test_a_text_has_the_label_of_its_more_frequent_sign():
    words = {"good": "positive", "fine": "positive", "bad": "negative", "don't": "negative", "a": "neutral"}
    for text, expected in {
        "Good , fine. a bad": ("positive", 2, 1), "bad good": ("neutral", 1, 1), "goodness": ("neutral", 0, 0),
        "I don't. BAD fine": ("negative", 1, 2), "": ("neutral", 0, 0),
    }.items():  # fmt: skip
        assert text_labels.text_label(text, words) == expected, text


def test_the_treebank_labels_words_where_its_dictionary_is(tmp_path):
    log = []
    (tmp_path / "sentiment_labels.txt").write_text("phrase ids|sentiment values\n0|0.9\n1|0.1\n2|0.5\n3|0.95\n")
    words, source = text_labels.lexicon(tmp_path, log.append)
    assert source == text_labels.LISTS and words["great"] == "positive" and "dictionary" in log[0]
    (tmp_path / "dictionary.txt").write_text("splendid|0\ndrab|1\nroom|2\nquite splendid|3\n")
    words, source = text_labels.lexicon(tmp_path, log.append)
    assert words == {"splendid": "positive", "drab": "negative", "room": "neutral"} and source == text_labels.TREEBANK
    assert text_labels.lexicon(None, log.append)[1] == text_labels.LISTS and len(log) == 1


# ---- the tables -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tokenizer):
    rng, ids = (
        np.random.default_rng(5),
        np.array(tokenizer.encode("the movie was good, I loved it. bad, I hated it. great awful")),
    )
    frame = pd.DataFrame({"recipe": "current", "row": range(40), "tokens": list(rng.choice(ids, (40, 12)))})
    older = frame.assign(recipe="1.x", tokens=[row[::-1] for row in frame["tokens"]])
    prompts = pd.DataFrame({
        "set": "movie", "split": ["train", "train", "test"], "variant": "paper", "word_adj": ["good", "bad", "great"],
    })  # fmt: skip
    return Text.of(pd.concat([older, frame]), tokenizer, prompts, None, lambda line: None)


def test_running_text_has_one_recipe_labels_and_fitted_words(text, tokenizer):
    assert text.tokens.shape == text.codes.shape == (40, 12)
    ids = np.array(tokenizer.encode("the movie was good, I loved it. bad, I hated it. great awful"))
    assert np.array_equal(text.tokens, np.random.default_rng(5).choice(ids, (40, 12)))
    assert sorted(tokenizer.decode(text.fitted.tolist())) == ["bad", "good"]
    assert tokenizer.single("great") in text.groups["positive words"]
    found = {tokenizer.decode([t])[0]: text_labels.LABELS[c] for t, c in zip(text.tokens.flat, text.codes.flat, strict=True)}
    assert found["loved"] == "positive" and found["hated"] == "negative" and found["movie"] == "neutral"


def test_the_tables_agree_with_one_another(worded, text, directions, monkeypatch):
    monkeypatch.setattr(running_text, "DEEP_ROWS", 15)
    theirs, ours = worded
    tables = running_text.read_text(ours, text, directions, 20, 0, chunk=16)
    x = hidden(theirs, text.tokens)[1]
    exact = np.array([[cosine(v, directions["das"][1]) for v in row] for row in x])
    sample = tables["se_text_samples"].query("method == 'das'")
    assert np.allclose(exact[sample["row"], sample["position"]], sample["activation"], atol=1e-6)
    assert (text.tokens[sample["row"], sample["position"]] == sample["token_id"]).all()
    lengths = (x - x.mean(-1, keepdim=True)).norm(dim=-1).numpy()
    assert np.allclose(sample["projection"], sample["activation"] * lengths[sample["row"], sample["position"]], rtol=1e-5)
    histogram = tables["se_text_hist"].query("method == 'das' and kind == 'cosine'").groupby("subset")["count"].sum()
    assert histogram["all"] == 480 == histogram[list(text_labels.LABELS)].sum()
    for label, code in zip(text_labels.LABELS, range(4), strict=True):
        assert histogram[label] == (text.codes == code).sum()
    tails = tables["se_text_accuracy"].query("method == 'das'").set_index("over")
    assert np.allclose(tails[["lower", "upper"]], np.quantile(exact, [0.001, 0.999]), atol=1e-6)
    assert tails.loc["tokens", "n_low"] == ((exact <= np.quantile(exact, 0.001)) & (text.codes != 3)).sum() == 1
    auc = tables["se_text_auc"].set_index(["method", "layer", "words"])
    signs = np.isin(text.codes, (0, 2))
    expected = roc_auc_score(text.codes[signs] == 2, exact[signs])
    assert auc.loc[("das", 1, "all"), "auc_tokens"] == pytest.approx(expected, abs=1e-6)
    assert auc.loc[("das", 1, "all"), "n_rows"] == 40 and auc.loc[("das", 2, "all"), "n_rows"] == 15
    rows = running_text.deep_rows(40, 0)
    deep = np.array([[cosine(v, directions["kmeans"][3]) for v in row] for row in hidden(theirs, text.tokens[rows])[3]])
    expected = roc_auc_score(text.codes[rows][signs[rows]] == 2, deep[signs[rows]])
    assert auc.loc[("kmeans", 3, "all"), "auc_tokens"] == pytest.approx(expected, abs=1e-9)
    assert ("das", 3, "all") not in auc.index


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_shares_are_counted_in_cuts_of_the_range():
    activation = [0.0, 0.05, 0.1, 0.35, 0.36, 1.0, 0.61]
    labels = ["negative", "neutral", "negative", "positive", "unlabelled", "positive", "unlabelled"]
    found = areas.shares(activation, labels, cuts=4)
    assert found.index.tolist() == pytest.approx([0.125, 0.375, 0.875])  # the third cut has no label
    assert found["negative"].tolist() == pytest.approx([2 / 3, 0, 0]) and found["positive"].tolist() == [0, 1, 1]
    assert found["n"].tolist() == [3, 1, 1]


def test_shares_of_a_histogram_are_those_of_its_tokens():
    values = values_of()
    codes = np.random.default_rng(1).choice(4, len(values), p=[0.2, 0.5, 0.1, 0.2])
    table = statistics.histogram(values, {label: codes == i for i, label in enumerate(text_labels.LABELS)})
    kept = values != 0
    expected = areas.shares(values[kept], np.array(text_labels.LABELS)[codes[kept]])
    found = areas.shares_of_counts(table)
    assert np.allclose(found.index, expected.index) and np.allclose(found, expected, atol=1e-12)


def test_areas_stand_on_one_another_negative_below():
    samples = pd.DataFrame({"activation": [0.0, 0.0, 1.0, 1.0], "label": ["negative", "neutral", "positive", "positive"]})
    figure = areas.published_area(samples.assign(method="kmeans"), "t")
    below, middle, top = figure.axes[0].collections
    assert [c.get_facecolor()[0, :3].argmax() for c in (below, top)] == [0, 2]  # red, blue
    heights = [c.get_paths()[0].vertices[:, 1].max() for c in (below, middle, top)]
    assert heights == [0.5, 1.0, 1.0]


def test_extremes_begin_with_the_most_extreme():
    stats = pd.DataFrame({"token_id": range(6), "mean": [0.1, -0.5, 0.3, 0.2, -0.1, 0.9], "sd": 0.1, "count": 10})
    low, high = pictures.extremes(stats, "mean", 2)
    assert low["token_id"].tolist() == [1, 4] and high["token_id"].tolist() == [5, 2]
    assert [pictures.token_name(t) for t in (" good", "\n", "$", "")] == ["␣good", "↵", "\\$", "(empty)"]
