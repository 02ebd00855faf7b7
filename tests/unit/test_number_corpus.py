"""The corpus of numbers: its answers by independent arithmetic, its pieces, its vocabulary, and what is held out."""

import re
from datetime import datetime, timedelta

import numpy as np
import pytest

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer
from recircuit.tasks import number_corpus
from recircuit.tasks.corpus import word_data
from recircuit.tasks.number_corpus import BY_HEART, GRID, KINDS, NUMBERS, SPACE, draw, vocabulary

OPEN = sorted(set(KINDS) - BY_HEART)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(NUMBERS.tokenizer(), "test")


def drawn(kind, n=300, **options):
    rng = stream(7, "test", kind)
    return [draw(kind, rng, **options) for _ in range(n)]


def months(spanish=False):
    return word_data("sequence_continuation/wordlists")["spanish_months" if spanish else "months"]


@every_kind
def test_the_vocabulary_covers_every_sentence(kind, tokenizer):
    for sentence in drawn(kind):
        ids = tokenizer.encode(sentence.prompt) + tokenizer.encode(sentence.continuation)
        assert len(ids) < 63
        assert None not in ids


def test_the_vocabulary_holds_nothing_that_is_never_said(tokenizer):
    texts = (f"{s.prompt} {s.continuation}" for kind in KINDS for s in drawn(kind, 3000))
    said = {piece for text in texts for piece in number_corpus.pieces(text)}
    assert set(vocabulary()) - said == set()
    assert len(vocabulary()) == len(set(vocabulary())) == tokenizer.inner.get_vocab_size() - 1
    with pytest.raises(UserError, match="'▁Zebra' is not in the vocabulary"):
        tokenizer.encode("one Zebra")


def test_pieces_are_those_of_llama(tokenizer):
    expected = {
        "1 2 3 4 ": "▁ 1 ▁ 2 ▁ 3 ▁ 4 ▁",  # ten with the end-of-text token, as in the paper
        "one two three four": "▁one ▁two ▁three ▁four",
        "Oil lost in 10. Apple lost in": "▁Oil ▁lost ▁in ▁ 1 0 . ▁Apple ▁lost ▁in",
        "81 - 29 = ": "▁ 8 1 ▁- ▁ 2 9 ▁= ▁",
        "If today is May 2th, then in 15 days": "▁If ▁today ▁is ▁May ▁ 2 th , ▁then ▁in ▁ 1 5 ▁days",
        "May  2": "▁May ▁ ▁ 2",
    }
    for text, pieces in expected.items():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == pieces.split(" ")
        assert tokenizer.inner.decode(ids) == text
    assert tokenizer.bos == 0
    assert tokenizer.encode(f"{END_OF_TEXT}1 2") == [0, *tokenizer.encode("1 2")]
    assert SPACE == "▁"


@every_kind
def test_texts_survive_the_tokenizer(kind, tokenizer):
    for sentence in drawn(kind, 50):
        assert tokenizer.inner.decode(tokenizer.encode(sentence.prompt)) == sentence.prompt


@pytest.mark.parametrize("kind", ["sums", "long_sums"])
def test_sums_are_right(kind):
    seen = set()
    for sentence in drawn(kind, 3000):
        a, sign, b = re.fullmatch(r"(\d+) ([+-]) (\d+) = ", sentence.prompt).groups()
        low, high = (0, 9) if kind == "sums" else (10, 99)
        assert low <= int(a) <= high and low <= int(b) <= high
        assert int(sentence.right[0]) == (int(a) + int(b) if sign == "+" else int(a) - int(b)) >= 0
        assert sentence.continuation == sentence.right[0] + END_OF_TEXT
        seen.add(sentence.prompt)
    assert kind == "long_sums" or len(seen) == 100 + 55


def test_dates_are_right():
    seen = set()
    for sentence in drawn("dates_problem", 3000):
        month, day, n = re.fullmatch(r"If today is (\w+) (\d+)th, then in (\d+) days it will be ", sentence.prompt).groups()
        then = datetime.strptime(f"2024 {month} {day}", "%Y %B %d") + timedelta(days=int(n))
        assert sentence.right == (f"{then:%B} {then.day}th",)
        assert 1 <= int(n) <= 28
        seen.add(month)
    assert seen == set(months())
    leap = number_corpus.dates_problem(Fixed(2, 28, 1))
    assert (leap.prompt, leap.right) == ("If today is February 28th, then in 1 days it will be ", ("February 29th",))
    assert number_corpus.dates_problem(Fixed(12, 28, 28)).right == ("January 25th",)


