"""E9: what the residual stream says of the answer after each block (sequence continuation, section 3)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from recircuit.core.model import Model
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.setting import prompts_of, select
from recircuit.methods.ablation import Prompts
from recircuit.methods.lens import VARIANTS, entries, lens_logits
from recircuit.runs.budget import in_chunks
from recircuit.tasks.sequence_continuation import TASKS, members
from recircuit.tasks.sequence_probes import token_texts

Log = Callable[[str], None]
TOP = 5
PAPER_LAYERS, PAPER_BLOCK = 12, 9  # GPT-2 small: the answer after block 9, an earlier member after block 8


class Readings(NamedTuple):
    """The lens on every prompt: the most likely token and the answers' logit difference, by entry (0: embeddings)."""

    top: Int[np.ndarray, "entries n"]
    ld: Float[np.ndarray, "entries n"]


def lens_tokens(model: Model, tokenizer: Tokenizer, probes: pd.DataFrame) -> pd.DataFrame:
    """Return the table ``logit_lens``: the five likeliest tokens (rank 0 first) after each block for three bare sequences."""
    rows = []
    for probe in probes[probes["dataset"].str.startswith("lens_")].itertuples():
        tokens = torch.tensor([list(probe.tokens)], device=model.device)
        for entry, x in enumerate(entries(model, tokens, torch.tensor([tokens.shape[1] - 1], device=model.device))):
            for variant in VARIANTS:
                best = lens_logits(model, x, entry, variant)[0].topk(TOP)
                texts = token_texts(tokenizer, best.indices.tolist())
                rows += [
                    (variant, probe.text, entry - 1, rank, text, logit)
                    for rank, (text, logit) in enumerate(zip(texts, best.values.tolist(), strict=True))
                ]
    return pd.DataFrame(rows, columns=["variant", "prompt", "block", "rank", "token", "logit"])


def lens_answers(
    model: Model, tokenizer: Tokenizer, prompts: pd.DataFrame, chunk: int, log: Log
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables ``logit_lens_count`` and ``logit_lens_blocks`` over the clean prompts of each task."""
    counts, blocks = [], []
    for task in TASKS:
        data = prompts_of(select(prompts, task, "clean"), model.device)
        answers = data.answers.cpu().numpy().T
        for variant, found in read(model, data, chunk).items():
            names = {"variant": variant, "task": task}
            hits = consecutive_hits(found.top, answers[0], places(tokenizer, task, found.top, answers[0]))
            block = answer_block(hits)
            total = found.top.shape[1]
            counts.append({**names, "block": block, "hits": int(hits[block]), "total": total, "share": hits[block] / total})
            is_corr, is_incorr = ((found.top == ids).mean(1) for ids in answers)
            columns = {"block": np.arange(len(hits) + 1) - 1, "top1_corr": is_corr, "top1_incorr": is_incorr}
            blocks.append(pd.DataFrame({**names, **columns, "ld": found.ld.mean(1)}))
            log(f"{task}, {variant}: {int(hits[block])} of {total} prompts, answer after block {block}")
    return pd.DataFrame(counts), pd.concat(blocks, ignore_index=True)


@torch.inference_mode()
def read(model: Model, data: Prompts, chunk: int) -> dict[str, Readings]:
    """Read every prompt through both lenses at its end."""

    def work(rows: slice) -> dict[str, tuple]:
        parts = {variant: [] for variant in VARIANTS}
        for entry, x in enumerate(entries(model, data.tokens[rows], data.end[rows])):
            for variant in VARIANTS:
                logits = lens_logits(model, x, entry, variant)
                picked = logits.gather(1, data.answers[rows]).double()
                parts[variant].append((logits.argmax(1).cpu().numpy(), (picked[:, 0] - picked[:, 1]).cpu().numpy()))
        return {variant: tuple(np.stack(column) for column in zip(*found, strict=True)) for variant, found in parts.items()}

    chunks = [found for _, found in in_chunks(work, len(data), chunk)]
    return {v: Readings(*(np.concatenate([part[v][i] for part in chunks], 1) for i in range(2))) for v in VARIANTS}


def places(tokenizer: Tokenizer, task: str, top: Int[np.ndarray, "entries n"], answers: Int[np.ndarray, " n"]) -> dict:
    """Return the place in the sequence of each token id that has one: any integer, or a word's place in the list."""
    ids = np.unique(np.concatenate([top.reshape(-1), answers])).tolist()
    sequence = {word: i for i, word in enumerate(members(task))}
    found = {}
    for token, text in zip(ids, token_texts(tokenizer, ids), strict=True):
        try:
            found[token] = int(text) if task == "numerals" else sequence[text.replace(" ", "")]
        except (ValueError, KeyError):
            continue
    return found


def consecutive_hits(top: Int[np.ndarray, "entries n"], answers: Int[np.ndarray, " n"], place: dict) -> Int[np.ndarray, " L"]:
    """Return for each block b how many prompts say the answer after it, and an earlier member after block b - 1.

    Earlier: any smaller place, as the authors' code has it (its comment says: one before). Block 0 follows the embeddings.
    """
    where = np.vectorize(lambda token: place.get(token, np.nan), otypes=[float])
    before = where(top[:-1]) < where(answers)  # False where either has no place
    return ((top[1:] == answers) & before).sum(1)


def answer_block(hits: Int[np.ndarray, " L"]) -> int:
    """Return after which block the answer is looked for: the paper's 9 for 12 layers, else the one with the most hits.

    Among equals the first; never block 0, before which there are only the embeddings, if there is another.
    """
    if len(hits) == PAPER_LAYERS:
        return PAPER_BLOCK
    return int(hits[1:].argmax()) + 1 if len(hits) > 1 else 0
