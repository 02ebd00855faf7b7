"""Stand-ins, made offline from the embedded models' corpus, for the natural text of the sentiment paper.

``reviews`` stands in for the Stanford Sentiment Treebank (spec 2.4, 3.8), ``documents`` for OpenWebText (spec 2.5, 3.9), and
``word_labels`` for GPT-4's labels. What is measured on them says nothing about natural text.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import KINDS, LABEL, OVERALL, Sentence, is_held_out, opinion, pick, vocabulary, word_data
from recircuit.tasks.sst import COLUMNS, Scaffold

SCAFFOLDS = {
    "continuation": Scaffold("{text}" + OVERALL, " good", " bad", bos=True),
    "classification": Scaffold("{text}" + LABEL, " Positive", " Negative", bos=True),
    "suffix": Scaffold("{text}" + LABEL, " Positive", " Negative", bos=False),
}
REVIEWS = ("reviews", "long_reviews")  # kinds of sentence that are no running text
SIGNS = ("positive", "neutral", "negative")
DRAWS = 10_000  # after so many reviews without a new pair there are no more


def reviews(tokenizer: Tokenizer, pairs: Mapping[str, int], seed: int) -> pd.DataFrame:
    """Return reviews of several clauses with commas, as ``sst.read`` gives sentences; ``pairs`` maps a split to a number.

    A pair is a positive and a negative review of equally many tokens; no review comes twice. They are the corpus' own long
    reviews from a stream of their own, of texts that are held out of training whatever they end in.
    """
    rng, seen, rows = stream(seed, "stand-in reviews"), set(), []
    for split, count in pairs.items():
        waiting, found, idle = defaultdict(list), 0, 0
        while found < count:
            text, label = _review(rng)
            idle += 1
            if idle > DRAWS:
                raise UserError(f"the corpus gives only {found} pairs of {split} reviews; expected {count}")
            if text in seen:
                continue
            seen.add(text)
            length = len(tokenizer.encode(text))
            if waiting[length, 1 - label]:
                other = waiting[length, 1 - label].pop(0)
                rows += [(split, *review) for review in ((text, label), (other, 1 - label))]
                found, idle = found + 1, 0
            else:
                waiting[length, label].append(text)
    frame = pd.DataFrame(rows, columns=["split", "text", "score"])
    return frame.assign(sentence_index=range(1, len(frame) + 1), score=frame["score"].astype(float))[COLUMNS]


def _review(rng: np.random.Generator) -> tuple[str, int]:
    """Draw the text of a held-out long review, and its label."""
    while True:
        text, signs = opinion(rng)
        if is_held_out(Sentence("", "", text=text)):
            return text, int(signs[0] == "positive")


def documents(count: int, seed: int) -> list[str]:
    """Return sentences of the corpus that are no reviews, each kind as often as the others: one document each."""
    rng, kinds = stream(seed, "stand-in running text"), [kind for kind in KINDS if kind not in REVIEWS]
    drawn = (KINDS[pick(rng, kinds)](rng) for _ in range(count))
    return [f"{sentence.prompt} {sentence.continuation}" for sentence in drawn]


def word_labels(words: Iterable[str] | None = None) -> dict[str, str]:
    """Return ``positive``, ``neutral`` or ``negative`` for each word of some, by default of the corpus.

    Signed are the words of the paper's positive and of its negative lists, of both versions; ``top_adjectives`` are left out,
    as later ones hold positive words as negative. Words of two signs have no label; all others are neutral.
    """
    votes = defaultdict(set)
    for version in ("paper_era", "head"):
        for name, listed in word_data(f"sentiment/prompt_lists_all_{version}").items():
            sign, _, kind = name.partition("_")
            if sign in SIGNS and kind != "top_adjectives":
                for word in listed:
                    votes[word.strip()].add(sign)
    signs = {word: votes[word] or {"neutral"} for word in (vocabulary() if words is None else words)}
    return {word: next(iter(found)) for word, found in signs.items() if len(found) == 1}
