"""The bare sequences and the months among numerals, in tokens of words and in byte-level tokens with leading spaces."""

import pandas as pd
import pytest
from tokenizers import ByteLevelBPETokenizer, decoders
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import WordLevel

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sequence_continuation import members
from recircuit.tasks.sequence_probes import following, probe_prompts, token_texts

LISTS = ("numwords", "months", "month_abbreviations")


def words_of(last):
    lists = word_data("sequence_continuation/wordlists")
    words = [*map(str, range(last + 1)), *(word for name in LISTS for word in lists[name])]
    return list(dict.fromkeys(words))


def by_words(last):
    return Tokenizer(word_level(words_of(last)), "here")


@pytest.fixture(scope="module")
def by_bytes():
    """A byte-level tokenizer that knows every word with and without a leading space, numerals to 101."""
    inner = ByteLevelBPETokenizer()
    words = words_of(101)
    texts = [form for word in words for form in (word, f" {word}", f"x {word}")]
    inner.train_from_iterator(texts, vocab_size=5000, min_frequency=1, special_tokens=[END_OF_TEXT], show_progress=False)
    return Tokenizer(inner._tokenizer, "bytes")


def mixed_texts(seed):
    table = probe_prompts(by_words(101), seed)
    return table[table["dataset"] == "months_among_random_numerals"]["text"]


def sizes(table):
    return table["dataset"].value_counts().to_dict()


ALL = {"months_among_random_numerals": 256, "months_among_ordered_numerals": 8, "ov_numwords": 8, "ov_months": 8,
       "lens_numerals": 1, "lens_numwords": 1, "lens_months": 1, "length": 100}  # fmt: skip


def test_sets_and_sizes_are_the_papers(by_bytes):
    table = probe_prompts(by_bytes, 0)
    assert sizes(table) == {**ALL, "ov_numerals": 97}
    assert table[table["dataset"] == "ov_numerals"]["n_tokens"].sum() == 388
    first = table[table["row"] == 0].set_index("dataset")
    assert first.loc["ov_months", "text"] == "January February March April" and first.loc["ov_months", "answer"] == "May"
    assert first.loc["lens_numwords", "text"] == "one two three four" and first.loc["lens_numwords", "answer"] == "five"
    last = table.groupby("dataset").last()
    assert (last.loc["ov_numerals", "text"], last.loc["ov_numerals", "answer"]) == ("97 98 99 100", "101")
    assert last.loc["ov_numwords", "text"] == "eight nine ten eleven"
    assert not table.duplicated(["dataset", "row"]).any()


def test_one_token_and_one_role_per_word_and_a_bos_for_the_mixed_sets_only(by_bytes):
    table = probe_prompts(by_bytes, 0)
    for row in table.itertuples():
        mixed = row.dataset.startswith("months_among")
        texts, roles, words = token_texts(by_bytes, row.tokens), row.roles.split(), row.text.split()
        assert len(texts) == len(roles) == row.n_tokens == len(words) + mixed
        assert (texts[0] == END_OF_TEXT) == mixed
        assert texts[mixed:] == [words[0], *(f" {word}" for word in words[1:])]
        assert row.roles == "bos n1 m1 n2 m2 n3 m3 n4 m4 last" if mixed else roles == [f"S{i + 1}" for i in range(len(words))]
        assert pd.isna(row.answer) == mixed


def test_mixed_sets_have_months_in_order_and_numerals_as_the_paper_draws_them(by_bytes):
    table, months = probe_prompts(by_bytes, 0), word_data("sequence_continuation/wordlists")["month_abbreviations"]
    drawn = []
    for row in table[table["dataset"] == "months_among_random_numerals"].itertuples():
        words = row.text.split()
        window = row.row % 8
        assert words[1::2] == months[window : window + 4]
        r1, r2, r3, r4, r5 = map(int, words[::2])
        assert 5 <= r2 <= 20 and r4 == r2 - 1 and all(1 <= r <= 20 for r in (r1, r3, r5))
        drawn.append((r1, r2, r3, r4, r5))
    assert len(set(drawn)) > 25 and all(len(set(drawn[i : i + 8])) == 1 for i in range(0, 256, 8))
    assert {r for row in drawn for r in (row[0], row[2], row[4])} > {1, 20}, "both ends are drawn"
    seconds = {int(text.split()[2]) for seed in range(4) for text in mixed_texts(seed)}
    assert (min(seconds), max(seconds)) == (5, 20)
    ordered = table[table["dataset"] == "months_among_ordered_numerals"]["text"].tolist()
    assert ordered[0] == "0 Jan 1 Feb 2 Mar 3 Apr 4" and ordered[7] == "7 Aug 8 Sep 9 Oct 10 Nov 11"


def test_draws_depend_on_the_seed_alone(by_bytes):
    assert probe_prompts(by_bytes, 0)["text"].tolist() == probe_prompts(by_words(101), 0)["text"].tolist()
    assert probe_prompts(by_bytes, 0)["text"].tolist() != probe_prompts(by_bytes, 1)["text"].tolist()


def test_a_small_vocabulary_leaves_numerals_out():
    table = probe_prompts(by_words(20), 0)
    assert sizes(table) == {**ALL, "ov_numerals": 16}
    texts = table[table["dataset"] == "ov_numerals"]["text"].tolist()
    assert texts[-1] == "16 17 18 19", "its answer, 20, is the last word"
    assert table[table["dataset"] == "ov_numerals"]["row"].tolist() == list(range(16))


def test_a_vocabulary_without_a_word_of_a_whole_set_is_refused():
    with pytest.raises(UserError, match=r"of months_among_random_numerals, .* not one token per word in the tokenizer of here"):
        probe_prompts(by_words(12), 0)
    words = [word for word in words_of(20) if word != "twelve"]
    with pytest.raises(UserError, match="'eight nine ten eleven' of ov_numwords"):
        probe_prompts(Tokenizer(word_level(words), "here"), 0)


def test_without_an_end_of_text_token_there_is_none_in_front():
    tokenizer = by_words(20)
    tokenizer.bos = None
    table = probe_prompts(tokenizer, 0)
    mixed = table[table["dataset"] == "months_among_ordered_numerals"].iloc[0]
    assert mixed["roles"].startswith("n1 m1") and mixed["n_tokens"] == 9


def test_what_follows():
    assert following("numerals", "97") == "98" and following("numerals", "2", step=2) == "4"
    assert following("numwords", "eleven") == "twelve"
    assert following("months", "February", "published") == "third" and following("months", "February", "fixed") == "March"
    assert following("numwords", "two", "published") == "three"
    assert [following("months", month) for month in members("months")[:11]] == members("months")[1:]


def test_texts_of_tokens_keep_their_leading_space(by_bytes):
    assert token_texts(by_bytes, by_bytes.encode("one two three")) == ["one", " two", " three"]
    assert token_texts(by_bytes, [by_bytes.bos]) == [END_OF_TEXT]
    assert token_texts(by_words(5), by_words(5).encode("one two")) == ["one", "two"]


def test_texts_of_pieces_whose_decoder_trims_the_first_space():
    inner = HubTokenizer(WordLevel({END_OF_TEXT: 0, "▁": 1, "▁five": 2, "5": 3}))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    assert token_texts(Tokenizer(inner, "pieces"), [2, 1, 3, 2, 0]) == [" five", " ", "5", " five", END_OF_TEXT]
