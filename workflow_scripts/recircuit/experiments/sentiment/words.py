"""Sentiment as colour: the cosines of single tokens with a direction, in windows of running text and in whole texts (3.10).

Index i is the stream entering layer i. As published one vector, k-means' of layer 1, is used at every index; beside it stands
that of the index itself, and both of the mean difference, with which k-means may disagree. Of running text only windows of five
tokens are kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model, embed
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.axes import FIRST
from recircuit.experiments.sentiment.running_text import Directions, activations, axes_of, first_layer
from recircuit.experiments.sentiment.setting import TEST, TRAIN, Log, Setting
from recircuit.methods.direction_hooks import centred_width
from recircuit.methods.directions import cosines
from recircuit.runs.budget import Mean, in_chunks
from recircuit.runs.forward import layer_step
from recircuit.tasks.corpus import word_data
from recircuit.tasks.running_text import RECIPES, whole_words
from recircuit.tasks.sentiment import SIGNS, VERSIONS, fit_position, kept_words, negation_text
from recircuit.tasks.sequence_probes import token_texts

METHOD = "kmeans"  # of the paper's pictures
SHOWN = (METHOD, "mean_diff")
LONG = 7 / 12  # of the layers: long texts are shown at index 7 of gpt2-small
BESIDE = 2  # tokens shown on either side of a word
OF_A_TAIL = 2  # windows of each tail, around different words
WINDOW_ROWS = 512  # rows of running text among which windows are chosen
ENOUGH = 0.6  # of the cited tokens must be of their class; of tokens anywhere in a text a quarter are
CLASSES = {  # the word lists of each class
    "proper_nouns": ("proper_nouns",),
    "adjectives": ("core_adjectives", "adjectives_train", "adjectives_test", "comment_adjectives", "feelings"),
    "adverbs": ("adverbs",),
    "nouns": ("nouns",),
    "verbs": ("verbs", "infinitives"),
    "medical": ("medical",),
}
_WORD = re.compile(r" [a-z]{3,}")
_SHAPES = {"proper_nouns": re.compile(r" [A-Z]\w*"), "adverbs": re.compile(r" [a-z]+ly")}
_NO_SPACE_BEFORE, _NO_SPACE_BEHIND = frozenset(".,:;!?)'\n"), frozenset("('\n")


@dataclass(frozen=True)
class Text:
    """Tokens from the beginning of a text on, shown from ``start`` on, and the indices at which they are looked at.

    A panel may have several texts, its windows. ``row`` says which row of running text one is from, ``methods`` whose vectors
    it is looked at with.
    """

    panel: str
    tokens: Sequence[int]
    layers: Sequence[int]
    start: int = 1
    window: int = 0
    row: int | None = None
    source: str = "text"
    methods: Sequence[str] = SHOWN


def long_index(n_layers: int) -> int:
    """Return the index at which long texts are shown: 7 of gpt2-small, as deep in other models."""
    return max(1, round(LONG * n_layers))


def added_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds to those before it; nothing for one that ends inside a character.

    A vocabulary of whole words knows no spaces: they are put where they are usual.
    """
    ids = [int(i) for i in ids]
    if tokenizer.inner.decoder is None:
        words = tokenizer.decode(ids)
        pairs = zip(["\n", *words], words, strict=False)
        return [b if a in _NO_SPACE_BEHIND or b in _NO_SPACE_BEFORE else f" {b}" for a, b in pairs]
    found, done = [], ""
    for i in range(1, len(ids) + 1):
        whole = tokenizer.inner.decode(ids[:i], skip_special_tokens=False)
        if i < len(ids):
            whole = whole.rstrip("\ufffd")  # a character that the next token completes
        found.append(whole[len(done) :])
        done = whole
    return found


# ---- windows of running text ----------------------------------------------------------------------------------------


