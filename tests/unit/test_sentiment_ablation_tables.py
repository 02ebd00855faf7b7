"""Tables of ablations on reviews: the paper's filter, summaries of balanced samples, distances of commas, and the whole."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress, pearsonr

import sentiment_reviews
from recircuit.experiments.sentiment import review_baseline, reviews
from recircuit.experiments.sentiment.review_ablation import KEYS
from recircuit.experiments.sentiment.review_baseline import baseline, begun, cut, prompts
from recircuit.experiments.sentiment.review_summary import Samples, comma_distance, summary
from recircuit.figures.sentiment import ablation as pictures
from recircuit.figures.sentiment.ablation_rows import collapsed
from recircuit.figures.style import plt
from recircuit.study.tables import schema, write_table

CHOICES = {"seed": 0, "ablation_seeds": [0, 1], "random_directions": 3, "bootstrap_draws": 100}

study, ablations = sentiment_reviews.study, sentiment_reviews.ablations


# ---- reviews --------------------------------------------------------------------------------------------------------


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
