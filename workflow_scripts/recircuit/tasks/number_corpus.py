"""The corpus of numbers: what the sequence-continuation paper asks of Llama-2 (section 2.5), for a model of that architecture.

Sequences of members, bare and in clauses, in English and Spanish; sequences of numbers with intervals 1, 2, 3, 10 and 100;
sums; and the two word problems. Numbers are written as Llama-2 writes them, a piece for the space and one per digit, so that
answers are several tokens and a prompt that ends in a space ends in a piece of its own.

Some kinds are tables that can only be learned by heart: the successor of March follows from nothing else, and there are but
100 sums of two single digits. Of the kinds in ``BY_HEART`` all prompts are trained on, and their gates ask the same prompts
again: they tell what was learned, not what generalises. Of the others one prompt in ten is held out, as in the papers' corpus.
"""

from collections.abc import Callable
from datetime import date, timedelta
from functools import cache, partial
from itertools import chain

import numpy as np
from tokenizers import Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import WordLevel

from recircuit.core.stats import stream
from recircuit.core.tokenizer import END_OF_TEXT
from recircuit.tasks.corpus import Corpus, Sentence, pick, word_data
from recircuit.tasks.corpus import is_held_out as hashed_out

SPACE = "\u2581"  # how the pieces write a space
GRID = ((1, 1), (2, 2), (3, 3), (10, 0), (100, 0))  # interval and first number, each continued from 50 places
STEPS = 50
WORDS = ("numwords", "months", "spanish_numwords", "spanish_months")  # lists of members, twelve each


def _members(name: str) -> list[str]:
    return word_data("sequence_continuation/wordlists")[name]


def _answered(prompt: str, answer: str, after: str = "") -> Sentence:
    """A prompt whose text ends with its answer."""
    return Sentence(prompt, f"{answer}{after}{END_OF_TEXT}", (answer,))


# ---- sequences ------------------------------------------------------------------------------------------------------


def bare_words(rng: np.random.Generator, task: str) -> Sentence:
    """``one two three four``: two to five members in order, and up to three more. No end is told: any length may go on."""
    members, length = _members(task), int(rng.integers(2, 6))
    start = int(rng.integers(len(members) - length))
    after = members[start + length : start + length + 3]
    return Sentence(" ".join(members[start : start + length]), " ".join(after), (after[0],))


def numbers(rng: np.random.Generator, shown: int) -> list[str]:
    """Return ``shown`` + 1 numbers at one interval: of the paper's grid, or one time in four beside it, as 10 13 16 19."""
    interval, first = pick(rng, GRID)
    if rng.random() < 0.25 and interval <= 10:
        first += int(rng.integers(interval))
    place = int(rng.integers(STEPS))
    return [str(first + (place + i) * interval) for i in range(shown + 1)]


def numerals(rng: np.random.Generator) -> Sentence:
    """``1 2 3 4 ``: four consecutive numerals, four times in five the small ones that the paper prunes with."""
    start = int(rng.integers(1, 10 if rng.random() < 0.8 else 50))
    return _answered("".join(f"{start + i} " for i in range(4)), str(start + 4))


def intervals(rng: np.random.Generator) -> Sentence:
    """``20 30 40 ``: three or four numbers of the grid."""
    *shown, answer = numbers(rng, int(rng.integers(3, 5)))
    return _answered("".join(f"{number} " for number in shown), answer)


def clauses(rng: np.random.Generator) -> Sentence:
    """``Oil lost in January. Apple lost in``: five clauses of the papers' skeleton, whose members may be of any sequence."""
    lists, kind = word_data("sequence_continuation/wordlists"), pick(rng, (*WORDS, "numbers", "numbers"))
    verb = pick(rng, ("born", "lost", "done"))
    words = pick(rng, lists["names_100_in_released_data" if verb == "born" else "objects_73_in_released_data"], 5)
    if kind == "numbers":
        members = numbers(rng, 4)
    else:
        start = int(rng.integers(8))
        members = _members(kind)[start : start + 5]
    text = ". ".join(f"{word} {verb} in {member}" for word, member in zip(words, members, strict=True))
    return _answered(text[: -len(members[-1]) - 1], members[-1])


def month_list(rng: np.random.Generator) -> Sentence:
    """The question for the months of a year, in a few wordings; a list of twelve answers it."""
    asked = pick(rng, ("What are the months in a year?", "What are the months of a year?", "Give the months of a year."))
    manner = "" if rng.random() < 0.2 else " Be concise."
    return _answered(f"{asked} Give all of them as a list.{manner}", ", ".join(_members("months")), ".")


