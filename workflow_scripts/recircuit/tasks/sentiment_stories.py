"""ToyMoodStories of the sentiment paper: who likes parties, who does not, and how does one of them feel? (spec 2.3, 3.7).

Each pair of names has four stories: who likes parties, by who is asked for. Between a story and its question may stand
sentences about something else.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, count

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sentiment import FEWEST, SIGNS, Log, answer_ids, check_lengths, lay_out, n_tokens, position_rows

PUBLISHED_PAIRS = 4  # of names: the first 16 prompts of the notebook
IRRELEVANT = (0, 10, 18, 22)  # tokens between story and question in the paper's table
# Where values are patched; the second verbs (A1, A2) are in none of these sets.
POSITION_SETS = {
    "full_phrase": ("N1", "V1", "PARTIES1", "COMMA1", "PERIOD1", "N2", "V2", "PARTIES2", "COMMA2", "PERIOD2"),
    "pre_comma": ("N1", "V1", "PARTIES1", "N2", "V2", "PARTIES2"),
    "commas_and_periods": ("COMMA1", "PERIOD1", "COMMA2", "PERIOD2"),
    "commas": ("COMMA1", "COMMA2"),
}
_NUMBERED = {"PARTIES": "parties", "COMMA": ",", "PERIOD": "."}


def story_template(irrelevant: str = "") -> str:
    """Return the story with its words marked (PARTIES1, COMMA3, ...), and ``irrelevant`` before the question, unmarked."""
    text = re.sub(r"\{(\w+)\}", r"<\1>", word_data("sentiment/toy_mood_stories")["template"])
    for name, literal in _NUMBERED.items():
        numbers = count(1)
        text = re.sub(re.escape(literal), lambda _, name=name, numbers=numbers, literal=literal:
                      f"<{name}{next(numbers)}|{literal}>", text)  # fmt: skip
    for literal in ("gala", "feels"):
        text = text.replace(literal, f"<{literal.upper()}|{literal}>")
    return text.replace(" <Q>", f"{irrelevant} <Q>")


def usable_names(tokenizer: Tokenizer, names: Sequence[str]) -> list[str]:
    """Return the names that are one token both with and without a space in front."""
    return [name for name in names if n_tokens(tokenizer, name) == 1 == n_tokens(tokenizer, f" {name}")]


def name_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each name with the next one, the last with the first; a name never has itself as partner."""
    return [pair for pair in zip(names, [*names[1:], *names[:1]], strict=True) if pair[0] != pair[1]]


def stories(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Yield (pair, label, words by slot): four stories for each pair of names."""
    data = word_data("sentiment/toy_mood_stories")
    for pair, (first, second) in enumerate(pairs):
        for facts in data["variants_in_order"]:
            (v1, a1), (v2, a2) = (data["verb_pairs"][facts[key]] for key in ("v1", "v2"))
            words = {"N1": first, "V1": v1, "A1": a1, "N2": second, "V2": v2, "A2": a2}
            yield pair, int(facts["answer"] == "positive"), words | {"Q": words[facts["query"]]}


def irrelevant_texts(tokenizer: Tokenizer, n: int) -> list[str]:
    """Return texts of n tokens, each of one to three neutral sentences; of the nearest number that the tokenizer allows.

    Sentences with words that the tokenizer lacks are left out.
    """
    texts = []
    for sentences in word_data("sentiment/neutral_texts")["texts"]:
        sizes = [(n_tokens(tokenizer, sentence), sentence) for sentence in sentences]
        known = [pair for pair in sizes if pair[0]]
        options = [some for r in range(1, len(known) + 1) for some in combinations(known, r)]
        if options:
            best = min(options, key=lambda some: abs(sum(size for size, _ in some) - n))
            texts.append("".join(sentence for _, sentence in best))
    if not texts:
        raise UserError(f"no neutral sentence can be encoded by the tokenizer of {tokenizer.where}; none can be inserted")
    return texts


def _story_rows(tokenizer: Tokenizer, key: dict, pairs: Sequence[tuple[str, str]], text: str) -> tuple[list, list]:
    """Return the rows of prompts and of positions of a split, with ``text`` between story and question."""
    answers = word_data("sentiment/toy_mood_stories")["answers"]
    good, bad = (answer_ids(tokenizer, [answers[sign].strip()]) for sign in SIGNS)
    template, told = story_template(text), list(stories(pairs))
    sizes = dict.fromkeys(("N1", "N2", "Q"), 1)
    layouts = [lay_out(tokenizer, template, words, sizes) for _, _, words in told]
    check_lengths(tokenizer, layouts, f"'stories, {key['split']}, {key['variant']}'")
    rows = [
        key | {"row": row, "pair": pair, "text": layout.text, "tokens": layout.tokens, "label": label,
               "right": good if label else bad, "wrong": bad if label else good,
               "word_adj": "", "word_vrb": words["V1" if words["Q"] == words["N1"] else "V2"]}
        for row, ((pair, label, words), layout) in enumerate(zip(told, layouts, strict=True))
    ]  # fmt: skip
    return rows, position_rows(key, layouts)


def story_tables(
    tokenizer: Tokenizer, log: Log, n_long: int = 50, lengths: Sequence[int] = IRRELEVANT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of ``se_prompts`` and ``se_positions`` (``sentiment.toy_tables``) for the set ``stories``.

    Splits: ``notebook``, the published 16 prompts; ``names``, ``n_long`` pairs of the longer list. Variants: ``paper``, and for
    the notebook ``k10_t3``: the fourth irrelevant text of 10 tokens, or of the nearest number (``irrelevant_tokens``) that the
    tokenizer allows. word_adj is empty; word_vrb is the verb of the person who is asked for.
    """
    prompts, positions = [], []
    lists = {"notebook": word_data("sentiment/toy_mood_stories")["names_notebook"],
             "names": word_data("sentiment/toy_mood_names")["names"]}  # fmt: skip
    for split, listed in lists.items():
        names = usable_names(tokenizer, listed)
        pairs = name_pairs(names)[: PUBLISHED_PAIRS if split == "notebook" else n_long]
        log(f"stories, {split}: {len(names)} of {len(listed)} names are one token, {len(pairs)} pairs of them are used")
        if len(pairs) < FEWEST:
            raise UserError(
                f"the stories '{split}' have {len(pairs)} pairs of names that are one token with and without a space in the "
                f"tokenizer of {tokenizer.where}; expected {FEWEST} or more"
            )
        inserted = {"paper": ""}
        if split == "notebook":
            inserted |= {f"k{k}_t{i}": text for k in lengths if k for i, text in enumerate(irrelevant_texts(tokenizer, k))}
        for variant, text in inserted.items():
            rows, places = _story_rows(tokenizer, {"set": "stories", "split": split, "variant": variant}, pairs, text)
            prompts += rows
            positions += places
    return pd.DataFrame(prompts), pd.DataFrame(positions)


def irrelevant_tokens(prompts: pd.DataFrame) -> pd.Series:
    """Return how many tokens each of some stories has more than the shortest of its split: those that were inserted."""
    size = prompts["tokens"].map(len)
    return size - size.groupby([prompts["set"], prompts["split"]]).transform("min")


def corrupted_rows(n: int) -> list[int]:
    """Return for each of n stories the row of its corrupted one: the verbs change places, the question stays (spec 2.3)."""
    return [row ^ 1 for row in range(n)]
