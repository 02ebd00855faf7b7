"""What Llama-2 is asked to continue while heads are knocked out, and what it reads while attention is looked at.

Sequence continuation, sections 2.5 and 3 (E12, E13). Prompts that a model's tokenizer does not know are left out and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data
from recircuit.tasks.llama_prompts import LISTS

Log = Callable[[str], None]
N_INTERVALS = 50  # prompts at each interval
ARITHMETIC_STEPS = 5  # tokens in which a sum must be spelled
STEPS = {"word_problem_months": 15, "word_problem_dates": 5, "qualitative": 15}
LIST_STEPS = 80  # tokens in which twelve months can be listed
SPANISH = ("uno dos tres", "seis siete ocho", "dos cuatro siete")
LIST_QUESTION = "What are the months in a year? Give all of them as a list. Be concise."
CLAUSES = ("lost", "in")


class Question(NamedTuple):
    """A prompt in a model's tokens, the answer, the tokens that spell it (where only these count), and how many to write."""

    experiment: str
    subset: str
    text: str
    answer: str
    tokens: tuple[int, ...]
    spelled: tuple[int, ...]
    steps: int


class Reading(NamedTuple):
    """Prompts [n T] of one length, and the role of each of their tokens."""

    name: str
    tokens: list[list[int]]
    roles: list[str]


# ---- questions (E12) ---------------------------------------------------------------------------------------------------------


def questions(tokenizer: Tokenizer, n_positions: int, log: Log) -> list[Question]:
    """Return all questions in a model's tokens, a token that begins a text in front.

    Left out are those with words that the tokenizer does not know, and those that with their answers are longer than the
    model's ``n_positions``. Raises UserError when none is left.
    """
    found, asked = [], Counter()
    for experiment, subset, text, answer in _asked():
        asked[experiment, subset] += 1
        question = _question(tokenizer, experiment, subset, text, answer, n_positions)
        if question is not None:
            found.append(question)
    kept = Counter((question.experiment, question.subset) for question in found)
    for (experiment, subset), n in asked.items():
        if kept[experiment, subset] < n:
            log(f"{experiment} {subset}: {n - kept[experiment, subset]} of {n} prompts left out, for words the model lacks")
    if not found:
        raise UserError(f"none of the {asked.total()} questions can be asked with the tokenizer of {tokenizer.where}")
    return found


def _asked() -> Iterator[tuple[str, str, str, str]]:
    """Yield (experiment, subset, text, answer) of every question of the paper."""
    listed = word_data(LISTS)
    for step, first in listed["intervaled"]["(interval d, start s)"]:
        for k in range(N_INTERVALS):
            shown = "".join(f"{first + (k + i) * step} " for i in range(3))
            yield "intervals", f"+{step}", shown, str(first + (k + 3) * step)
    for subset, sums in listed["arithmetic"].items():
        for text, answer in zip(sums["prompts"], sums["answers"], strict=True):
            yield "arithmetic", subset, text, answer
    months = listed["word_problem_months"]
    for text, answer in zip(months["prompts"], months["answers"], strict=True):
        yield "word_problem_months", "all", text, answer
    for text, answer in listed["word_problem_dates"]["prompts_answers"]:
        yield "word_problem_dates", "all", text, answer.rstrip(".")
    words = word_data("sequence_continuation/wordlists")
    for text in SPANISH:
        yield "qualitative", "spanish", text, _next_in(words["spanish_numwords"], text.split())
    yield "qualitative", "months_in_a_year", LIST_QUESTION, " ".join(words["months"])


def _next_in(sequence: list[str], shown: list[str]) -> str:
    """Return the member that follows consecutive ones, or nothing for members that are not."""
    places = [sequence.index(word) for word in shown]
    consecutive = places == list(range(places[0], places[0] + len(places)))
    return sequence[places[-1] + 1] if consecutive else ""


def _question(tokenizer: Tokenizer, experiment: str, subset: str, text: str, answer: str, n_positions: int) -> Question | None:
    spelled, steps = (), STEPS.get(experiment, ARITHMETIC_STEPS)
    try:
        tokens = [*([] if tokenizer.bos is None else [tokenizer.bos]), *tokenizer.encode(text)]
        if experiment in ("intervals", "arithmetic"):
            spelled = tuple(tokenizer.continuation(text, answer))
    except UserError:
        return None
    if experiment == "intervals":
        steps = len(spelled)
    if subset == "months_in_a_year":  # as much of the list as the model has room for
        steps = max(1, min(LIST_STEPS, n_positions + 1 - len(tokens)))
    if len(tokens) + steps - 1 > n_positions or steps < 1 or len(spelled) > steps:
        return None
    return Question(experiment, subset, text, answer, tuple(tokens), spelled, steps)