# ---- sums and word problems -----------------------------------------------------------------------------------------


def sums(rng: np.random.Generator, low: int, high: int) -> Sentence:
    """``2 + 7 = `` or ``7 - 2 = `` of two numbers from ``low`` to ``high``; differences are not negative."""
    a, b = (int(n) for n in rng.integers(low, high + 1, size=2))
    if rng.random() < 0.5:
        return _answered(f"{a} + {b} = ", str(a + b))
    a, b = max(a, b), min(a, b)
    return _answered(f"{a} - {b} = ", str(a - b))


def months_problem(rng: np.random.Generator) -> Sentence:
    """Word problem A: which month is it after 1 to 12 months?"""
    months, now, n = _members("months"), int(rng.integers(12)), int(rng.integers(1, 13))
    prompt = f"If this month is {months[now]}, and {n} months pass, what month is it? Answer: "
    return _answered(prompt, months[(now + n) % 12], ".")


def dates_problem(rng: np.random.Generator) -> Sentence:
    """Word problem B: which day is it after 1 to 28 days of the year 2024? Days are ``1th``, ``2th`` as in the paper."""
    today, n = date(2024, int(rng.integers(1, 13)), int(rng.integers(1, 29))), int(rng.integers(1, 29))
    now, then = (f"{_members('months')[day.month - 1]} {day.day}th" for day in (today, today + timedelta(days=n)))
    return _answered(f"If today is {now}, then in {n} days it will be ", then, ".")


# ---- the corpus -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.random.Generator], Sentence]] = {
    "numerals": numerals,
    "numwords": partial(bare_words, task="numwords"),
    "months": partial(bare_words, task="months"),
    "spanish_numwords": partial(bare_words, task="spanish_numwords"),
    "spanish_months": partial(bare_words, task="spanish_months"),
    "intervals": intervals,
    "clauses": clauses,
    "month_list": month_list,
    "sums": partial(sums, low=0, high=9),
    "long_sums": partial(sums, low=10, high=99),
    "months_problem": months_problem,
    "dates_problem": dates_problem,
}
BY_HEART = frozenset(KINDS) - {"intervals", "clauses", "long_sums", "dates_problem"}


def is_held_out(kind: str, sentence: Sentence) -> bool:
    """Tell whether a prompt belongs to the tenth that no model is trained on; none of a kind learned by heart does."""
    return kind not in BY_HEART and hashed_out(sentence)


def draw(kind: str, rng: np.random.Generator, *, held_out: bool = False) -> Sentence:
    """Draw a sentence of a kind for training, or one to ask a trained model."""
    while True:
        sentence = KINDS[kind](rng)
        if kind in BY_HEART or hashed_out(sentence) == held_out:
            return sentence


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Pieces as Llama-2's: a word takes the space before it along; digits are alone, and so is a space before one."""
    spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    pieces = Regex(rf"{SPACE}?[^\W\d_]+|\d|{SPACE}?[^\w\s{SPACE}]|{SPACE}")
    return pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(pieces, "isolated")])


def pieces(text: str) -> list[str]:
    """Split a text into the pieces of this corpus' tokenizer."""
    return [piece for piece, _ in _pre_tokenizer().pre_tokenize_str(text)]


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every piece that the corpus can hold, sorted."""
    lists = word_data("sequence_continuation/wordlists")
    words = {*"0123456789", SPACE}
    for name in ("names_100_in_released_data", "objects_73_in_released_data", *WORDS):
        words.update(chain.from_iterable(pieces(word) for word in lists[name]))
    rng = stream(0, "vocabulary of numbers")
    for make in KINDS.values():  # the templates' own words: a hundred draws meet them all
        for sentence in (make(rng) for _ in range(100)):
            words.update(pieces(sentence.prompt), pieces(sentence.continuation.removesuffix(END_OF_TEXT)))
    return tuple(sorted(words))


def tokenizer() -> HubTokenizer:
    """Build the tokenizer: end-of-text first, then the vocabulary. It decodes to the text that was encoded."""
    ids = {piece: i for i, piece in enumerate([END_OF_TEXT, *vocabulary()])}
    inner = HubTokenizer(WordLevel(ids))
    inner.add_special_tokens([END_OF_TEXT])
    inner.pre_tokenizer = _pre_tokenizer()
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return inner


NUMBERS = Corpus(draw=draw, tokenizer=tokenizer, strict=frozenset(KINDS), with_bos=1.0, whole_continuation=True)
