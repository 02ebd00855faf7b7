"""E8: which heads copy a member or put its successor forward, by their OV circuits (sequence continuation, section 3; E13).

Variants differ for months alone: ``published`` looks for the ordinal of the next place (February: third), ``fixed`` for the
next month.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from recircuit.core.model import Model
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods.weights import ov_top
from recircuit.tasks.sequence_continuation import TASKS
from recircuit.tasks.sequence_probes import following, token_texts

Log = Callable[[str], None]
K = 5
SHOWN = {"next": 3, "copy": 1}  # heads in the details
SEPARATOR = " | "
VARIANTS = ("published", "fixed")


class Favoured(NamedTuple):
    """What every head's OV circuit favours: ``ids`` [n p L H k] into ``texts``, the distinct strings, leading space kept."""

    ids: Int[np.ndarray, "n p L H k"]
    texts: list[str]


def favoured(
    model: Model, tokenizer: Tokenizer, tokens: Sequence[Sequence[int]], positions: Sequence[int], k: int, chunk: int
) -> Favoured:
    """Return the ``k`` strings that each head favours for the tokens at some positions of prompts of one length."""
    where = torch.tensor(list(positions), device=model.device)
    top = ov_top(model, torch.tensor([list(row) for row in tokens], device=model.device), where, k, chunk).numpy()
    distinct, ids = np.unique(top, return_inverse=True)
    return Favoured(ids.reshape(top.shape), token_texts(tokenizer, distinct.tolist()))


def found_in(top: Favoured, wanted: Sequence[Sequence[str]]) -> Bool[np.ndarray, "n p L H"]:
    """Tell which heads favour the wanted string [n p], with or without a leading space."""
    bare = [text.removeprefix(" ") for text in top.texts]
    code = {text: i for i, text in enumerate(dict.fromkeys(bare))}
    codes = np.array([code[text] for text in bare])[top.ids]
    asked = np.array([[code.get(word, -1) for word in row] for row in wanted])
    return (codes == asked[:, :, None, None, None]).any(-1)


def ov_scores(
    model: Model, tokenizer: Tokenizer, probes: pd.DataFrame, chunk: int, log: Log
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables ``ov_score`` (every head) and ``ov_detail`` (the best heads, token by token), both variants."""
    scores, details = [], []
    for task in TASKS:
        rows = probes[probes["dataset"] == f"ov_{task}"].sort_values("row")
        words = [text.split() for text in rows["text"]]
        top = favoured(model, tokenizer, list(rows["tokens"]), range(len(words[0])), K, chunk)
        for variant in VARIANTS:
            wanted = {"copy": words, "next": [[following(task, word, variant) for word in row] for row in words]}
            for kind, strings in wanted.items():
                hits, names = found_in(top, strings), {"variant": variant, "task": task, "kind": kind}
                scores.append(score_table(hits).assign(**names, k=K))
                best = scores[-1].nlargest(SHOWN[kind], "hits", keep="first")
                heads = list(best[["layer", "head"]].itertuples(index=False, name=None))
                details.append(detail_table(top, hits, words, strings, heads).assign(**names))
                shown = ", ".join(f"{r.layer}.{r.head} {r.score_pct:.1f} %" for r in best.itertuples())
                log(f"{task}, {kind}, {variant}: {hits[..., 0, 0].size} tokens; best {shown}")
    return pd.concat(scores, ignore_index=True), pd.concat(details, ignore_index=True)


def score_table(hits: Bool[np.ndarray, "n p L H"]) -> pd.DataFrame:
    """Return layer, head, hits, total and score_pct = 100 hits / tokens of every head."""
    counts, total = hits.sum((0, 1)), hits.shape[0] * hits.shape[1]
    layers, heads = np.indices(counts.shape).reshape(2, -1)
    flat = counts.reshape(-1)
    return pd.DataFrame({"layer": layers, "head": heads, "hits": flat, "total": total, "score_pct": 100 * flat / total})


def detail_table(top: Favoured, hits: np.ndarray, words: list, wanted: list, heads: list[tuple[int, int]]) -> pd.DataFrame:
    """Return, for some heads, each scored token: layer, head, prompt, slot (from 1), token, wanted, top strings, hit."""
    rows = [
        (layer, head, i, j + 1, word, wanted[i][j], SEPARATOR.join(top.texts[t] for t in top.ids[i, j, layer, head]), hit)
        for layer, head in heads
        for i, row in enumerate(words)
        for j, (word, hit) in enumerate(zip(row, hits[i, :, layer, head].tolist(), strict=True))
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "prompt", "slot", "token", "wanted", "top", "hit"])
