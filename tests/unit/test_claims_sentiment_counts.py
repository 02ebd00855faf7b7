"""The claims of the sentiment paper that ask for several rows: means, extremes and vectors, counts, and models that fail.

Prompts are real ones with GPT-2's own tokens, random directions those of the published seed.
"""

from itertools import product

import numpy as np
import pandas as pd
import pytest

import sentiment_claims
from recircuit.core.errors import UserError
from recircuit.experiments.sentiment.fits import published_random
from recircuit.study.scorecard import score
from recircuit.study.tables import schema
from recircuit.tasks.sentiment import toy_tables
from sentiment_claims import GPT2, PYTHIA, STORIES, STORY, pair
from sentiment_tokens import gpt2_tokenizer

ALL = ("das", "kmeans", "logistic_regression", "mean_diff", "pca")

claims = sentiment_claims.claims


# ---- numbers of several rows ----------------------------------------------------------------------------------------


def only(claims, *ids):
    picked = claims[claims["id"].isin(ids)]
    assert len(picked) == len(ids)
    return picked


def one(claims, tables):
    """Return the only claim's row of the scorecard."""
    (row,) = score(claims, tables).to_dict("records")
    return row


def test_the_prompts_of_the_notebook_have_the_published_mean(claims):
    """The fifty values were published beside their mean, rounded to four digits."""
    own = claims[claims["id"].str.match(r"se-circuit-ld-\d")]
    table = pd.DataFrame({"row": range(50), "ld_clean": own["value"].astype(float)}).assign(model=GPT2)
    table["ld_corrupted"] = -table["ld_clean"]
    for side, sign in (("clean", 1), ("corrupted", -1)):
        claim, column = only(claims, f"se-circuit-ld-{side}"), f"ld_{side}"
        assert one(claim, {(GPT2, "se_regression"): table})["difference"] == pytest.approx(0, abs=1e-4)
        for move, verdict in ((0.0051, "off"), (0.0045, "match")):
            moved = table.assign(**{column: table[column] + sign * move})
            assert one(claim, {(GPT2, "se_regression"): moved})["verdict"] == verdict


def test_the_lowest_and_the_highest_cosine_are_of_all_pairs_of_methods(claims):
    both = only(claims, "se-f2a-lowest", "se-f2a-highest")
    rows = [
        pair(a, b, (layer, layer)) | {"abs_cosine": 0.9 if layer == 0 else 0.1}
        for layer in (0, 1)
        for a in (*ALL, "random", "svd")
        for b in (*ALL, "random", "svd")
    ]
    table = pd.DataFrame(rows).assign(model=GPT2)
    strange = table["method_a"].isin(("random", "svd")) | table["method_b"].isin(("random", "svd"))
    table.loc[strange, "abs_cosine"] = 0.01
    table.loc[table["method_a"] == table["method_b"], "abs_cosine"] = 1.0
    first = table["layer_a"] == 0
    table.loc[first & (table["method_a"] == "das") & (table["method_b"] == "pca"), "abs_cosine"] = 0.8
    table.loc[first & (table["method_a"] == "kmeans") & (table["method_b"] == "mean_diff"), "abs_cosine"] = 0.985
    card = score(both, {(GPT2, "se_cosines"): table})
    assert card["ours_value"].tolist() == pytest.approx([80, 98.5], abs=1e-9)
    assert set(card["verdict"]) == {"match"}


def test_the_classification_prompts_answer_what_writers_add_up_to(claims):
    rows = [
        {"dataset": "classification", "kind": kind, "value": value}
        for kind, value in (("layer", 1.5), ("layer", 0.5), ("head", 9))
    ]
    table = pd.DataFrame([*rows, {"dataset": "movie", "kind": "layer", "value": 9}]).assign(model="pythia-1.4b")
    assert one(only(claims, "se-1.4b-ld"), {("pythia-1.4b", "se_dla"): table})["ours_value"] == 2


