"""Prompts of the node search in Llama-2: bare sequences to be continued (sequence continuation, sections 2.5 and 3, E11).

Four members of a sequence, three of the Spanish ones, whose next member is asked for. A model's own tokenizer must give all
prompts of a task one length, and each answer one token; what it splits or does not know is left out and counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data

Log = Callable[[str], None]
ENGLISH = ("numerals", "numwords", "months")
TASKS = (*ENGLISH, "spanish_numwords", "spanish_months")
LISTS = "sequence_continuation/llama2_prompts"
COLUMNS = ["task", "set", "draw", "row", "text", "tokens", "n_tokens", "corr", "incorr", "corr_id", "incorr_id"]


class Window(NamedTuple):
    """A clean prompt: the members shown, the one that follows, and (the wrong answer) the last one shown."""

    shown: tuple[str, ...]
    corr: str
    incorr: str


def members(task: str) -> list[str]:
    """Return the members of a sequence in order: 1 to 9, or twelve words."""
    words = word_data("sequence_continuation/wordlists")[task]
    return words[:9] if task == "numerals" else words


def windows(task: str) -> list[Window]:
    """Return the clean prompts of a task: all starts whose next member is in the list."""
    words, n = members(task), 4 if task in ENGLISH else 3
    return [Window(tuple(words[i : i + n]), words[i + n], words[i + n - 1]) for i in range(len(words) - n)]


def written(task: str, shown: Sequence[str]) -> str:
    """Return the text of a prompt; numerals end in a space, after which the answer is a digit of its own."""
    return " ".join(shown) + (" " if task == "numerals" else "")


def notebook_draw(task: str) -> list[str] | None:
    """Return the corrupted prompts that the authors' notebook displays, or None for a task of which none are known."""
    return word_data(LISTS).get(task, {}).get("corrupted_draw_in_notebook")


def redraw(task: str, usable: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """Draw ``n`` corrupted prompts: members uniform, the last two again until the last does not follow the one before it."""
    order, drawn = members(task), []
    for _ in range(n):
        *free, r3, r4 = (usable[int(i)] for i in rng.integers(len(usable), size=4 if task in ENGLISH else 3))
        while order.index(r4) == order.index(r3) + 1:
            r3, r4 = (usable[int(i)] for i in rng.integers(len(usable), size=2))
        drawn.append(written(task, (*free, r3, r4)))
    return drawn


def llama_prompts(tokenizer: Tokenizer, redraws: int, seed: int, log: Log) -> pd.DataFrame:
    """Return the prompts of all tasks in a model's tokens, with a token that begins a text in front: the columns of COLUMNS.

    Sets: ``clean`` (draw 0); ``corrupted`` (draw 0: that of the notebook, or a seeded one where none is known);
    ``corrupted_fixed`` (draws 1 to ``redraws``, seeded). Raises UserError when no task is left.
    """
    parts = [_task(tokenizer, task, redraws, seed, log) for task in TASKS]
    table = pd.DataFrame([row for rows in parts for row in rows], columns=COLUMNS)
    if table.empty:
        raise UserError(
            f"no sequence, such as '{written('numwords', windows('numwords')[0].shown)}', can be asked with the tokenizer of "
            f"{tokenizer.where}; it must know the words, and give each answer one token"
        )
    return table


def _task(tokenizer: Tokenizer, task: str, redraws: int, seed: int, log: Log) -> list[dict]:
    usable, wanted = usable_members(tokenizer, members(task)), windows(task)
    rows = [_row(tokenizer, task, window) for window in wanted if {*window.shown, window.corr} <= set(usable)]
    rows = [row for row in rows if row is not None]
    lengths = Counter(row["n_tokens"] for row in rows)
    clean = [row for row in rows if row["n_tokens"] == lengths.most_common(1)[0][0]]
    log(f"{task}: {len(clean)} of {len(wanted)} prompts, {len(usable)} of {len(members(task))} members can be used")
    if not clean:
        return []
    found = [{**row, "set": "clean", "draw": 0, "row": i} for i, row in enumerate(clean)]
    for draw in range(redraws + 1):
        released = _corrupted(tokenizer, clean, (draw == 0 and notebook_draw(task)) or [], draw, log)
        drawn = redraw(task, usable, len(clean), stream(seed, "sequence_continuation", "llama", task, draw))
        found += released or _corrupted(tokenizer, clean, drawn, draw, log)
    return [{**row, "task": task} for row in found]


def usable_members(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """Return the members that the tokenizer knows and does not split more than others, at the beginning and further on.

    One token each; of numerals, the digit, and the token of the space before it where there is one.
    """
    sizes = {}
    for word in words:
        try:
            sizes[word] = len(tokenizer.encode(word)), len(tokenizer.continuation(word, f" {word}"))
        except UserError:
            continue
    least = min(sizes.values(), default=None)
    return [word for word in words if sizes.get(word) == least and word in sizes]


def _row(tokenizer: Tokenizer, task: str, window: Window) -> dict | None:
    text = written(task, window.shown)
    try:
        answers = [tokenizer.continuation(text, word if task == "numerals" else f" {word}") for word in window[1:]]
        tokens = _tokens(tokenizer, text)
    except UserError:
        return None
    if any(len(ids) != 1 for ids in answers):
        return None
    return {
        "text": text, "tokens": tokens, "n_tokens": len(tokens), "corr": window.corr, "incorr": window.incorr,
        "corr_id": answers[0][0], "incorr_id": answers[1][0],
    }  # fmt: skip


def _corrupted(tokenizer: Tokenizer, clean: list[dict], texts: list[str], draw: int, log: Log) -> list[dict]:
    """Return the corrupted prompts of a draw, each with the answers of the clean prompt in its row."""
    found = []
    for i, (row, text) in enumerate(zip(clean, texts, strict=False)):  # a tokenizer may leave out clean prompts
        try:
            tokens = _tokens(tokenizer, text)
        except UserError:
            tokens = []
        if len(tokens) == row["n_tokens"]:
            kind = "corrupted_fixed" if draw else "corrupted"
            found.append({**row, "text": text, "tokens": tokens, "set": kind, "draw": draw, "row": i})
    if texts and len(found) < len(clean):
        log(f"draw {draw}: {len(clean) - len(found)} of {len(clean)} corrupted prompts are split otherwise, and left out")
    return found


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*([] if tokenizer.bos is None else [tokenizer.bos]), *tokenizer.encode(text)]
