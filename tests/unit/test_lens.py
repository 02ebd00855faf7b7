"""The logit lens and the probability against length, against transformers' hidden states and softmax; counts by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sequence_continuation.length import next_probability
from recircuit.experiments.sequence_continuation.lens import (
    answer_block,
    consecutive_hits,
    lens_answers,
    lens_tokens,
    places,
    read,
)
from recircuit.methods.ablation import Prompts
from recircuit.methods.lens import entries, lens_logits
from recircuit.tasks.sequence_continuation import TASKS, members

N, T, LAYERS = 19, 9, 3
WORDS = ["the", *map(str, range(25)), *members("numwords"), *members("months")]
TOKENIZER = Tokenizer(word_level(WORDS), "here")
VOCAB = len(WORDS) + 1


def quiet(line):
    pass


@pytest.fixture(scope="module")
def slow():
    return oracle.random_gpt2(vocab=VOCAB, seed=6)


@pytest.fixture(scope="module")
def model(slow, tmp_path_factory):
    return load(oracle.save(slow, tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)


@torch.no_grad()
def literal(slow, tokens, end):
    """What the authors' code computes, and what it should have: hidden states, of which the last is past ln_f already."""
    states = [state[torch.arange(len(end)), end] for state in slow(tokens, output_hidden_states=True).hidden_states]
    norm, head = slow.transformer.ln_f, slow.lm_head
    published = [head(state) for state in states[:-1]] + [head(norm(states[-1]))]
    return {"published": published, "fixed": [head(norm(state)) for state in states[:-1]] + [head(states[-1])]}


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(1)
    return torch.randint(VOCAB, (N, T), generator=rng), torch.randint(VOCAB, (N, 2), generator=rng)


@pytest.mark.parametrize("end", [torch.full((N,), T - 1), torch.arange(N) % (T - 2) + 2], ids=["last", "ragged"])
@pytest.mark.parametrize("variant", ["published", "fixed"])
def test_lens_equals_hidden_states(slow, model, data, end, variant):
    expected = literal(slow, data[0], end)[variant]
    found = [lens_logits(model, x, entry, variant) for entry, x in enumerate(entries(model, data[0], end))]
    assert len(found) == LAYERS + 1
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-10
    other = literal(slow, data[0], end)["fixed" if variant == "published" else "published"]
    assert min((a - b).abs().max() for a, b in zip(expected, other, strict=True)) > 1e-3, "the variants differ everywhere"


@pytest.mark.parametrize("chunk", [8, 32])
def test_readings_of_every_prompt(slow, model, data, chunk):
    tokens, answers = data
    end = torch.full((N,), T - 1)
    found = read(model, Prompts(tokens, end, answers), chunk)
    for variant, logits in literal(slow, tokens, end).items():
        for entry, theirs in enumerate(logits):
            assert found[variant].top[entry].tolist() == theirs.argmax(1).tolist()
            ld = theirs.gather(1, answers)
            assert np.abs(found[variant].ld[entry] - (ld[:, 0] - ld[:, 1]).numpy()).max() < 1e-10


def test_tokens_of_the_bare_sequences(slow, model):
    texts = ["1 2 3 4", "one two three four"]
    probes = pd.DataFrame({"dataset": ["lens_numerals", "lens_numwords"], "text": texts,
                           "tokens": [TOKENIZER.encode(text) for text in texts]})  # fmt: skip
    other = pd.DataFrame({"dataset": ["ov_numerals"], "text": ["2 3"], "tokens": [[1, 2]]})
    table = lens_tokens(model, TOKENIZER, pd.concat([other, probes]))
    assert len(table) == 2 * 2 * (LAYERS + 1) * 5
    assert sorted(table["block"].unique()) == [-1, 0, 1, 2] and sorted(table["rank"].unique()) == [0, 1, 2, 3, 4]
    for text in texts:
        logits = literal(slow, torch.tensor([TOKENIZER.encode(text)]), torch.tensor([3]))
        for variant, by_entry in logits.items():
            for entry, theirs in enumerate(by_entry):
                rows = table[(table["variant"] == variant) & (table["prompt"] == text) & (table["block"] == entry - 1)]
                best = theirs[0].topk(5)
                assert rows["token"].tolist() == TOKENIZER.decode(best.indices.tolist())
                assert np.abs(rows["logit"].to_numpy() - best.values.numpy()).max() < 1e-10


# Counting -----------------------------------------------------------------------------------------------------------------