def test_random_directions_are_the_published_ones(claims):
    """Drawn here as the pipeline draws them: the first numbers of the first layers."""
    own = claims[claims["id"].str.startswith("se-random-")]
    drawn = published_random(13, 768).float().numpy()
    keys = {"method": "random", "set": "movie", "component": 0, "model": GPT2}
    rows = [
        keys | {"variant": v, "layer": i, "vector": row * (1 if v == "paper" else 2)}
        for v in ("paper", "full")
        for i, row in enumerate(drawn)
    ]
    table = pd.DataFrame([*rows, rows[0] | {"method": "svd"}])
    assert len(own) == 12 and set(score(own, {(GPT2, "se_directions"): table})["verdict"]) == {"match"}
    table["vector"] = [row + 2e-6 for row in table["vector"]]
    assert set(score(own, {(GPT2, "se_directions"): table})["verdict"]) == {"off"}


# ---- counts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts():
    """The toy prompts with the part of GPT-2's tokenizer that they need."""
    return toy_tables(gpt2_tokenizer(), lambda line: None)[0].assign(model=GPT2)


def test_the_prompts_are_as_many_and_as_long_as_published(claims, prompts):
    own = claims[(claims["table"] == "se_prompts") & (claims["model"] == GPT2)]
    tables = {(GPT2, "se_prompts"): prompts}
    assert len(own) == 37 and set(score(own, tables)["verdict"]) == {"match"}
    longer = prompts.assign(tokens=[[*tokens, 0] for tokens in prompts["tokens"]])
    fewer = prompts[prompts["pair"] > 0]
    for claim in own["id"]:
        changed = longer if "-length-" in claim else fewer if "-pairs-" in claim else prompts[prompts["word_vrb"] != "loved"]
        assert one(only(claims, claim), {(GPT2, "se_prompts"): changed})["verdict"] == "off"
    uneven = prompts.assign(
        tokens=[tokens[: 5 + row % 2] for row, tokens in zip(prompts["row"], prompts["tokens"], strict=True)]
    )
    with pytest.raises(UserError, match="finds lists of 2 lengths where one is expected"):
        score(only(claims, "se-length-gpt2-medical-head"), {(GPT2, "se_prompts"): uneven})


def test_the_prompts_of_the_other_tokenizer_are_asked_for_in_the_same_way(claims):
    own = claims[claims["table"] == "se_prompts"].set_index("id")
    pythia = own[own["model"] == PYTHIA]
    assert len(pythia) == 36
    twins = own.loc[pythia.index.str.replace("-pythia-", "-gpt2-")]
    for column in ("filter", "column", "aggregate", "tolerance"):
        assert pythia[column].tolist() == twins[column].tolist()


def test_the_prompts_of_the_notebook_are_in_the_published_order(claims, prompts):
    table = prompts[prompts["set"] == "circuit"].assign(ld_clean=0.0)
    own = claims[claims["id"].str.match(r"se-circuit-ld-\d")]
    assert len(own) == len(table) == 50
    assert set(score(own, {(GPT2, "se_regression"): table})["verdict"]) == {"off"}  # each finds its row


def test_negated_sentences_are_counted_once(claims):
    table = pd.DataFrame(
        [{"model": GPT2, "method": m, "item": i} for m in ("das", "pca") for i in range(27 if m == "das" else 40)]
    )
    claim = only(claims, "se-negation-prompts")
    assert one(claim, {(GPT2, "se_negation"): table})["verdict"] == "match"
    assert one(claim, {(GPT2, "se_negation"): table[table["item"] > 0]})["ours_value"] == 26


REASONS = ("kept", "no comma", "in the top ten elsewhere", "not in the top ten", "wrong answer")


def reviews(model):
    """Return reviews of every scaffold, split, label, reason and number of commas; the n-th kind of them is there n times."""
    kinds = pd.MultiIndex.from_product(
        [("suffix", "suffix_bos", "continuation"), ("train", "dev", "test"), (0, 1), REASONS, (0, 2)],
        names=["scaffold", "split", "label", "reason", "n_commas"],
    ).to_frame(index=False)
    kinds = kinds[(kinds["reason"] != "kept") | (kinds["n_commas"] > 0)]
    table = kinds.loc[kinds.index.repeat(np.arange(1, len(kinds) + 1))].reset_index(drop=True)
    return table.assign(
        model=model, sentence_index=range(len(table)), kept=table["reason"] == "kept", n_tokens=1 + np.arange(len(table)) % 77
    )


