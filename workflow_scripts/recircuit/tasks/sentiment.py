"""The sentiment paper's toy prompts: ToyMovieReview, eight other sets, the circuit's 25 pairs (spec 2.1, 2.2, 2.7, 3.5).

Positive and negative prompts alternate. Three variants: ``paper`` has the words of the paper's time, and as many pairs for
training as the core adjectives make, which is the released code's slip; ``full`` has all pairs of these words (for the sets
that came later, later words); ``head`` has the words and the template that the repository ended with.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data

SETS = ("movie", "circuit", "adverb", "book", "res", "product", "french", "proper_nouns", "medical", "classification")
VARIANTS = ("paper", "full", "head")
VERSIONS = {"paper": ("paper_era",), "full": ("paper_era", "head"), "head": ("head",)}  # word lists, the preferred one first
SIGNS = ("positive", "negative")
FEWEST = 2  # pairs that make a set: with one, a prompt's corrupted twin would be its own twin's
MOST_TOKENS = 6  # of a filler, when a tokenizer has no two pairs of the published number of tokens
_MARK = re.compile(r"<([A-Z][A-Z0-9+]*)(?:\|([^>]*))?>")

Log = Callable[[str], None]


# ---- a template becomes tokens with named positions -----------------------------------------------------------------


class Layout(NamedTuple):
    """A prompt: its text, its tokens (the token that begins a text in front, if there is one), and named positions in them."""

    text: str
    tokens: list[int]
    positions: dict[str, int]


def fill(template: str, words: dict[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """Return a template's text with ``words`` in place of ``<NAME>``, and where each mark's characters begin and end.

    ``<NAME|text>`` marks a text of the template itself.
    """
    text, spans, end = "", {}, 0
    for mark in _MARK.finditer(template):
        text += template[end : mark.start()]
        written = words[mark[1]] if mark[2] is None else mark[2]
        spans[mark[1]] = (len(text), len(text) + len(written))
        text, end = text + written, mark.end()
    return text + template[end:], spans


def lay_out(tokenizer: Tokenizer, template: str, words: dict[str, str], sizes: dict[str, int]) -> Layout:
    """Fill and encode a template. A mark stands at the last token that holds a part of it; BOS and END are added.

    ``sizes`` says of how many tokens some of the words must be; UserError when one is not. A space that is no token (in a
    word-level vocabulary) has no position.
    """
    text, spans = fill(template, words)
    ids = tokenizer.encode(text)
    offsets = tokenizer.inner.encode(text, add_special_tokens=False).offsets
    bos = [] if tokenizer.bos is None else [tokenizer.bos]
    positions = {"BOS": 0} if bos else {}
    for name, (start, end) in spans.items():
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        if name in sizes and len(inside) != sizes[name]:
            raise UserError(
                f"'{words[name]}' is {len(inside)} tokens in '{text}' with the tokenizer of {tokenizer.where}; "
                f"expected {sizes[name]}"
            )
        if inside:
            positions[name] = len(bos) + inside[-1]
    return Layout(text, bos + ids, positions | {"END": len(bos) + len(ids) - 1})


def check_lengths(tokenizer: Tokenizer, layouts: Sequence[Layout], where: str) -> None:
    """Refuse prompts of different lengths, which could not be patched into each other."""
    first = layouts[0]
    for other in layouts:
        if len(other.tokens) != len(first.tokens):
            raise UserError(
                f"the prompts of {where} differ in length in the tokenizer of {tokenizer.where}: '{first.text}' is "
                f"{len(first.tokens)} tokens and '{other.text}' {len(other.tokens)}; expected one length"
            )


def n_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Return how many tokens a text is; 0 when a word of it is not in a word-level vocabulary."""
    try:
        return len(tokenizer.encode(text))
    except UserError:
        return 0


# ---- words ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToySet:
    """A set as ``toy_sets.json`` has it. ``fillers`` are {slot: (list, shift)}; ``counted`` lists limit the number of pairs."""

    set: str
    split: str
    template: str
    fillers: dict[str, tuple[str, int]]
    counted: Sequence[str]
    answers: str
    fit: str
    uncut: Sequence[str] = ()
    words: int = 1
    at_most: int | None = None
    first_token: bool = False
    variants: Sequence[str] = VARIANTS

    def limits(self, variant: str) -> Sequence[str]:
        """Return the lists of which the shortest says how many pairs there are."""
        return self.uncut if variant == "full" and self.uncut else self.counted

    def lists(self) -> list[str]:
        """Return the names of all its lists of fillers."""
        return sorted({name for name, _ in self.fillers.values()})


def toy_sets() -> list[ToySet]:
    """Return every set and split."""
    return [ToySet(**facts) for facts in word_data("sentiment/toy_sets")["sets"]]


