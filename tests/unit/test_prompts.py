"""The released prompts, row for row, and the counts that the paper's files have (spec 2.1 and 2.3)."""

from itertools import pairwise

import pytest

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.tasks import corpus
from recircuit.tasks import sequence_continuation as seq


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(word_level(list(corpus.vocabulary())), "test")


@pytest.fixture(scope="module")
def table(tokenizer):
    return seq.prompts_table(tokenizer, 512, 0, released=True)


def rows(table, task, kind):
    return table[(table["task"] == task) & (table["set"] == kind)].reset_index(drop=True)


@pytest.mark.parametrize(("task", "stale"), [("numerals", 620), ("numwords", 569), ("months", 560)])
def test_released_corrupted_prompts_have_their_published_flaws(table, task, stale):
    bad = rows(table, task, "corrupted")
    differs = (bad[seq.MEMBERS].to_numpy() != bad[[f"key_{m}" for m in seq.MEMBERS]].to_numpy()).any(1)
    assert differs.sum() == stale
    sequence = seq.members(task)
    followers = {(a, b) for a, b in pairwise(sequence)}
    assert not any(pair in followers for pair in zip(bad["s3"], bad["s4"], strict=True))


@pytest.mark.parametrize(("task", "same"), [("numerals", 149), ("numwords", 150), ("months", 119)])
def test_some_corrupted_prompts_keep_the_last_member(table, task, same):
    clean, bad = rows(table, task, "clean"), rows(table, task, "corrupted")
    assert (clean["s4"] == bad["s4"]).sum() == same
    assert (clean["corr"] == bad["corr"]).all()


def test_clean_prompts(table):
    for task in seq.TASKS:
        clean = rows(table, task, "clean")
        assert len(clean) == 1536
        assert clean["text"].is_unique
        assert (clean["start"].value_counts() == 192).all()
    first = rows(table, "numwords", "clean").iloc[0]
    assert first.text == "Van done in one. Hat done in two. Ring done in three. Desk done in four. Sun done in"
    assert (first["corr"], first["incorr"]) == ("five", "four")


def test_fillers_are_those_of_the_other_tasks(table):
    clean = [rows(table, task, "clean")[["template", *seq.FILLERS, "start"]] for task in seq.TASKS]
    assert clean[0].equals(clean[1])
    assert clean[0].equals(clean[2])


def test_redrawn_prompts_do_not_continue_and_depend_on_the_seed_alone(table, tokenizer):
    again = seq.prompts_table(tokenizer, 512, 0, released=True)
    other = seq.prompts_table(tokenizer, 512, 1, released=True)
    for task in seq.TASKS:
        redrawn = rows(table, task, "corrupted_fixed")
        index = {member: i for i, member in enumerate(seq.members(task))}
        assert all(index[b] != index[a] + 1 for a, b in zip(redrawn["s3"], redrawn["s4"], strict=True))
        assert set(redrawn[seq.MEMBERS].to_numpy().ravel()) == set(index)
        assert redrawn["text"].equals(rows(again, task, "corrupted_fixed")["text"])
        assert not redrawn["text"].equals(rows(other, task, "corrupted_fixed")["text"])


def test_new_prompts_are_new_and_well_formed(table, tokenizer):
    new = seq.prompts_table(tokenizer, 64, 7, released=False)
    clean = rows(new, "months", "clean")
    assert len(clean) == 192
    assert not set(clean["text"]) & set(rows(table, "months", "clean")["text"])
    assert (clean["n_tokens"] == 23).all()


def test_positions_hold_the_members(table, tokenizer):
    for row in table.sample(50, random_state=0).itertuples():
        words = tokenizer.decode(list(row.tokens))
        assert [words[seq.POSITIONS[s]] for s in ("S1", "S2", "S3", "S4")] == [row.s1, row.s2, row.s3, row.s4]
        assert words[seq.POSITIONS["end"]] == "in"


def test_a_missing_word_is_one_clear_sentence():
    poor = Tokenizer(word_level([w for w in corpus.vocabulary() if w != "Hat"]), "models/poor")
    with pytest.raises(UserError, match=r"the word 'Hat' is not in the vocabulary of models/poor"):
        seq.prompts_table(poor, 16, 0, released=True)


def test_more_prompts_than_released_is_refused(tokenizer):
    with pytest.raises(UserError, match="template 'done' has 1024 released prompts; 2000 were asked for"):
        seq.prompts_table(tokenizer, 2000, 0, released=True)