def test_places_of_tokens():
    ids = TOKENIZER.inner.get_vocab()
    top = np.array([[ids["the"], ids["24"], ids["three"], ids["March"]]])
    answers = np.array([ids["5"]])
    assert places(TOKENIZER, "numerals", top, answers) == {ids["24"]: 24, ids["5"]: 5}, "any integer, not only members"
    assert places(TOKENIZER, "numwords", top, answers) == {ids["three"]: 2}
    assert places(TOKENIZER, "months", top, answers) == {ids["March"]: 2}


def test_hits_need_the_answer_and_an_earlier_member_before_it():
    place = {1: 1, 2: 2, 3: 3}
    answers = np.array([2, 2, 2, 2, 2])
    # Entries by prompts: embeddings, after block 0, after block 1.
    top = np.array([[1, 1, 9, 1, 2], [1, 9, 3, 2, 2], [2, 2, 2, 2, 2]])
    #   block 0:   the answer in prompts 3, 4; before it 1 (earlier) and 2 (not earlier).
    #   block 1:   the answer everywhere; before it 1 (earlier), 9 (no member), 3 (later), 2 and 2 (not earlier).
    assert consecutive_hits(top, answers, place).tolist() == [1, 1]
    assert consecutive_hits(top, np.array([9] * 5), place).tolist() == [0, 0], "an answer without a place"


def test_the_block_is_the_papers_for_twelve_layers_and_else_the_best():
    assert answer_block(np.array([5, 9, 9, 1])) == 1
    assert answer_block(np.array([99, 0, 3, 1])) == 2, "block 0 follows the embeddings"
    assert answer_block(np.array([7])) == 0
    assert answer_block(np.arange(12)[::-1]) == 9


def test_counts_and_shares_of_a_study(slow, model):
    rng = np.random.default_rng(3)
    rows = [(task, kind, i, rng.integers(VOCAB, size=T).tolist(), *rng.integers(VOCAB, size=2))
            for task in TASKS for kind in ("clean", "corrupted") for i in reversed(range(N))]  # fmt: skip
    prompts = pd.DataFrame(rows, columns=["task", "set", "row", "tokens", "corr_id", "incorr_id"])
    # So that something is hit: the answer is what the lens says after block 1, for half of the prompts.
    months = (prompts["task"] == "months") & (prompts["set"] == "clean")
    tokens, end = torch.tensor(prompts.loc[months, "tokens"].tolist()), torch.full((N,), T - 1)
    answers = literal(slow, tokens, end)["fixed"][2].argmax(1).numpy()
    prompts.loc[months, "corr_id"] = np.where(np.arange(N) % 2, answers, 0)
    counts, blocks = lens_answers(model, TOKENIZER, prompts, 8, quiet)
    assert len(counts) == 6 and len(blocks) == 6 * (LAYERS + 1)
    assert set(counts["total"]) == {N} and (counts["share"] == counts["hits"] / N).all()
    chosen = blocks[(blocks["variant"] == "fixed") & (blocks["task"] == "months")].set_index("block")
    right = (answers == prompts.loc[months, "corr_id"].to_numpy()).mean()
    assert chosen.loc[1, "top1_corr"] == pytest.approx(right) and right > 0.4
    expected = literal(slow, tokens, end)["fixed"]
    pair = torch.tensor(prompts.loc[months, ["corr_id", "incorr_id"]].to_numpy())
    for entry, logits in enumerate(expected):
        picked = logits.gather(1, pair)
        assert chosen.loc[entry - 1, "ld"] == pytest.approx(float((picked[:, 0] - picked[:, 1]).mean()), abs=1e-10)
        assert chosen.loc[entry - 1, "top1_incorr"] == pytest.approx(float((logits.argmax(1) == pair[:, 1]).double().mean()))


# Length -------------------------------------------------------------------------------------------------------------------


def test_probability_against_length_equals_softmax(slow, model):
    rows = [("length", row, [TOKENIZER.single(str(n)) for n in range(start, start + length)], length, str(start + length),
             " ".join(str(n) for n in range(start, start + length)))
            for row, (length, start) in enumerate((length, start) for length in (1, 2, 5) for start in (3, 1, 10))]  # fmt: skip
    probes = pd.DataFrame(rows, columns=["dataset", "row", "tokens", "n_tokens", "answer", "text"])
    table = next_probability(model, TOKENIZER, probes, 8, quiet).set_index(["start", "length"])["p_next"]
    assert len(table) == 9
    for _, _, tokens, length, answer, text in rows:
        with torch.no_grad():
            expected = slow(torch.tensor([tokens])).logits[0, -1].softmax(0)[TOKENIZER.single(answer)]
        assert table[int(text.split()[0]), length] == pytest.approx(float(expected), abs=1e-12)