def class_tokens(tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Return the tokens of each class of words: of the paper's lists of both versions, as far as they are single tokens."""
    lists = [word_data(f"sentiment/prompt_lists_all_{version}") for version in VERSIONS["full"]]
    found = {}
    for name, kinds in CLASSES.items():
        keys = [f"{sign}_{kind}" for sign in SIGNS for kind in kinds]
        words = {word.strip() for version in lists for key in keys for word in version.get(key, ())}
        found[name] = [tokenizer.single(f" {word}") for word in kept_words(tokenizer, sorted(words), 1)]
    return found


def tail_places(values: Float[np.ndarray, " n"], tokens: Int[np.ndarray, " n"], each: int = OF_A_TAIL) -> list[int]:
    """Return which of n occurrences lie in the tails: the ``each`` lowest and highest, all of different words, lowest first."""
    order, chosen = np.argsort(values, kind="stable"), {}
    for way in (order, order[::-1]):
        most = len(chosen) + each
        for i in way:
            if len(chosen) < most:
                chosen.setdefault(int(tokens[i]), int(i))
    return sorted(chosen.values(), key=lambda i: (values[i], i))


def tail_windows(
    model: Model, tokenizer: Tokenizer, rows: Int[np.ndarray, "n T"], directions: Directions, chunk: int, log: Log
) -> list[Text]:
    """Return windows around the words of each class whose activations, in some rows of running text, are the most extreme.

    Each of the methods shown has windows of its own.
    """
    values = first_layer(model, rows, axes_of(model, [directions[method][FIRST] for method in SHOWN]), chunk)[0]
    ends = np.isin(rows, list(tokenizer.ends))
    near_end = np.any([np.roll(ends, by, 1) for by in range(-BESIDE, BESIDE + 1)], 0)
    allowed = whole_words(tokenizer, rows) & ~near_end
    allowed[:, : BESIDE + 1] = allowed[:, -BESIDE:] = False
    found = []
    for panel, tokens in class_tokens(tokenizer).items():
        row, position = np.nonzero(allowed & np.isin(rows, tokens))
        if not len(row):
            log(f"{panel}: no word of this class in {len(rows)} rows of text")
        for method, own in zip(SHOWN, values, strict=True):
            places = tail_places(own[row, position], rows[row, position])
            found += [_window(panel, rows[row[i]], row[i], position[i], k, "tails", (method,)) for k, i in enumerate(places)]
    return found


def _window(
    panel: str, tokens: Sequence[int], row: int, position: int, window: int, source: str, methods: Sequence[str] = SHOWN
) -> Text:
    shown = tokens[: position + BESIDE + 1]
    return Text(panel, shown, (FIRST,), int(position) - BESIDE, window, int(row), source, methods)


def is_of_class(panel: str, text: str) -> bool:
    """Tell whether a token's text may be a word of a class: a capital for names, -ly for adverbs, else a content word."""
    return (
        bool(_SHAPES.get(panel, _WORD).fullmatch(text))
        and text.strip() not in word_data("sentiment/cited_windows")["function_words"]
    )


def cited_windows(tokenizer: Tokenizer, rows: Mapping[int, Sequence[int]], log: Log) -> list[Text]:
    """Return the windows that the paper cites, of rows as TransformerLens 1.x made them; none when they are not its rows.

    Whether they are is told by the words at the cited places, of which most must be of the class that the paper says.
    """
    if not len(rows):
        log("there are no rows as TransformerLens 1.x made them, which the paper cites; windows are chosen")
        return []
    facts = word_data("sentiment/cited_windows")["places"]
    places = [(panel, k, row, position) for panel, pairs in facts.items() for k, (row, position) in enumerate(pairs)]
    there = [(row in rows and position + BESIDE < len(rows[row])) for _, _, row, position in places]
    if not all(there):
        log(f"{len(there) - sum(there)} of {len(there)} cited places are not in the running text; windows are chosen")
        return []
    words = token_texts(tokenizer, [rows[row][position] for _, _, row, position in places])
    right = [is_of_class(place[0], word) for place, word in zip(places, words, strict=True)]
    log(f"{sum(right)} of {len(right)} cited places hold a word of their class")
    if sum(right) < ENOUGH * len(right):
        log("these are not the paper's rows; windows are chosen")
        return []
    return [_window(panel, rows[row], row, position, k, "cited") for panel, k, row, position in places]


def windows(
    model: Model, tokenizer: Tokenizer, text: Mapping[str, pd.Series], directions: Directions, chunk: int, log: Log
) -> list[Text]:
    """Return the paper's windows, or those at the tails; ``text`` maps a recipe of ``se_text`` to its tokens by row."""
    current, former = RECIPES
    found = cited_windows(tokenizer, text.get(former, {}), log)
    return found or tail_windows(model, tokenizer, np.stack(text[current].iloc[:WINDOW_ROWS]), directions, chunk, log)


# ---- whole texts ----------------------------------------------------------------------------------------------------


def whole_texts(setting: Setting, tokenizer: Tokenizer, log: Log) -> list[Text]:
    """Return the text with three negations and the two long texts; reviews where a vocabulary lacks words of them.

    In place of the negations they are short ones with negations where the vocabulary has those.
    """
    last = setting.model.spec.n_layers
    every, deep = tuple(range(last + 1)), (long_index(last),)
    movie, clauses, french = (*TEST, 2), ("classification", "all"), ("french", "all", 4)
    wanted = [("negation", (negation_text(), negation_text(stand_in=True)), every, (movie, (*clauses, 1)))]
    stand_ins = {"english": ((*clauses, 2),), "french": (french,)}
    wanted += [(t["name"], (t["text"],), deep, stand_ins[t["name"]]) for t in word_data("sentiment/long_texts")["texts"]]
    found = []
    for panel, texts, layers, instead in wanted:
        tokens, *others = (_encoded(setting.model, tokenizer, text) for text in texts)
        if isinstance(tokens, str):
            rows = [row for row in others if not isinstance(row, str)] or _toy_rows(setting, instead)
            log(f"{panel}: {len(rows)} reviews instead of the text, since {tokens}")
            found += [Text(f"{panel}_reviews", row, layers, window=k, source="toy") for k, row in enumerate(rows)]
        else:
            found.append(Text(panel, tokens, layers))
    return found


def _toy_rows(setting: Setting, sets: Sequence[tuple]) -> list[list[int]]:
    return [row for name, split, n in sets if setting.has(name, split) for row in _prompts(setting, name, split, n)]


def _encoded(model: Model, tokenizer: Tokenizer, text: str) -> list[int] | str:
    """Return the tokens of a text after the one that begins it, or why there are none."""
    try:
        tokens = [*([] if tokenizer.bos is None else [tokenizer.bos]), *tokenizer.encode(text)]
    except UserError as error:
        return str(error).partition(";")[0]
    most = model.spec.n_positions
    return tokens if len(tokens) <= most else f"it has {len(tokens)} tokens and the model {most} positions"


def _prompts(setting: Setting, name: str, split: str, count: int) -> list[list[int]]:
    return [[int(i) for i in row] for row in setting.toy(name, split).rows["tokens"][:count]]


# ---- colours --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def neuroscope(model: Model, tokenizer: Tokenizer, texts: Sequence[Text], directions: Directions) -> pd.DataFrame:
    """Return ``se_neuroscope``: each shown token's cosine and projection, with the vector of layer 1 and with the index's own.

    ``centred`` is the cosine less the mean over all tokens that the panel shows.
    """
    parts = []
    for text in texts:
        names = added_texts(tokenizer, text.tokens[text.start :])
        place = np.arange(text.start, text.start + len(names))
        facts = {"panel": text.panel, "window": text.window, "row": text.row, "source": text.source}
        facts |= {"token_idx": range(len(names)), "token": names, "position": place}
        for (layer, x), method in product(_entering(model, text).items(), text.methods):
            for matched, own in ((False, FIRST), (True, layer)):
                if own in directions[method]:
                    found, length = activations(model, x, axes_of(model, [directions[method][own]]))
                    values = {"cosine": found[0].double().cpu(), "projection": (found[0] * length).double().cpu()}
                    key = {"layer": layer, "direction": method, "layer_matched": matched}
                    parts.append(pd.DataFrame(facts | key | values))
    table = pd.concat(parts, ignore_index=True)
    mean = table.groupby(["panel", "layer", "direction", "layer_matched"])["cosine"].transform("mean")
    return table.assign(centred=table["cosine"] - mean).astype({"row": "Int32"})


def _entering(model: Model, text: Text) -> dict[int, Tensor]:
    """Return the stream [n d] of the shown tokens entering each of the text's layers; later layers are not run."""
    ids = torch.tensor([[int(i) for i in text.tokens]], device=model.device)
    x, found = embed(model, ids), {}
    for layer in range(max(text.layers) + 1):
        if layer:
            x = layer_step(model, layer - 1, x)[0]
        if layer in text.layers:
            found[layer] = x[0, text.start :]
    return found


# ---- one-sided directions (section 3.15) ----------------------------------------------------------------------------


@torch.inference_mode()
def one_sided(setting: Setting, rows: Int[np.ndarray, "n T"], directions: Directions) -> pd.DataFrame:
    """Return ``se_one_sided``: cosines among positive and negative less neutral, their sum and difference, and the directions.

    All of layer 1. Neutral is the mean over the first token of rows of running text; positive and negative are means over the
    adjectives of the training prompts.
    """
    model, toy, neutral = setting.model, setting.toy(*TRAIN), Mean()

    def first(chosen: slice) -> Tensor:
        ids = torch.from_numpy(rows[chosen, :2]).long().to(model.device)
        return layer_step(model, 0, embed(model, ids))[0][:, 1]

    for _, x in in_chunks(first, len(rows), setting.chunk):
        neutral.add(x)
    found = setting.streams_at(toy, fit_position(TRAIN[0]))[FIRST].double()
    positive, negative = (found[mask].mean(0) - neutral.value(torch.float64) for mask in (toy.positive, ~toy.positive))
    vectors = {"positive": positive, "negative": negative, "valence": positive + negative, "sentiment": positive - negative}
    vectors |= {name: own[FIRST].to(positive) for name, own in directions.items() if FIRST in own}
    stacked = centred_width(model, torch.stack(list(vectors.values())))
    values, lengths, names = cosines(stacked, stacked).tolist(), stacked.norm(dim=-1).tolist(), list(vectors)
    return pd.DataFrame(
        [(a, b, values[i][j], lengths[i]) for i, a in enumerate(names) for j, b in enumerate(names)],
        columns=["a", "b", "cosine", "length"],
    )
