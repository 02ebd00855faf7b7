"""The sentence sets of circuit probing's Exp. 4: agreement, syntactic number and reflexives (spec 2.4).

The grammar is Marvin and Linzen's (2018): a subject, and one or two attractors that all have the same number. The order of the
released rows came from Python sets and cannot be had by rule, so that it is stored, as indices into the grammar's sentences.
"""

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from itertools import product
from typing import NamedTuple

import pandas as pd
import torch

from recircuit.core.tokenizer import Tokenizer

NUMBERS = (0, 1)  # singular, plural
TRAIN, TEST = 2000, 1000
SETS = ("SV_Agr", "SV_Agr_gen", "Syntactic_Number", "Reflexive_An", "Reflexive_An_gen")


class Sentence(NamedTuple):
    """A sentence without its last word (agreement), or with the right and the wrong pronoun (reflexives)."""

    text: str
    subject: int
    attractor: int
    template: str
    right: str = ""
    wrong: str = ""
    gender: int = -1


@cache
def _data(name: str) -> dict:
    return json.loads((files("recircuit.tasks") / f"data/circuit_probing/{name}.json").read_text(encoding="utf-8"))


def _noun(word: str, number: int) -> str:
    return word + "s" * number


def _verb(word: str, number: int) -> str:
    return word[:-1] if number else word


def _kinds() -> tuple[tuple[str, str], tuple[str, str]]:
    """Return (subjects, prepositions of the first attractor) for animate and inanimate subjects."""
    return ("subj_anim", "prep"), ("subj_inanim", "prep_inanim")


def prepositional() -> Iterator[Sentence]:
    """Yield ``the author behind the guards``: a subject and a noun in a prepositional phrase."""
    words = _data("linguistic_lexicon")
    for subjects, prepositions in _kinds():
        for n1, n2 in product(NUMBERS, NUMBERS):
            for s, p, e in product(words[subjects], words[prepositions], words["embedded"]):
                yield Sentence(f"the {_noun(s, n1)} {p} the {_noun(e, n2)}", n1, n2, f"PP {subjects}")


def relative() -> Iterator[Sentence]:
    """Yield ``the author that the guards like``: a subject with an object relative clause."""
    words = _data("linguistic_lexicon")
    for subjects, _ in _kinds():
        for n1, n2 in product(NUMBERS, NUMBERS):
            for s, e, v in product(words[subjects], words["embedded"], words["embedded_verb_3sg"]):
                yield Sentence(f"the {_noun(s, n1)} that the {_noun(e, n2)} {_verb(v, n2)}", n1, n2, f"ORC {subjects}")


def two_attractors() -> Iterator[Sentence]:
    """Yield agreement prefixes with two attractors: the generalisation set."""
    words = _data("linguistic_lexicon")
    verbs, first, second = (words[key] for key in ("embedded_verb_3sg", "embedded_first", "embedded_second"))
    for subjects, prepositions in _kinds():
        for n1, n2 in product(NUMBERS, NUMBERS):
            for s, e1, v, e2, w in product(words[subjects], first, verbs, second, verbs):
                clause = f"{_clause(e1, v, n2)} and {_clause(e2, w, n2)}"
                yield Sentence(f"the {_noun(s, n1)} that {clause}", n1, n2, f"ORC {subjects}")
            for s, p, e1, p2, e2 in product(words[subjects], words[prepositions], first, words["prep"], second):
                text = f"the {_noun(s, n1)} {p} the {_noun(e1, n2)} {p2} the {_noun(e2, n2)}"
                yield Sentence(text, n1, n2, f"PP {subjects}")


def _clause(noun: str, verb: str, number: int) -> str:
    return f"the {_noun(noun, number)} {_verb(verb, number)}"


def _with_pronouns(prefix: str, n1: int, n2: int, template: str) -> Iterator[Sentence]:
    """Yield a prefix twice, with himself and with herself as the singular pronoun."""
    words = _data("linguistic_lexicon")
    for past in words["reflexive_verb_past"]:
        for gender, singular in enumerate(words["reflexive_sing"]):
            right, wrong = (words["reflexive_plur"], singular) if n1 else (singular, words["reflexive_plur"])
            yield Sentence(f"{prefix} {past}", n1, n2, template, right, wrong, gender)


def reflexives() -> Iterator[Sentence]:
    """Yield ``the mechanic said the author hurt`` and ``the author that the guards like hurt``, rule by rule."""
    words = _data("linguistic_lexicon")
    for n1 in NUMBERS:
        for n2 in NUMBERS:
            for m, said, s in product(words["matrix_noun"], words["matrix_verb"], words["subj_anim"]):
                yield from _with_pronouns(f"the {_noun(m, n2)} {said} the {_noun(s, n1)}", n1, n2, "complement")
        for n2 in NUMBERS:
            for s, e, v in product(words["subj_anim"], words["embedded"], words["embedded_verb_3sg"]):
                yield from _with_pronouns(f"the {_noun(s, n1)} that {_clause(e, v, n2)}", n1, n2, "ORC")


