"""Knock-outs: what is written equals plain hooks on transformers' own Llama; sets, controls, scores and tests by hand."""

from functools import partial
from math import sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.stats import paired_test, wilson
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation import llama_knockouts
from recircuit.experiments.sequence_continuation.llama_heads import (
    KnockOut,
    controls,
    found_sets,
    knockouts_of,
    published_sets,
    refuse_beyond,
)
from recircuit.experiments.sequence_continuation.llama_knockouts import generate_knockouts, mean_heads
from recircuit.experiments.sequence_continuation.llama_scores import knockout_scores
from recircuit.study.tables import read_table, write_table
from recircuit.tasks import number_corpus
from recircuit.tasks.corpus import word_data
from recircuit.tasks.llama_prompts import ENGLISH, LISTS, llama_prompts
from recircuit.tasks.llama_questions import questions

LAYERS, HEADS = 2, 4


# Intervals and tests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (50, 50), (2, 50), (24.3, 43), (1, 1)])
def test_wilson_solves_its_equation(hits, n):
    """The bounds are the shares p whose distance to the observed one is z standard errors, sqrt(p (1 - p) / n)."""
    low, high = wilson(hits, n)
    z = 1.959963984540054
    for bound in (low, high):
        assert abs(abs(hits / n - bound) - z * sqrt(bound * (1 - bound) / n)) < 1e-9
    assert 0 <= low <= hits / n <= high <= 1 and (low == 0) == (hits == 0) and (high == 1) == (hits == n)
    if hits == int(hits):
        theirs = binomtest(int(hits), n).proportion_ci(method="wilson")
        assert abs(low - theirs.low) < 1e-12 and abs(high - theirs.high) < 1e-12


def test_wilson_refuses_what_is_no_share():
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            wilson(hits, n)


def test_the_paired_test_is_the_exact_sign_test():
    assert paired_test(0, 0) == 1 and paired_test(3, 3) == 1
    assert paired_test(0, 6) == paired_test(6, 0) == 2 / 2**6
    for a, b in ((1, 9), (12, 4), (0, 1), (30, 17)):
        assert abs(paired_test(a, b) - binomtest(a, a + b).pvalue) < 1e-12


# Sets of heads ----------------------------------------------------------------------------------------------------------------


def test_published_sets_are_those_of_the_paper():
    sets = published_sets()
    sizes = {"numerals": 84, "numwords": 82, "months": 64, "shared": 16, "big3": 3, "big5": 5}
    assert {name: len(heads) for name, heads in sets.items()} == sizes
    assert sets["shared"] == sets["numerals"] & sets["numwords"] & sets["months"]
    assert sets["big3"] == {(20, 17), (16, 0), (5, 25)} and sets["big5"] - sets["big3"] == {(6, 11), (11, 18)}
    refuse_beyond(sets, (32, 32))
    with pytest.raises(UserError, match=r"the set 'numerals' has head 0\.15; the model has 4 layers of 8 heads"):
        refuse_beyond(sets, (4, 8))


