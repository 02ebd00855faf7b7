"""Tables of prompts held against the tokenizer and the vocabulary that they will be used with.

A schema knows types and names. What it cannot see in a table that was edited, or made for another model, is told here: ids
beyond the vocabulary, prompts of unequal lengths, tokens that are not those of the text, answers that are one and the same.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError, nearest
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.sequence_continuation import TASKS

# By the table's name: columns of tokens with their texts, columns of answers, and what the prompts of one length share.
TOKENS = {"gt_prompts": {"clean_ids": "clean", "corrupt_ids": "corrupt"}}
ANSWERS = {"prompts": ("corr_id", "incorr_id"), "llama_prompts": ("corr_id", "incorr_id"), "cp_sentences": ("right", "wrong")}
ALIKE = {"prompts": "task", "llama_prompts": "task", "gt_prompts": "dataset"}
DIRECTIONS = ("gt", "lt")  # of years that are right
SETS = ("clean", "corrupted", "corrupted_fixed")


def check_prompts(name: str, rows: pd.DataFrame, tokenizer: Tokenizer, n_vocab: int) -> None:
    """Raise UserError for the first thing in a table of prompts, called ``name`` in the schemas, that cannot be right."""
    if rows.empty:
        raise UserError(f"the table '{name}' holds no prompts; expected some")
    for tokens, text in TOKENS.get(name, {"tokens": "text"}).items():
        _check_ids(name, tokens, np.concatenate(list(rows[tokens])), n_vocab)
        _check_texts(name, rows, tokens, text, tokenizer)
        if name in ALIKE:
            _check_lengths(name, rows.groupby(ALIKE[name])[tokens])
    if name in ANSWERS:
        _check_answers(name, rows, *ANSWERS[name], n_vocab)
    if name == "prompts":
        _check_sets(rows)
    if name == "gt_prompts":
        _check_places(rows)


def _check_ids(name: str, column: str, ids: np.ndarray, n_vocab: int) -> None:
    for wrong in (ids.min(initial=0), ids.max(initial=0)):
        if not 0 <= wrong < n_vocab:
            raise UserError(f"the table '{name}' holds {wrong} in {column}; the model has the tokens 0 to {n_vocab - 1}")


def _check_texts(name: str, rows: pd.DataFrame, tokens: str, text: str, tokenizer: Tokenizer) -> None:
    """A text may follow a space, and its tokens one that begins a text; nothing else may differ."""
    counted = rows["n_tokens"] if "n_tokens" in rows else rows[tokens].map(len)
    for words, ids, count in zip(rows[text], rows[tokens], counted, strict=True):
        own = list(ids)
        bare = own[1:] if own[:1] == [tokenizer.bos] else own
        if not bare or count != len(own) or not any(_encoded(tokenizer, lead + words) in (own, bare) for lead in ("", " ")):
            raise UserError(f"the table '{name}' has {len(own)} tokens for '{words[:80]}' that are not those of the tokenizer")


def _encoded(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode(text)
    except UserError:
        return None


def _check_lengths(name: str, groups: Iterable[tuple[str, pd.Series]]) -> None:
    for label, prompts in groups:
        lengths = sorted(set(map(len, prompts)))
        if len(lengths) > 1:
            raise UserError(f"the table '{name}' has prompts of {lengths[0]} and of {lengths[-1]} tokens for {label}")


def _check_answers(name: str, rows: pd.DataFrame, right: str, wrong: str, n_vocab: int) -> None:
    for column in (right, wrong):
        _check_ids(name, column, rows[column].to_numpy(), n_vocab)
    same = rows[rows[right] == rows[wrong]]
    if len(same):
        text, token = same.iloc[0]["text"], same.iloc[0][right]
        raise UserError(f"the table '{name}' has the token {token} as the right and as the wrong answer of '{text[:80]}'")


def _check_sets(rows: pd.DataFrame) -> None:
    counts = {(task, kind): list(part["row"]) for (task, kind), part in rows.sort_values("row").groupby(["task", "set"])}
    for task in TASKS:
        if any(counts.get((task, kind)) != counts.get((task, SETS[0]), []) for kind in SETS):
            raise UserError(f"the table 'prompts' has not the same rows for {task} in each of its sets: {', '.join(SETS)}")


def _check_places(rows: pd.DataFrame) -> None:
    wrong = (rows["end_pos"] != rows["n_tokens"] - 1) | (rows["yy_pos"] < 0) | (rows["yy_pos"] > rows["end_pos"])
    wrong |= (rows["yy"] < 0) | (rows["yy"] > 99)
    if wrong.any():
        first = rows[wrong].iloc[0]
        raise UserError(f"the table 'gt_prompts' places the year {first['yy']} or the end outside of '{first['clean'][:80]}'")
    for direction in set(rows["direction"]) - set(DIRECTIONS):
        raise UserError(f"the table 'gt_prompts' has the direction '{direction}'{nearest(direction, DIRECTIONS)}")