def fit_position(name: str) -> str:
    """Return the position on which directions of a set are fitted: its first filler, or ADJ where that is a verb (3.1)."""
    return next(toy.fit for toy in toy_sets() if toy.set == name)


def lists_of(toy: ToySet, variant: str) -> dict[str, list[str]] | None:
    """Return the word lists for a variant, or None when the paper's time does not have them all."""
    needed = {f"{sign}_{name}" for sign in SIGNS for name in {*toy.lists(), *toy.limits(variant), toy.answers}}
    for version in VERSIONS[variant]:
        found = word_data(f"sentiment/prompt_lists_all_{version}") | word_data("sentiment/toy_sets")["lists"]
        if needed <= found.keys():
            return found
    return None


def kept_words(tokenizer: Tokenizer, words: Sequence[str], size: int) -> list[str]:
    """Return the words that are ``size`` tokens after a space, each once."""
    return [word for word in dict.fromkeys(words) if n_tokens(tokenizer, f" {word}") == size]


def _candidates(tokenizer: Tokenizer, toy: ToySet, variant: str, lists: dict, size: int) -> tuple[int, dict[str, list[str]]]:
    """Return (number of pairs, words by list) when fillers are to be of ``size`` tokens."""
    names = {f"{sign}_{name}" for sign in SIGNS for name in {*toy.lists(), *toy.limits(variant)}}
    kept = {name: kept_words(tokenizer, lists[name], size) for name in names}
    if not all(kept[f"{sign}_{name}"] for sign in SIGNS for name in toy.lists()):
        return 0, kept
    n = min(len(kept[f"{sign}_{name}"]) for sign in SIGNS for name in toy.limits(variant))
    return n if toy.at_most is None else min(n, toy.at_most), kept


def choose_words(tokenizer: Tokenizer, toy: ToySet, variant: str, lists: dict, log: Log) -> tuple[int, int, dict]:
    """Return (number of pairs, tokens of each filler, words by list) of a set; UserError when there are fewer than two pairs.

    Where fewer than two pairs have fillers of the published number of tokens, the number with the most pairs is taken.
    """
    name = f"{toy.set}, {toy.split}, {variant}"
    size, (n, kept) = toy.words, _candidates(tokenizer, toy, variant, lists, toy.words)
    if n < FEWEST:
        tried = {size: _candidates(tokenizer, toy, variant, lists, size) for size in range(1, MOST_TOKENS + 1)}
        size, (n, kept) = max(tried.items(), key=lambda item: (item[1][0], -item[0]))
        if n < FEWEST:
            raise UserError(
                f"the toy set '{name}' has {n} pairs of words in the tokenizer of {tokenizer.where}; expected {FEWEST} or more"
            )
        log(f"{name}: words of {size} tokens, since fewer than {FEWEST} pairs are of {toy.words}")
    lost = sum(len(set(lists[key])) - len(words) for key, words in kept.items())
    log(f"{name}: {n} pairs, words of {size} tokens, {lost} words left out")
    return n, size, kept


def answer_ids(tokenizer: Tokenizer, answers: Sequence[str], *, first_token: bool = False) -> list[int]:
    """Return the tokens of the answers that are one token after a space, or of each the first; each once."""
    found = []
    for answer in answers:
        if n := n_tokens(tokenizer, f" {answer}"):
            found += tokenizer.encode(f" {answer}")[:1] if first_token or n == 1 else []
    if not found:
        raise UserError(f"none of the answers {', '.join(answers)} is one token in the tokenizer of {tokenizer.where}")
    return list(dict.fromkeys(found))


# ---- prompts --------------------------------------------------------------------------------------------------------