def node_rows(nodes):
    """Rows of llama_circuits: task -> (layer, head or None) -> share, each in two draws."""
    rows = [
        (task, draw, "mlp" if head is None else "head", layer, head, share)
        for task, found in nodes.items() for (layer, head), share in found.items() for draw in (1, 2)
    ]  # fmt: skip
    columns = ["task", "draw", "component", "layer", "head", "share"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int16"})


def drop_rows(rows):
    columns = ["base", "task", "draw", "component", "layer", "head", "drop_pp"]
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int16"})


def test_found_sets_are_majorities_and_the_largest_drops():
    shares = {
        "numerals": {(0, 1): 0.6, (1, 2): 1.0, (1, 3): 0.5, (0, None): 1.0, (2, 0): 1.0},
        "numwords": {(0, 1): 1.0, (1, 2): 1.0, (1, 3): 1.0, (2, 1): 0.8},
        "months": {(0, 1): 0.8, (1, 2): 1.0, (1, 3): 1.0},
        "spanish_months": {(3, 3): 1.0},
    }
    drops = drop_rows(
        [
            ("circuit", "numerals", 1, "head", 0, 1, -5.0),
            ("circuit", "months", 1, "head", 1, 2, -4.0),
            ("circuit", "months", 2, "head", 1, 2, -4.0),
            ("circuit", "numerals", 1, "head", 2, 0, -30.0),
            ("full", "numerals", 1, "head", 0, 1, -90.0),
            ("circuit", "spanish_months", 1, "head", 0, 1, -90.0),
        ]
    )
    sets = found_sets(node_rows(shares), drops)
    assert sets["numerals"] == {(0, 1), (1, 2), (2, 0)}, "a share of one half is no majority, an MLP no head"
    assert sets["shared"] == {(0, 1), (1, 2)} and (3, 3) not in sets["big5"]
    assert sets["big3"] == {(1, 2), (0, 1), (2, 0)}, "the shared ones first, then the largest of the others"
    assert sets["big5"] == {(1, 2), (0, 1), (2, 0), (1, 3), (2, 1)}


def test_controls_stay_outside_and_have_the_right_sizes():
    sets, shape = published_sets(), (32, 32)
    random = controls(sets, shape, 0, 60, published=True)
    union = sets["numerals"] | sets["numwords"] | sets["months"]
    for key, drawn in random.items():
        assert [knockout.draw for knockout in drawn] == list(range(60))
        inside = union if key.startswith("random_like") else sets["shared"]
        assert not any(knockout.heads & inside for knockout in drawn)
    assert {key: {len(knockout.heads) for knockout in drawn} for key, drawn in random.items()} == {
        "random": {100}, "random_words": {3}, **{f"random_like_{name}": {len(heads)} for name, heads in sets.items()},
    }  # fmt: skip
    listed = [frozenset(map(tuple, heads)) for heads in word_data(LISTS)["random_circuits_100_heads"]]
    assert [knockout.heads for knockout in random["random"][:50]] == listed
    assert random["random"][50].heads not in listed
    assert {knockout.name for knockout in random["random_words"]} == {"random"}
    own = controls(sets, shape, 0, 60, published=False)
    assert own["random"][0].heads != listed[0] and own["random"][50] == random["random"][50]
    assert controls(sets, shape, 1, 2, published=False)["random"][0].heads != own["random"][0].heads


def test_controls_of_a_small_model_take_what_there_is():
    every = frozenset((l, h) for l in range(2) for h in range(4))
    sets = dict.fromkeys(("numerals", "numwords"), every - {(0, 0), (1, 1)}) | {"months": frozenset({(0, 1)})}
    sets |= {"shared": frozenset({(0, 1)}), "big3": frozenset({(0, 1)}), "big5": frozenset()}
    random = controls(sets, (2, 4), 0, 3, published=False)
    assert {len(knockout.heads) for knockout in random["random"]} == {4}, "half of the model at most"
    assert {knockout.heads for knockout in random["random_like_numerals"]} == {frozenset({(0, 0), (1, 1)})}
    assert "random_like_big5" not in random
    whole = controls(sets | {"months": every}, (2, 4), 0, 3, published=False)
    assert not any(key.startswith("random_like") for key in whole)


def test_experiments_have_their_sets_and_controls():
    sets = published_sets()
    random = controls(sets, (32, 32), 0, 4, published=True)

    def names(experiment):
        found = {}
        for knockout in knockouts_of(experiment, sets, random):
            found.setdefault(knockout.name, []).append(len(knockout.heads))
        return found

    every = {"none": [0], "numerals": [84], "numwords": [82], "months": [64], "shared": [16], "big3": [3], "big5": [5]}
    like = {f"random_like_{name}": every[name] * 4 for name in (*ENGLISH, "shared")}
    assert names("intervals") == names("arithmetic") == {**every, "random": [100] * 4, **like}
    like = {f"random_like_{name}": every[name] * 4 for name in ("shared", "big3", "big5")}
    assert names("word_problem_dates") == names("word_problem_months") == {**every, "random": [3] * 4, **like}
    assert names("qualitative") == {**every, "5.25": [1], "16.0": [1], "20.17": [1], "random": [100]}
    empty = knockouts_of("intervals", sets | {"shared": frozenset()}, {})
    assert "shared" not in {knockout.name for knockout in empty}, "an empty set is not knocked out"


# Generation -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(number_corpus.tokenizer(), "test")


@pytest.fixture
def both(tokenizer, tmp_path, monkeypatch):
    oracle.exact_norms_and_angles(monkeypatch)
    vocabulary = tokenizer.inner.get_vocab_size()
    slow = oracle.random_llama(layers=LAYERS, heads=HEADS, d=32, vocab=vocabulary, positions=64, seed=1, std=0.25)
    return oracle.HookedFamily(slow), load(oracle.save(slow, tmp_path), dtype=torch.float64)


def asked(tokenizer, positions=40):
    """Three questions of each subset."""
    found = {}
    for question in questions(tokenizer, positions, print):
        found.setdefault((question.experiment, question.subset), []).append(question)
    return [question for group in found.values() for question in group[:3]]


def plain(hooked, tokens, steps, heads, values):
    written, text = [], list(tokens)
    for _ in range(steps):
        replaced = {(l, h): values[l, h] for l, h in heads}
        written.append(int(hooked.run(torch.tensor([text]), replaced)[0][0, -1].argmax()))
        text.append(written[-1])
    return written


def test_means_are_over_all_positions_of_all_clean_prompts(both, tokenizer):
    hooked, model = both
    prompts = llama_prompts(tokenizer, 1, 0, print)
    clean = prompts.loc[prompts["set"] == "clean", "tokens"]
    recorded = [hooked.run(torch.tensor([tokens]))[1] for tokens in clean]
    expected = torch.stack([torch.cat([zs[layer][0] for zs in recorded]).mean(0) for layer in range(LAYERS)])
    found = mean_heads(model, prompts, 8)
    assert found.shape == (LAYERS, HEADS, 8) and (found - expected).abs().max() < 1e-10
    assert (mean_heads(model, prompts, 1024) == found).all()


def test_what_is_written_equals_plain_hooks(both, tokenizer, tmp_path, monkeypatch):
    hooked, model = both
    sets = {
        "numerals": frozenset({(0, 1), (1, 2)}), "numwords": frozenset({(0, 1)}), "months": frozenset({(0, 1), (1, 3)}),
        "shared": frozenset({(0, 1)}), "big3": frozenset({(0, 1), (1, 2), (1, 3)}), "big5": frozenset(),
    }  # fmt: skip
    random = controls(sets, (LAYERS, HEADS), 0, 3, published=False)
    monkeypatch.setattr(llama_knockouts, "MEAN_DRAWS", 2)
    means = torch.randn(LAYERS, HEADS, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    group, chosen = asked(tokenizer), partial(knockouts_of, sets=sets, random=random)
    rows = generate_knockouts(model, tokenizer, group, chosen, means, 64, print)
    write_table(rows.assign(model="m"), tmp_path / "knockouts.parquet", "knockouts", {})
    rows = read_table(tmp_path / "knockouts.parquet", "knockouts")
    by_subset = {}
    for question in group:
        by_subset.setdefault((question.experiment, question.subset), []).append(question)
    seen = 0
    for (experiment, subset), of_subset in by_subset.items():
        of_both = rows[(rows["experiment"] == experiment) & (rows["subset"] == subset)]
        for i, knockout in enumerate(chosen(experiment)):
            mine = of_both[(of_both["ablated"] == knockout.name) & (of_both["draw"] == knockout.draw)]
            for ablation, values in (("zero", torch.zeros_like(means)), ("mean", means)):
                found = mine[mine["ablation"] == ablation].sort_values("prompt")
                if ablation == "mean" and (knockout.name == "none" or knockout.draw > 1):
                    assert found.empty
                    continue
                assert found["text"].tolist() == [question.text for question in of_subset]
                assert set(found["n_heads"]) == {len(knockout.heads)}
                seen += len(found)
                place = i % len(of_subset)  # one prompt of each, the next one each time
                question = of_subset[place]
                ids = plain(hooked, question.tokens, question.steps, knockout.heads, values)
                assert found["output"].iloc[place] == tokenizer.text(ids)
    assert seen == len(rows)


def test_equal_sets_are_run_once_and_every_row_gets_its_own(both, tokenizer, monkeypatch):
    _, model = both
    group = [question for question in asked(tokenizer) if question.subset == "+1"]
    sizes, generate_all = [], llama_knockouts.generate_all
    monkeypatch.setattr(llama_knockouts, "generate_all", lambda m, p, *args: sizes.append(len(p)) or generate_all(m, p, *args))
    a, b = frozenset({(0, 0)}), frozenset({(1, 1), (0, 2)})
    knockouts = [KnockOut("none", 0, frozenset()), KnockOut("x", 0, a), KnockOut("y", 0, b), KnockOut("x", 1, a)]
    means = torch.zeros(LAYERS, HEADS, 8, dtype=torch.float64)
    rows = generate_knockouts(model, tokenizer, group, lambda experiment: knockouts, means, 64, print)
    assert sizes == [9, 9] and len(rows) == 4 * 3 + 3 * 3
    x = rows[(rows["ablated"] == "x") & (rows["ablation"] == "zero")]
    assert x.loc[x["draw"] == 0, "output"].tolist() == x.loc[x["draw"] == 1, "output"].tolist()
    zero, mean = (rows[(rows["ablation"] == kind) & (rows["ablated"] != "none")] for kind in ("zero", "mean"))
    assert zero["output"].tolist() == mean["output"].tolist(), "means of zero are zero"


# Scores -----------------------------------------------------------------------------------------------------------------------


def outcome_rows(outcomes, experiment="intervals", ablation="zero"):
    """Rows of knockouts: name -> draws -> prompts right or wrong."""
    return pd.DataFrame(
        [
            (experiment, "+1", name, ablation, draw, prompt, 7, bool(correct))
            for name, draws in outcomes.items() for draw, found in enumerate(draws) for prompt, correct in enumerate(found)
        ],
        columns=["experiment", "subset", "ablated", "ablation", "draw", "prompt", "n_heads", "correct"],
    )  # fmt: skip


def test_scores_by_hand(tmp_path):
    control = [[1, 1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 1]]
    outcomes = {
        "none": [[1, 1, 1, 1, 1, 1, 1, 0]],
        "months": [[0, 0, 0, 0, 0, 1, 1, 1]],
        "shared": [[1] * 8],
        "random_like_months": control,
    }
    rows = pd.concat([outcome_rows(outcomes), outcome_rows({"months": [[1] * 8]}, ablation="mean")])
    rows = pd.concat([rows, outcome_rows({"none": [[1] * 8]}, "qualitative")])
    scores = knockout_scores(rows)
    write_table(scores.assign(model="m"), tmp_path / "s.parquet", "knockout_scores", {})
    assert set(scores["experiment"]) == {"intervals"} and len(scores) == 5
    scores = scores.set_index(["ablated", "ablation"])
    none, months, random = (scores.loc[(name, "zero")] for name in ("none", "months", "random_like_months"))
    assert none["accuracy_pct"] == 87.5 and none["able_pct"] == 100 and none["n_able"] == 7
    assert months["accuracy_pct"] == 37.5 and months["able_pct"] == pytest.approx(200 / 7) and months["n_draws"] == 1
    assert (months["ci_lo"], months["ci_hi"]) == tuple(100 * bound for bound in wilson(3, 8))
    assert random["accuracy_pct"] == pytest.approx(100 * np.mean(control)) and random["n_draws"] == 4 and random["n"] == 8
    assert (random["ci_lo"], random["ci_hi"]) == tuple(100 * bound for bound in wilson(24 / 4, 8))
    # Prompt by prompt beside draws 0 1 2 3 0 1 2 3, of which only draw 1 is wrong, on prompt 5.
    assert months["p_value"] == paired_test(1, 5) == pytest.approx(14 / 64)
    others = scores["p_value"].drop(("months", "zero"))
    assert others.isna().all(), "no control of that size, or under that ablation"
    assert scores.loc[("months", "mean"), "able_pct"] == 100 and scores.loc[("months", "mean"), "n_able"] == 7


def test_scores_of_a_model_that_can_nothing():
    scores = knockout_scores(outcome_rows({"none": [[0, 0]], "months": [[0, 0]], "random_like_months": [[0, 0]]}))
    assert scores["able_pct"].isna().all() and set(scores["n_able"]) == {0} and set(scores["accuracy_pct"]) == {0.0}
    assert scores.set_index("ablated").loc["months", "p_value"] == 1


def test_a_set_like_its_controls_does_not_seem_to_differ():
    """Every draw is right on 60 of 100 prompts of its own, and so is the set: the p-values are not small."""
    rng, values = np.random.default_rng(0), []
    for _ in range(60):
        drawn = (rng.random((51, 100)) < 0.6).tolist()
        scores = knockout_scores(outcome_rows({"none": [[1] * 100], "months": drawn[:1], "random_like_months": drawn[1:]}))
        values.append(scores.set_index("ablated").loc["months", "p_value"])
    assert np.median(values) > 0.3 and np.mean(np.array(values) < 0.05) < 0.1