def test_reviews_are_counted_by_what_the_model_answers(claims):
    """The published filter looked for the answer among the ten likeliest at any position, so that more were kept."""
    tables = {(model, "se_examples"): reviews(model) for model in (GPT2, PYTHIA, "pythia-1.4b", "pythia-6.9b", "gpt2-xl")}
    table = reviews(PYTHIA)
    suffix, dev = table["scaffold"] == "suffix", table["split"] == "dev"
    kept = suffix & table["reason"].isin(("kept", "no comma", "in the top ten elsewhere"))
    comma = kept & (table["n_commas"] > 0) & (table["reason"] != "no comma")
    positive = table["label"] == 1
    expected = {
        "2.8b-before": suffix, "2.8b-kept": kept, "2.8b-kept-comma": comma, "2.8b-kept-comma-positive": comma & positive,
        "2.8b-kept-comma-negative": comma & ~positive, "1.4b-kept": kept, "1.4b-kept-comma": comma,
        "1.4b-kept-positive": kept & positive, "1.4b-kept-negative": kept & ~positive, "6.9b-kept": kept & dev,
        "6.9b-kept-comma": comma & dev, "gpt2-xl-kept": suffix & dev & (table["reason"] == "kept"),
    }  # fmt: skip
    expected = {f"se-ablation-{name}": rows.sum() for name, rows in expected.items()}
    begun = table["scaffold"] == "continuation"
    for split in ("train", "test", "dev"):
        own = table[begun & (table["split"] == split)]
        expected |= {f"se-sst-{kind}-{split}": len(own) for kind in ("joined", "used")}
        for name in ("gpt2", "pythia"):
            expected |= {
                f"se-sst-mean-tokens-{name}-{split}": own["n_tokens"].mean(),
                f"se-sst-max-tokens-{name}-{split}": own["n_tokens"].max(),
            }
    expected |= {f"se-sst-{kind}-total": begun.sum() for kind in ("joined", "used")}
    own = claims[claims["table"] == "se_examples"]
    assert score(own, tables).set_index("id")["ours_value"].to_dict() == pytest.approx(expected, abs=1e-9)


def test_no_review_kept_is_a_number_too(claims):
    table = reviews("gpt2-xl").assign(kept=False)
    assert one(only(claims, "se-ablation-gpt2-xl-kept"), {("gpt2-xl", "se_examples"): table})["verdict"] == "match"


# ---- models that fail at the task -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_model_that_fails_does_not_run_is_off(claims, alone):
    """Stories that it cannot do have one row each; ratios and paths have none, or only those of stories of one person."""
    own = claims[claims["table"].str.startswith("se_mood") & (claims["model"] == PYTHIA)]
    failed = {"condition": "task not solved", "layer_range": "none", "n_irrelevant": 0}
    rows = [STORY | failed | {"subset": subset} for subset in ("all", *STORIES.values())]
    tables = {(PYTHIA, "se_mood_summary"): pd.DataFrame(rows).assign(model=PYTHIA, ld_clean=0.1, ld_patched=0.1, relative=None)}
    ratios, paths = (schema(f"se_mood_{name}")[0].empty_table().to_pandas() for name in ("ratios", "paths"))
    if not alone:
        k, heads = pd.DataFrame({"k": (0, 10, 18, 22)}), pd.DataFrame(product(range(32), range(32)), columns=["layer", "head"])
        ratios = k.assign(people=1, layer_range="all", numerator="commas_and_periods", mean=0.5, model=PYTHIA)
        paths = heads.assign(people=1, kind="reads", value=0.5, model=PYTHIA)
    tables |= {(PYTHIA, "se_mood_ratios"): ratios, (PYTHIA, "se_mood_paths"): paths}
    card = score(own, tables)
    asked = card["id"].str.contains("clean")
    assert set(card.loc[asked, "ours"]) == {"0.1"} and asked.sum() == 5
    absent = card[~asked]
    assert set(absent["ours"]) == {"absent"} and absent["note"].str.endswith("not run: the model fails at the task").all()
    assert set(absent["verdict"]) == {"off", "not judged"}
    # Where no story was told at all, it is a mistake.
    tables[PYTHIA, "se_mood_summary"] = tables[PYTHIA, "se_mood_summary"].assign(people=1)
    with pytest.raises(UserError, match="finds no row"):
        score(only(claims, "se-mood-2.8b-pre-comma-ld"), tables)