# ---- scoring -----------------------------------------------------------------------------------------------------------------


def spelling(tokenizer: Tokenizer, ids) -> str:
    """Return the texts of single tokens, joined; the bare piece of a space, whose text is empty, counts as a space."""
    return "".join(tokenizer.text([i]) or " " for i in tokenizer.written(ids))


def judged(tokenizer: Tokenizer, question: Question, ids: list[int], unablated: list[int]) -> tuple[list[int], bool]:
    """Return the tokens of an output that count, and whether they answer the question (section 3, E12).

    intervals: as many tokens as the answer has spell it. arithmetic: as many as the unablated model needed to spell it, at
    most five; a sum that it cannot do is wrong for every knock-out. months: the answer occurs anywhere; dates: the last two
    words, without dots, are the answer; qualitative: all words of the answer occur.
    """
    if question.experiment == "intervals":
        counted = ids[: question.steps]
        return counted, spelling(tokenizer, counted) == question.answer
    if question.experiment == "arithmetic":
        needed = steps_needed(tokenizer, question, unablated)
        counted = ids[: needed or ARITHMETIC_STEPS]
        return counted, needed is not None and spelling(tokenizer, counted) == question.answer
    text = tokenizer.text(ids)
    if question.experiment == "word_problem_months":
        return ids, question.answer in text
    if question.experiment == "word_problem_dates":
        return ids, " ".join(text.replace(".", "").split()[-2:]) == question.answer
    words = question.answer.split()
    return ids, bool(words) and all(word in text for word in words)


def steps_needed(tokenizer: Tokenizer, question: Question, ids: list[int]) -> int | None:
    """Return after how many tokens an output spells the answer, or None if it never does."""
    spelt = (n for n in range(1, len(ids) + 1) if spelling(tokenizer, ids[:n]) == question.answer)
    return next(spelt, None)


# ---- prompts whose attention is looked at (E13) ------------------------------------------------------------------------------


def readings(tokenizer: Tokenizer, log: Log) -> list[Reading]:
    """Return the sets of E13 in a model's tokens. A word of several tokens gives its role to the last, ``w1_1`` to the first.

    Raises UserError when the tokenizer knows the words of none of them.
    """
    found = []
    for name, prompts in _read():
        rows = [row for row in (_roles(tokenizer, prompt) for prompt in prompts) if row is not None]
        if not rows:
            log(f"{name}: left out, for words the model lacks")
            continue
        first = next(roles for _, roles in rows)
        tokens = [ids for ids, roles in rows if roles == first]
        if len(tokens) < len(prompts):
            log(f"{name}: {len(tokens)} of {len(prompts)} prompts; the others have words the model lacks or splits")
        found.append(Reading(name, tokens, first))
    if not found:
        raise UserError(f"the tokenizer of {tokenizer.where} has the words of none of the prompts for attention")
    return found


def _read() -> Iterator[tuple[str, list[list[tuple[str, str]]]]]:
    """Yield the sets: a name and, of each prompt, (what is written, role) in order."""
    for name, text in word_data(LISTS)["attention_prompts"].items():
        if isinstance(text, str):
            yield f"llama_{name}", [_clauses(text)]
        else:
            roles = ("n1", "m1", "n2", "m2", "n3", "m3", "n4", "m4", "last")
            prompts = [list(zip(_spaced(prompt.split()), roles, strict=True)) for prompt in text]
            yield "llama_random_numwords", prompts


def _spaced(words: list[str]) -> list[str]:
    return [words[0], *(f" {word}" for word in words[1:])]


def _clauses(text: str) -> list[tuple[str, str]]:
    """Split ``Oil lost in January. ...`` into words and full stops, with the roles that the papers' clauses have."""
    parts = []
    for i, clause in enumerate(text.split(". "), 1):
        words = clause.split()
        names = [f"w{i}", f"verb{i}", f"in{i}", f"S{i}"][: len(words)]
        parts += [(f" {word}" if parts or j else word, name) for j, (word, name) in enumerate(zip(words, names, strict=True))]
        if len(words) == 4:
            parts.append((".", f"dot{i}"))
    return [*parts[:-1], (parts[-1][0], "end")]


def _roles(tokenizer: Tokenizer, prompt: list[tuple[str, str]]) -> tuple[list[int], list[str]] | None:
    """Return a prompt's ids, a token that begins a text in front, and their roles; None for words that are not known."""
    ids, roles = ([], []) if tokenizer.bos is None else ([tokenizer.bos], ["bos"])
    text = ""
    for word, role in prompt:
        try:
            more = tokenizer.continuation(text, word) if text else tokenizer.encode(word)
        except UserError:
            return None
        roles += [*(f"{role}_{i}" for i in range(1, len(more))), role]
        ids, text = ids + more, text + word
    return ids, roles
