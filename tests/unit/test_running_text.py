"""Rows of running text: TransformerLens' own function, its former recipe run through datasets, and rows counted by hand."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, disable_progress_bars
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.tasks import running_text
from recircuit.tasks.running_text import batches, chunks, read_documents, rows, token_labels, whole_words

disable_progress_bars()
TEXT = "the kettle sang and the lamp shone; nobody minded, café or not. \n“Well,” said 12 tins — “don't!”"
SENTENCES = TEXT.split(" ")
PAD = "<pad>"


@pytest.fixture(scope="module")
def tokenizer():
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator([TEXT] * 3, vocab_size=330, show_progress=False)
    inner._tokenizer.add_special_tokens([END_OF_TEXT, PAD])
    return Tokenizer(inner._tokenizer, "bytes")


@pytest.fixture(scope="module")
def documents():
    """Documents of 0 to 40 words, so many that two shares of them are more than one batch each."""
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(SENTENCES, int(rng.integers(0, 41)))) for _ in range(2301)]


def hub_tokenizer(tokenizer, pad=END_OF_TEXT):
    marks = dict(bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=pad)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.inner, **marks)


def test_rows_are_those_of_transformer_lens(documents, tokenizer, monkeypatch):
    from transformer_lens.utilities.tokenize_utils import tokenize_and_concatenate

    monkeypatch.setattr(running_text, "PROCESSES", 2)
    data = Dataset.from_dict({"text": documents})
    theirs = tokenize_and_concatenate(data, hub_tokenizer(tokenizer), max_length=64, num_proc=2)
    ours = rows(documents, tokenizer, length=64)
    assert len(ours) > 300 and ours.dtype == np.int32
    assert np.array_equal(np.stack([row["tokens"].numpy() for row in theirs]), ours)


def former(batch, hub, length):
    """The recipe of TransformerLens 1.x, with the padding that a batch of unequal texts gets."""
    text = hub.eos_token.join(batch["text"])
    step = (len(text) - 1) // 20 + 1
    padded = hub([text[i * step : (i + 1) * step] for i in range(20)], padding=True, return_tensors="np")["input_ids"]
    kept = [int(i) for i in padded.reshape(-1) if i != hub.pad_token_id]
    return {"tokens": [[hub.bos_token_id, *kept[i : i + length]] for i in range(0, len(kept) - length + 1, length)]}


@pytest.mark.parametrize("own_pad", [False, True])
def test_rows_are_those_of_transformer_lens_1(documents, tokenizer, monkeypatch, own_pad):
    monkeypatch.setattr(running_text, "PROCESSES", 2)
    # Padded with a token of its own, a batch keeps the tokens between its documents.
    hub = hub_tokenizer(tokenizer, PAD if own_pad else END_OF_TEXT)
    data = Dataset.from_dict({"text": documents})
    mapped = data.map(lambda batch: former(batch, hub, 63), batched=True, num_proc=2, remove_columns=["text"])
    ours = rows(documents, tokenizer, length=64, recipe="1.x", pad=hub.pad_token_id)
    assert np.array_equal(np.array(mapped["tokens"]), ours)
    assert (tokenizer.bos in ours[:, 1:]) == own_pad
    assert own_pad or np.array_equal(ours, rows(documents, tokenizer, length=64, recipe="1.x")), "the default padding"


def test_the_two_recipes_differ_by_ends_and_cut_words(tokenizer):
    documents = ["the kettle sang and the lamp shone;"] * 12
    now, then = (rows(documents, tokenizer, length=11, recipe=recipe) for recipe in ("current", "1.x"))
    assert tokenizer.bos in now[:, 1:] and tokenizer.bos not in then[:, 1:]
    whole = tokenizer.encode(documents[0])
    first, second = tokenizer.encode(documents[0][:8]), tokenizer.encode(documents[0][8:])
    assert whole != first + second, "cutting text changes tokens"
    assert now[0].tolist() == [tokenizer.bos, *whole, tokenizer.bos, *whole][:11]


def test_batches_are_contiguous_shares_cut_from_their_own_start():
    documents = [str(i) for i in range(25)]
    sizes = [len(batch) for batch in batches(documents, 3, 4)]
    assert sizes == [4, 4, 1, 4, 4, 4, 4]  # shares of 9, 8, 8
    assert [word for batch in batches(documents, 3, 4) for word in batch] == documents
    assert [len(batch) for batch in batches(documents[:2], 10, 1000)] == [1, 1]  # no more shares than documents


def test_chunks_have_equally_many_characters():
    assert [len(chunk) for chunk in chunks("x" * 41)] == [3] * 13 + [2]
    assert [len(chunk) for chunk in chunks("x" * 40)] == [2] * 20
    assert chunks("abc") == ["a", "b", "c"] and chunks("") == []


@pytest.fixture(scope="module")
def words():
    return Tokenizer(word_level(["the", "lamp", "shone"]), "words")


def test_short_rows_of_a_small_vocabulary_counted_by_hand(words, monkeypatch):
    monkeypatch.setattr(running_text, "PROCESSES", 1)
    assert rows(["the lamp", "the lamp shone", "lamp"], words, length=4).tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    monkeypatch.setattr(running_text, "BATCH", 2)  # the third document is a batch of its own, and too short
    assert rows(["the lamp", "the lamp shone", "lamp"], words, length=4).tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert rows(["the lamp", "the lamp shone", "lamp the lamp"], words, length=4)[2].tolist() == [0, 2, 1, 2]


def test_what_cannot_be_made_is_told_in_one_sentence(words):
    with pytest.raises(UserError, match="1 documents give 2 tokens in 1 batches; no row of 1024 is full"):
        rows(["the lamp"], words)
    with pytest.raises(UserError, match="0 documents give 0 tokens"):
        rows([], words)
    with pytest.raises(UserError, match="the word 'lam' is not in the vocabulary of words; did you mean 'lamp'"):
        rows(["the lam"], words, length=2)
    with pytest.raises(UserError, match=r"there is no recipe '1.y' for running text; did you mean '1.x'"):
        rows(["the lamp"], words, recipe="1.y")
    bare = Tokenizer(ByteLevelBPETokenizer()._tokenizer, "bare")
    with pytest.raises(UserError, match="the tokenizer of bare has no token that begins a text"):
        rows(["the lamp"], bare)


def test_documents_come_from_parquet_and_json_lines(tmp_path):
    pd.DataFrame({"text": ["one\x85", "two\nlines", ""], "other": 0}).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "three\\u2028"}\n{"text": "four"}\n', encoding="utf-8")
    assert read_documents(tmp_path / "b.parquet") == ["one\x85", "two\nlines", ""]
    assert read_documents(tmp_path) == ["three\u2028", "four", "one\x85", "two\nlines", ""]
    for name, content in (("c.parquet", b"PAR1"), ("d.jsonl", b'{"body": 1}'), ("e.jsonl", b'{"text"'), ("f.jsonl", b"[1]")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} cannot be read") as caught:
            read_documents(tmp_path / name)
        assert "\n" not in str(caught.value)
    for missing in (tmp_path / "none", tmp_path / "none.parquet"):
        with pytest.raises(UserError, match=r"no documents; expected a .parquet or .jsonl file with a column 'text'"):
            read_documents(missing)


# ---- classes of tokens ----------------------------------------------------------------------------------------------


def test_labels_of_tokens_are_those_of_their_words(tokenizer):
    labels = token_labels(tokenizer, {"kettle": "positive", "The": "odd", "the": "neutral", "lamp": "negative"})
    vocabulary = tokenizer.inner.get_vocab()
    assert len(labels) == len(vocabulary)
    for token, i in vocabulary.items():
        expected = {"the": "neutral", "kettle": "positive", "lamp": "negative"}.get(
            token.replace("Ġ", "").lower(), "unlabelled"
        )
        assert labels[i] == expected, token
    assert {"positive", "negative", "neutral", "unlabelled"} == set(labels)
    cased = token_labels(tokenizer, {"w": "small", "W": "capital"})
    assert (cased[vocabulary["w"]], cased[vocabulary["W"]]) == ("small", "capital"), "as it is first, then in lower case"


def test_words_of_several_tokens_are_none(tokenizer):
    text = "the kettlesang lamp;shone “lamp” café lamp"
    ids = tokenizer.encode(text)
    found = whole_words(tokenizer, np.array([ids]))[0]
    offsets = tokenizer.inner.encode(text, add_special_tokens=False).offsets
    for i, (start, end) in enumerate(offsets[:-1]):
        piece = text[start:end].strip()
        first = start + len(text[start:end]) - len(text[start:end].lstrip())
        alone = not (text[first - 1 : first].isalnum() and piece[:1].isalnum()) if first else True
        alone = alone and not (piece[-1:].isalnum() and text[end : end + 1].isalnum())
        if piece.isascii() and piece:
            assert found[i] == alone, piece
    assert not found[-1], "what comes after the last token is not known"
    assert {text[s:e].strip() for (s, e), whole in zip(offsets, found, strict=True) if whole} >= {"the", "lamp", "café"}


def test_a_vocabulary_of_words_has_whole_words_alone(words):
    assert whole_words(words, np.array([[0, 1, 2], [0, 3, 3]])).all()