def reflexives_two() -> Iterator[Sentence]:
    """Yield reflexive sentences with two attractors: the generalisation set."""
    words = _data("linguistic_lexicon")
    first, second = words["matrix_noun"]
    verbs, said = words["embedded_verb_3sg"], words["matrix_verb"]
    for n1 in NUMBERS:
        for n2 in NUMBERS:
            for v, w, s in product(said, said, words["subj_anim"]):
                prefix = f"the {_noun(first, n2)} {v} the {_noun(second, n2)} {w} the {_noun(s, n1)}"
                yield from _with_pronouns(prefix, n1, n2, "complement")
        for n2 in NUMBERS:
            for s, e1, v, e2, w in product(words["subj_anim"], words["embedded_first"], verbs, words["embedded_second"], verbs):
                prefix = f"the {_noun(s, n1)} that {_clause(e1, v, n2)} and {_clause(e2, w, n2)}"
                yield from _with_pronouns(prefix, n1, n2, "ORC")


def released(name: str) -> list[Sentence]:
    """Return a released sentence set in its own order."""
    whole = {
        "SV_Agr": lambda: [*prepositional(), *relative()],
        "SV_Agr_gen": lambda: [*two_attractors()],
        "Syntactic_Number": lambda: [*prepositional()],
        "Reflexive_An": lambda: [*reflexives()],
        "Reflexive_An_gen": lambda: [*reflexives_two()],
    }[name]()
    if name == "Reflexive_An":
        return whole
    if not name.startswith("Reflexive"):
        whole = sorted({sentence.text: sentence for sentence in whole}.values())
    return [whole[i] for i in _data("linguistic_row_order")[name]]


def split_order(n: int) -> torch.Tensor:
    """Return the order from which splits are cut: a permutation with a generator of its own, seed 0."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


class Task(NamedTuple):
    """A task of Exp. 4: the released set, its generalisation set, whether it is split by gender, and what a mask learns."""

    released: str
    generalisation: str
    by_gender: bool
    label: str  # of a sentence: number of the subject, or of the attractor


TASKS = {
    "agreement": Task("SV_Agr", "SV_Agr_gen", by_gender=False, label="subject"),
    "reflexives": Task("Reflexive_An", "Reflexive_An_gen", by_gender=True, label="subject"),
    "number": Task("Syntactic_Number", "", by_gender=False, label="attractor"),
}
GENDERS = ("male", "female")
VERBS = ("is", "are")


def parts_of(name: str) -> Iterator[tuple[str, list[Sentence]]]:
    """Yield (part, sentences) of a task: ``train`` (2000), ``iid`` and ``gen`` (1000), the last two by gender for reflexives.

    Masks of reflexives are trained on male sentences; rows of both genders are aligned.
    """
    task = TASKS[name]
    whole, general = released(task.released), released(task.generalisation) if task.generalisation else []
    if not task.by_gender:
        yield from _cut("", whole, general, train=True)
        return
    for gender, label in enumerate(GENDERS):
        own = ([s for s in part if s.gender == gender] for part in (whole, general))
        yield from _cut(f"{label}_", *own, train=gender == 0)


def _cut(prefix: str, whole: list[Sentence], general: list[Sentence], *, train: bool) -> Iterator[tuple[str, list[Sentence]]]:
    order = split_order(len(whole)).tolist()
    if train:
        yield "train", [whole[i] for i in order[:TRAIN]]
    yield f"{prefix}iid", [whole[i] for i in order[TRAIN : TRAIN + TEST]]
    if general:
        yield f"{prefix}gen", [general[i] for i in split_order(len(general)).tolist()[:TEST]]


def sentences_table(tokenizer: Tokenizer, log: Callable[[str], None]) -> pd.DataFrame:
    """Return the sentences of all tasks with the tokens of each, what a mask learns, and the two answers to compare.

    Sentences are encoded as they are, without a token of beginning, in lower case. An answer that is not one token is an error.
    """
    rows = []
    for name, task in TASKS.items():
        for part, sentences in parts_of(name):
            for row, s in enumerate(sentences):
                right, wrong = (s.right, s.wrong) if s.right else (VERBS[s.subject], VERBS[1 - s.subject])
                answers = {key: tokenizer.single(f" {word}") for key, word in (("right", right), ("wrong", wrong))}
                facts = {"label": getattr(s, task.label), "template": s.template, "matched": s.subject == s.attractor}
                rows.append({"task": name, "part": part, "row": row, "text": s.text, **facts, **answers})
            log(f"{name}, {part}: {len(sentences)} sentences")
    return pd.DataFrame(rows).assign(tokens=[tokenizer.encode(row["text"]) for row in rows])