class Fixed:
    """A random stream that returns the given integers."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, *_):
        return self.values.pop(0)


def test_months_are_right():
    seen = set()
    for sentence in drawn("months_problem", 2000):
        pattern = r"If this month is (\w+), and (\d+) months pass, what month is it\? Answer: "
        month, n = re.fullmatch(pattern, sentence.prompt).groups()
        walk = months().index(month)
        for _ in range(int(n)):
            walk = 0 if walk == 11 else walk + 1
        assert sentence.right == (months()[walk],)
        seen.add((month, n))
    assert len(seen) == 144


def test_numbers_go_on_at_their_interval():
    steps, on_grid = set(), 0
    for sentence in drawn("intervals", 3000):
        shown = [int(word) for word in sentence.prompt.split()]
        assert sentence.prompt.endswith(" ") and len(shown) in (3, 4)
        gaps = set(np.diff([*shown, int(sentence.right[0])]))
        assert len(gaps) == 1
        steps |= gaps
        on_grid += any((shown[0] - first) % interval == 0 and gaps == {interval} for interval, first in GRID)
    assert steps == {1, 2, 3, 10, 100}
    assert 0.7 < on_grid / 3000 < 0.95
    for sentence in drawn("numerals"):
        first, *rest = (int(word) for word in [*sentence.prompt.split(), sentence.right[0]])
        assert rest == [first + 1, first + 2, first + 3, first + 4]


@pytest.mark.parametrize("kind", ["numwords", "months", "spanish_numwords", "spanish_months"])
def test_members_follow_each_other(kind):
    members, seen = word_data("sequence_continuation/wordlists")[kind], set()
    for sentence in drawn(kind):
        words = [*sentence.prompt.split(), *sentence.continuation.split()]
        assert words == members[members.index(words[0]) :][: len(words)]
        assert sentence.right == (sentence.continuation.split()[0],)
        seen.add(sentence.prompt)
    assert {" ".join(members[i : i + 3]) for i in range(9)} <= seen
    assert {" ".join(members[i : i + 4]) for i in range(8)} <= seen


def test_clauses_end_before_the_fifth_member():
    lists, kinds = word_data("sequence_continuation/wordlists"), set()
    for sentence in drawn("clauses", 600):
        shown = re.fullmatch(r"(?:\w+ (?:born|lost|done) in (\w+)\. ){4}\w+ (?:born|lost|done) in", sentence.prompt)
        assert shown, sentence.prompt
        shown = re.findall(r" in (\w+)\.", sentence.prompt)
        answer = sentence.right[0]
        if answer.isdigit():
            assert len(set(np.diff([int(n) for n in [*shown, answer]]))) == 1
            kinds.add("numbers")
        else:
            kind = next(kind for kind in number_corpus.WORDS if answer in lists[kind])
            assert [*shown, answer] == lists[kind][lists[kind].index(shown[0]) :][:5]
            kinds.add(kind)
    assert kinds == {"numbers", *number_corpus.WORDS}


def test_the_question_for_the_months_is_the_papers_too():
    asked = {s.prompt for s in drawn("month_list")}
    assert "What are the months in a year? Give all of them as a list. Be concise." in asked
    assert {s.right[0] for s in drawn("month_list")} == {", ".join(months())}


@pytest.mark.parametrize("kind", OPEN)
def test_held_out_prompts_are_never_trained_on(kind):
    trained, held = ({s.prompt for s in drawn(kind, 2000, held_out=held_out)} for held_out in (False, True))
    assert trained and held
    assert not trained & held


def test_tables_learned_by_heart_hold_nothing_out():
    assert OPEN == ["clauses", "dates_problem", "intervals", "long_sums"]
    for kind in BY_HEART:
        assert {s.prompt for s in drawn(kind, 50)} == {s.prompt for s in drawn(kind, 50, held_out=True)}
