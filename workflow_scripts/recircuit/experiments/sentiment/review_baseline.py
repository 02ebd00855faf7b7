"""Which reviews a model labels rightly before anything is ablated: the zero-shot filter of section 3.8, and its substitute."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model, layer_norm
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.setting import Log, Reviews, by_length
from recircuit.methods.direction_hooks import bias, centred, streams
from recircuit.runs.budget import in_chunks

PUBLISHED, BEGUN, SUBSTITUTE = "suffix", "suffix_bos", "continuation"
LONGEST = 64  # tokens of a prompt in the published runs, which cut longer ones
TOP = 10
FEWEST = 2  # reviews of a class that make an experiment
KEPT = "kept"


def prompts(reviews: pd.DataFrame, tokenizer: Tokenizer) -> dict[str, pd.DataFrame]:
    """Return the reviews of each scaffold that is run: the published one, the same after a token that begins a text, and the
    substitute for models that write no label.
    """
    found = {name: reviews[reviews["scaffold"] == name].reset_index(drop=True) for name in (PUBLISHED, SUBSTITUTE)}
    if tokenizer.bos is not None:
        found[BEGUN] = begun(found[PUBLISHED], tokenizer.bos)
    return {name: found[name] for name in (PUBLISHED, BEGUN, SUBSTITUTE) if name in found}


def begun(reviews: pd.DataFrame, bos: int) -> pd.DataFrame:
    """Return reviews with a token that begins a text in front; distances to the end stay as they are."""
    tokens = [np.concatenate([[bos], own]).astype(np.int32) for own in reviews["tokens"]]
    moved = {column: reviews[column] + 1 for column in ("n_tokens", "text_start", "text_end")}
    return reviews.assign(scaffold=BEGUN, tokens=tokens, **moved)


def cut(reviews: pd.DataFrame, longest: int) -> pd.DataFrame:
    """Return reviews whose prompts end after ``longest`` tokens, wherever that is."""
    ends = {column: reviews[column].clip(upper=longest) for column in ("n_tokens", "text_end")}
    return reviews.assign(tokens=[own[:longest] for own in reviews["tokens"]], **ends)


def some(batch: Reviews, rows: slice) -> Reviews:
    """Return a few of a batch of reviews."""
    return Reviews(batch.tokens[rows], batch.answers[rows], batch.rows.iloc[rows])


@torch.inference_mode()
def answers(model: Model, batch: Reviews) -> tuple[Tensor, Tensor, Tensor]:
    """Return [n] each: the logit difference at the end, how many tokens come before the right answer there, and at the position
    where the fewest do.
    """
    final = layer_norm(model.final_norm, streams(model, batch.tokens)[-1], model.spec.eps)
    right, wrong = batch.answers[:, 0].T
    ranks = []
    for x in final.unbind(1):  # one position at a time: the logits of all are too many
        logits = x @ model.unembedding.T
        own = logits.gather(1, right[:, None])
        ranks.append((logits > own).sum(1))
    difference = (own - logits.gather(1, wrong[:, None]))[:, 0]
    return difference, ranks[-1], torch.stack(ranks).min(0).values


def baseline(model: Model, reviews: pd.DataFrame, scaffold: str, chunk: int, log: Log) -> pd.DataFrame:
    """Return ``se_examples`` of one scaffold: what the model answers to each review, and whether it is kept, or why not.

    Published: the right label is likelier than the wrong one, and among the ten likeliest tokens at the end; the authors' code
    looks for it at any position, so that "in the top ten elsewhere" is what it kept besides. The substitute keeps reviews whose
    logit difference, less the model's preference for one of the answers, is positive. Either needs a comma.
    """

    tables = []
    for batch in by_length(reviews, model.device):
        found = [part for _, part in in_chunks(lambda rows, own=batch: answers(model, some(own, rows)), len(batch), chunk)]
        ld, rank, anywhere = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
        tables.append(batch.rows.assign(ld=ld.astype(np.float64), rank=rank, rank_anywhere=anywhere))
    found = pd.concat(tables, ignore_index=True).sort_values("sentence_index", ignore_index=True)
    positive, lds = torch.tensor(found["label"].to_numpy() == 1), torch.tensor(found["ld"].to_numpy())
    found = found.assign(ld_centred=centred(lds, positive).numpy(), sampled=False)
    found["reason"] = reasons(found, substitute=scaffold == SUBSTITUTE)
    found["kept"] = found["reason"] == KEPT
    right, fair = ((found[column] > 0).mean() for column in ("ld", "ld_centred"))
    log(
        f"{scaffold}: {len(found)} reviews, {100 * right:.1f} % right, {100 * fair:.1f} % less the preference "
        f"{preference(found):+.3f} for positive answers; "
        + ", ".join(f"{count} {reason}" for reason, count in found["reason"].value_counts().sort_index().items())
    )
    return found


def reasons(examples: pd.DataFrame, *, substitute: bool) -> np.ndarray:
    """Return for each review KEPT, or the first thing that speaks against it."""
    ld, rank, anywhere = examples["ld_centred" if substitute else "ld"], examples["rank"], examples["rank_anywhere"]
    against = {"wrong answer": ld <= 0}
    if not substitute:
        against["in the top ten elsewhere"] = (rank >= TOP) & (anywhere < TOP)
        against["not in the top ten"] = rank >= TOP
    against["no comma"] = examples["n_commas"] == 0
    return np.select(list(against.values()), list(against), KEPT)


def preference(examples: pd.DataFrame) -> float:
    """Return how much the model prefers positive answers to some reviews (``direction_hooks.bias``)."""
    return float(bias(torch.tensor(examples["ld"].to_numpy(float)), torch.tensor(examples["label"].to_numpy() == 1)))


def enough(examples: pd.DataFrame, scaffold: str, log: Log) -> bool:
    """Tell whether reviews of both classes are kept, and say so where they are not."""
    counts = examples.loc[examples["kept"], "label"].value_counts().reindex([0, 1], fill_value=0)
    if counts.min() >= FEWEST:
        return True
    there = f"{counts[1]} positive and {counts[0]} negative reviews are kept"
    log(f"{scaffold}: {there}, expected {FEWEST} or more of each; nothing is ablated")
    return False
