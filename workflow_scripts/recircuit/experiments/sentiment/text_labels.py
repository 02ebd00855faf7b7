"""Labels that stand in for GPT-4's: of the tokens of running text, and of texts that a model wrote (spec 3.9, 3.12)."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks import reviews, sst
from recircuit.tasks.running_text import UNLABELLED, token_labels, whole_words

LABELS = ("negative", "neutral", "positive", UNLABELLED)  # codes 0 to 3
TREEBANK, LISTS = "treebank's words", "paper's word lists"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

Log = Callable[[str], None]


def lexicon(treebank: Path | None, log: Log) -> tuple[dict[str, str], str]:
    """Return words with their labels, and whose labels they are.

    The treebank's scores of single words where its dictionary is at hand, else the word lists of the paper, in which all other
    words of the embedded models' corpus are neutral.
    """
    if treebank is not None:
        try:
            return sst.lexicon(treebank), TREEBANK
        except UserError as error:  # the hub's sentences come without the scores of phrases
            log(f"words are labelled by the paper's lists: {error}")
    return reviews.word_labels(), LISTS


def codes(tokenizer: Tokenizer, words: Mapping[str, str], tokens: Int[np.ndarray, "n T"]) -> Int[np.ndarray, "n T"]:
    """Return the label of every token of some rows as an index of LABELS; parts of words are unlabelled."""
    of = {label: code for code, label in enumerate(LABELS)}
    by_token = np.array([of[label] for label in token_labels(tokenizer, words)], np.int8)
    return np.where(whole_words(tokenizer, tokens), by_token[tokens], np.int8(of[UNLABELLED]))


def text_label(text: str, words: Mapping[str, str]) -> tuple[str, int, int]:
    """Return a text's label and how many positive and negative words it has: the label is that of the more frequent sign."""
    found = [words.get(word, words.get(word.lower())) for word in _WORD.findall(text)]
    positive, negative = found.count("positive"), found.count("negative")
    return ("neutral" if positive == negative else "positive" if positive > negative else "negative"), positive, negative