def _pairs(n: int, toy: ToySet, kept: dict[str, list[str]]) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Yield (pair, label, words by slot), positive and negative in turn; lists are cyclic."""
    for i in range(n):
        for label, sign in ((1, "positive"), (0, "negative")):
            words = {}
            for slot, (name, shift) in toy.fillers.items():
                pool = kept[f"{sign}_{name}"]
                words[slot] = pool[(i + shift) % len(pool)]
            yield i, label, words


def _set_rows(tokenizer: Tokenizer, toy: ToySet, variant: str, lists: dict, log: Log) -> tuple[list[dict], list[dict]]:
    """Return the rows of prompts and of positions of one set, split and variant."""
    data = word_data("sentiment/toy_sets")
    templates = data["templates"] | (data["templates_head"] if variant == "head" else {})
    n, size, kept = choose_words(tokenizer, toy, variant, lists, log)
    ids = [answer_ids(tokenizer, lists[f"{sign}_{toy.answers}"], first_token=toy.first_token) for sign in SIGNS]
    n_answers = min(map(len, ids))
    good, bad = (found[:n_answers] for found in ids)
    filled = list(_pairs(n, toy, kept))
    sizes = dict.fromkeys(toy.fillers, size)
    layouts = [lay_out(tokenizer, templates[toy.template], words, sizes) for _, _, words in filled]
    check_lengths(tokenizer, layouts, f"'{toy.set}, {toy.split}, {variant}'")
    key = {"set": toy.set, "split": toy.split, "variant": variant}
    rows = [
        key | {"row": row, "pair": pair, "text": layout.text, "tokens": layout.tokens, "label": label,
               "right": good if label else bad, "wrong": bad if label else good,
               "word_adj": words[toy.fit], "word_vrb": words.get("VRB", "")}
        for row, ((pair, label, words), layout) in enumerate(zip(filled, layouts, strict=True))
    ]  # fmt: skip
    return rows, position_rows(key, layouts)


def position_rows(key: dict, layouts: Sequence[Layout]) -> list[dict]:
    """Return a row for each named position of each prompt."""
    return [
        key | {"row": row, "name": name, "position": position}
        for row, layout in enumerate(layouts)
        for name, position in layout.positions.items()
    ]


def toy_tables(tokenizer: Tokenizer, log: Log, sets: Sequence[str] = SETS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables ``se_prompts`` and ``se_positions`` of the toy sets.

    ``se_prompts``: set, split (train, test, core for movie, else all), variant, row, pair, text, tokens, label (1 positive),
    right and wrong (tokens of the answers, pair by pair), word_adj (the word at ``fit_position``), word_vrb (empty where there
    is none). ``se_positions``: set, split, variant, row, name, position. A prompt's corrupted twin is ``corrupted_rows``'.
    """
    unknown = set(sets) - set(SETS)
    if unknown:
        raise UserError(f"there is no toy set {', '.join(sorted(unknown))}; choose from: {', '.join(SETS)}")
    prompts, positions = [], []
    for toy in (toy for toy in toy_sets() if toy.set in sets):
        for variant in toy.variants:
            if (lists := lists_of(toy, variant)) is not None:
                rows, places = _set_rows(tokenizer, toy, variant, lists, log)
                prompts += rows
                positions += places
    return pd.DataFrame(prompts), pd.DataFrame(positions)


def corrupted_rows(n: int) -> list[int]:
    """Return for each of n rows of a set, split and variant the row of its corrupted prompt: the list rotated by one.

    A positive prompt's is the negative one of its pair, a negative prompt's the positive one of the next pair (spec 2.1).
    """
    return [(row + 1) % n for row in range(n)]


# ---- single words ---------------------------------------------------------------------------------------------------


def negation_table(tokenizer: Tokenizer, log: Log, kind: str = "negation") -> pd.DataFrame:
    """Return the sentences with a negated word: item, text, word, tokens, position (the word's last token), weak (spec 2.7).

    ``weak``: the probed word is the "short" of "nothing short of". Of the ``kind`` plain the same words, by the same items, are
    not negated. Sentences with words that the tokenizer lacks are left out; where all are, there are short reviews instead.
    """
    data = word_data("sentiment/probed_words")
    items = data[kind]
    rows = _probed(tokenizer, items)
    if not _probed(tokenizer, data["negation"]):
        log(f"{kind}: all of {len(items)} sentences have words that the tokenizer lacks; reviews of one clause instead")
        items = data["stand_in"][kind]
        rows = _probed(tokenizer, items)
    if len(rows) < len(items):
        log(f"{kind}: {len(items) - len(rows)} of {len(items)} sentences have words that the tokenizer lacks; left out")
    return pd.DataFrame(rows, columns=["item", "text", "word", "tokens", "position", "weak"])


def _probed(tokenizer: Tokenizer, items: Sequence[dict]) -> list[dict]:
    rows = []
    for i, item in enumerate(items):
        template = re.sub(rf"\b{item['word']}\b", "<PROBED>", item["text"], count=1)
        try:
            layout = lay_out(tokenizer, template, {"PROBED": item["word"]}, {})
        except UserError:
            continue
        rows.append({"item": item.get("item", i), "text": item["text"], "word": item["word"], "tokens": layout.tokens,
                     "position": layout.positions["PROBED"], "weak": item.get("weak", False)})  # fmt: skip
    return rows


def negation_text(*, stand_in: bool = False) -> str:
    """Return the text that is shown coloured, with three negations (spec 2.7), or the short reviews in its place."""
    data = word_data("sentiment/probed_words")
    return (data["stand_in"] if stand_in else data)["display_text"]


def word_groups(tokenizer: Tokenizer) -> pd.DataFrame:
    """Return the positive, negative and neutral words whose activations are counted: group, word, token (spec 3.9)."""
    groups = word_data("sentiment/probed_words")["groups"]
    rows = [(group, word) for group, words in groups.items() for word in kept_words(tokenizer, words, 1)]
    return pd.DataFrame([(*row, tokenizer.single(f" {row[1]}")) for row in rows], columns=["group", "word", "token"])
