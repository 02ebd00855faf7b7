"""Prompts and metrics of greater-than: the published counts and token ids with GPT-2's own tokens, and the metric by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import BPE

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.methods.years import collate, cutoff_sharpness, probability_difference
from recircuit.tasks.corpus import vocabulary, word_data
from recircuit.tasks.greater_than import POOLS, Encoder, known_nouns, prompts_table, span, year_ids, year_pool
from recircuit.tasks.greater_than_tasks import listed, step_of, tasks_table

SIZES = {"discovery": 490, "population": 300, "seeds": 2}
REFERENCE = word_data("greater_than/prompt")


@pytest.fixture(scope="module")
def gpt2():
    """The part of GPT-2's tokenizer that these prompts need."""
    data = json.loads((Path(__file__).parents[1] / "data" / "gpt2_years_tokenizer.json").read_text())
    inner = HubTokenizer(BPE(data["vocab"], [tuple(m.split(" ")) for m in data["merges"]]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    return Tokenizer(inner, "gpt2")


@pytest.fixture(scope="module")
def pocket():
    return Tokenizer(word_level(list(vocabulary())), "pocket")


@pytest.fixture(scope="module", params=["gpt2", "pocket"])
def prompts(request):
    tokenizer, said = request.getfixturevalue(request.param), []
    frame = pd.concat(
        [prompts_table(tokenizer, SIZES, 0, said.append), tasks_table(tokenizer, POOLS["code768"], 0, said.append)]
    )
    return request.param, tokenizer, frame.reset_index(drop=True), said


def test_the_golden_prompts_have_the_published_ids(gpt2):
    for golden in REFERENCE["golden"]:
        bos = golden["text"].startswith(END_OF_TEXT)
        text = golden["text"].removeprefix(END_OF_TEXT)
        assert Encoder(gpt2, bos=bos, lead="").ids(text) == golden["ids"], golden["text"]
    for task in listed():
        encoder = Encoder(gpt2, bos=task["clean"].startswith(END_OF_TEXT), lead="")
        for kind in ("clean", "corrupt"):
            if f"example_{kind}_ids" in task and f"example_{kind}" in task:
                text = task[f"example_{kind}"].removeprefix(END_OF_TEXT)
                assert encoder.ids(text) == task[f"example_{kind}_ids"], text


def test_the_pools_have_the_published_years(gpt2):
    assert len(year_pool(gpt2, POOLS["code768"])) == 768
    assert len(year_pool(gpt2, POOLS["paper617"])) == 617
    counts = [len(year_pool(gpt2, [century])) for century in range(10, 19)]
    assert counts == [74, 53, 96, 89, 96, 89, 97, 97, 77]
    nouns = word_data("greater_than/nouns")["nouns"]
    assert len(known_nouns(gpt2, nouns)) == len(nouns) == 120
    ids = year_ids(gpt2)
    assert (ids[0], ids[1], max(ids), len(set(ids))) == (405, 486, 6659, 100)


def test_the_regression_rows_are_the_published_ones(gpt2):
    first = word_data("greater_than/eap_ig_regression")["rows"][0]
    frame = prompts_table(gpt2, SIZES, 0, print)
    rows = frame[frame["dataset"] == "REG"].sort_values("row")
    assert len(rows) == 1000
    assert rows["clean"].iloc[0] == f"The {first[0]} lasted from the year {first[1]} to the year {first[1] // 100}"
    assert rows["clean_ids"].iloc[0][:2] == [50256, 464]  # no space before The


def test_positions_hold_the_years(prompts):
    _, tokenizer, frame, _ = prompts
    ids = year_ids(tokenizer)
    coded = frame["dataset"].str.endswith("_code")
    for row in frame[~coded].itertuples():
        assert row.clean_ids[row.yy_pos] == ids[row.yy]
        assert len(row.clean_ids) == len(row.corrupt_ids) == row.n_tokens == row.end_pos + 1
        assert row.clean_ids != row.corrupt_ids
    spans = frame[frame["dataset"] == "D490"]
    assert set(spans["yy_pos"]) == {8} and set(spans["end_pos"]) == {12} and set(spans["xx_pos"]) == {7}
    same = [[i for i in range(13) if a[i] != b[i]] for a, b in zip(spans["clean_ids"], spans["corrupt_ids"], strict=True)]
    malformed = [d == [7, 8] for d in same]
    assert all(d in ([8], [7, 8]) for d in same)
    if prompts[0] == "gpt2":  # 1001 is 100, 1: both tokens of the year change in century 10, and only there
        assert malformed == list(spans["century"] == 10)


def test_years_run_as_the_spec_says(prompts):
    name, _, frame, _ = prompts
    balanced = frame[frame["dataset"] == "D490"].sort_values("row")
    assert list(balanced["yy"]) == [2 + i % 97 for i in range(490)]
    assert list(frame[frame["dataset"] == "D97"].sort_values("row")["year"]) == list(range(1702, 1799))
    assert frame["yy"].between(2, 98).all()
    for dataset in ("T0", "T2", "T9"):
        assert set(frame.loc[frame["dataset"] == dataset, "yy"]) <= set(range(2, 99))
    twice = prompts_table(prompts[1], SIZES, 0, print)
    again = frame[frame["dataset"].isin(set(twice["dataset"]))].sort_values(["dataset", "row"])
    assert list(twice.sort_values(["dataset", "row"])["clean"]) == list(again["clean"])
    assert not (
        frame.loc[frame["dataset"] == "D10k", "clean"].to_numpy() == frame.loc[frame["dataset"] == "D10k_s1", "clean"]
    ).all()
    if name == "gpt2":
        assert frame.groupby("dataset").size()["T7"] == 87  # ten years are single tokens
        assert frame.groupby("dataset").size()["T8"] == 97
        assert {"T1_code", "T7_code"} <= set(frame["dataset"])


def test_the_tasks_are_the_published_ones(gpt2):
    frame = tasks_table(gpt2, POOLS["code768"], 0, print)
    for task in listed():
        rows = frame[frame["dataset"] == f"T{task['id']}"]
        assert set(rows["n_tokens"]) == {task["seq_len"]} and set(rows["yy_pos"]) == {task["yy_pos"]}
        assert set(rows["end_pos"]) == {task["end_pos"]} and set(rows["direction"]) == {task["direction"]}
    steps = {yy: step_of(yy) for yy in (32, 60, 97)}
    assert steps == {32: 3, 60: 7, 97: 2}
    row = frame[(frame["dataset"] == "T4") & (frame["yy"] == 32)].iloc[0]
    assert row["clean"] == "1720, 1723, 1726, 1729, 1732, 17"
    fixed, coded = (frame[frame["dataset"] == name].iloc[0]["corrupt"] for name in ("T1", "T1_code"))
    assert "later, it" in fixed and "later and it" in coded
    shifted = frame[frame["dataset"] == "T7_code"].sort_values("row").iloc[0]
    assert shifted["yy"] == 2 and "703 BC" in shifted["clean"]  # the mask of row 0, the sentence of row 1


def test_a_tokenizer_that_does_not_split_years_is_told_so():
    words = [str(y) for y in range(1000, 1900)] + [f"{n:02d}" for n in range(100)]
    words += ["The", "lasted", "from", "the", "year", "to"] + word_data("greater_than/nouns")["nouns"]
    inner = word_level(sorted(set(words)))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(UserError, match=r"no year is two tokens"):
        prompts_table(Tokenizer(inner, "whole years"), SIZES, 0, print)


def test_the_metric_on_distributions_by_hand():
    yy = torch.tensor([2, 41, 98])
    uniform = torch.full((3, 100), 0.01, dtype=torch.float64)
    expected = torch.tensor([(98 - 2 * y) / 100 for y in (2, 41, 98)], dtype=torch.float64)
    assert (probability_difference(uniform, yy) - expected).abs().max() < 1e-12
    assert cutoff_sharpness(uniform, yy).abs().max() == 0
    sharp = torch.zeros(3, 100, dtype=torch.float64)
    sharp[torch.arange(3), yy + 1] = 1
    assert (probability_difference(sharp, yy) - 1).abs().max() == 0 and (cutoff_sharpness(sharp, yy) - 1).abs().max() == 0
    own = torch.zeros(3, 100, dtype=torch.float64)
    own[torch.arange(3), yy] = 1  # the year itself is wrong either way
    assert (probability_difference(own, yy) + 1).abs().max() == 0
    assert (probability_difference(own, yy, "lt") + 1).abs().max() == 0
    below = torch.zeros(3, 100, dtype=torch.float64)
    below[:, 1] = 1
    assert (probability_difference(below, yy, "lt") - 1).abs().max() == 0


def test_rows_of_one_year_are_averaged():
    years, mean, counts = collate(np.array([[1.0, 3.0], [3.0, 5.0], [7.0, 7.0]]), np.array([5, 5, 2]))
    assert years.tolist() == [2, 5] and counts.tolist() == [1, 2] and mean.tolist() == [[7.0, 7.0], [2.0, 4.0]]


def test_a_span_says_what_the_paper_says():
    row = span("war", 1732)
    assert row.clean == "The war lasted from the year 1732 to the year 17"
    assert row.corrupt == "The war lasted from the year 1701 to the year 17"
