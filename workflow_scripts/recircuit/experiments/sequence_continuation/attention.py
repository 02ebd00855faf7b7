"""E7: mean attention between the roles of a prompt, for every head (sequence continuation, section 3; E13 for Llama)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods.attention import HeadName, pattern_stats
from recircuit.tasks.sequence_continuation import TASKS, TEMPLATES
from recircuit.tasks.sequence_probes import MIXED, token_texts

Log = Callable[[str], None]
CLAUSE_ROLES = [*[f"{part}{i}" for i in range(1, 6) for part in ("w", "verb", "in", "S", "dot")][:22], "end"]


class Dataset(NamedTuple):
    """Prompts of one length whose positions play the same ``roles``."""

    name: str
    tokens: list[list[int]]
    roles: list[str]


def datasets(prompts: pd.DataFrame, probes: pd.DataFrame, bos: int | None, per_template: int) -> list[Dataset]:
    """Return the five sets of E7: the first ``per_template`` clean prompts of each template, by task, and the mixed ones.

    An end-of-text token stands in front of all (role ``bos``), where the tokenizer has one.
    """
    front, role = ([], []) if bos is None else ([bos], ["bos"])
    found = []
    for task in TASKS:
        clean = prompts[(prompts["task"] == task) & (prompts["set"] == "clean")].sort_values("row")
        first = pd.concat([clean[clean["template"] == template].head(per_template) for template in TEMPLATES])
        found.append(Dataset(task, [[*front, *tokens] for tokens in first["tokens"]], [*role, *CLAUSE_ROLES]))
    for name in MIXED:
        rows = probes[probes["dataset"] == name].sort_values("row")
        found.append(Dataset(name, [list(tokens) for tokens in rows["tokens"]], rows["roles"].iloc[0].split()))
    return found


def attention_table(
    model: Model, tokenizer: Tokenizer, found: Sequence[Dataset], chunk: int, log: Log, heads: Sequence[HeadName] | None = None
) -> pd.DataFrame:
    """Return mean and spread of attention from each query to the keys before and at it: the columns of ``attention``.

    ``heads`` restricts the table to some (layer, head); tokens are those of the first prompt, end-of-text written ``BOS``.
    """
    parts = []
    for data in found:
        parts.append(attention_rows(model, tokenizer, data, chunk, heads))
        log(f"attention on {data.name}: {len(data.tokens)} prompts of {len(data.roles)} tokens, {len(parts[-1])} rows")
    return pd.concat(parts, ignore_index=True)


def attention_rows(
    model: Model, tokenizer: Tokenizer, data: Dataset, chunk: int, heads: Sequence[HeadName] | None = None
) -> pd.DataFrame:
    """Return the rows of ``attention_table`` for one set. UserError when its prompts do not have one token per role."""
    if any(len(tokens) != len(data.roles) for tokens in data.tokens):
        raise UserError(f"the prompts of {data.name} do not have {len(data.roles)} tokens, one for each of {data.roles}")
    stats = pattern_stats(model, torch.tensor(data.tokens, device=model.device), chunk, heads)
    first = data.tokens[0]
    shown = ["BOS" if i == tokenizer.bos else text for i, text in zip(first, token_texts(tokenizer, first), strict=True)]
    q, k = np.tril_indices(len(first))
    repeated, n_heads = len(q), len(stats.heads)
    layers, names = np.array(stats.heads, dtype=int).reshape(-1, 2).T
    roles, texts = np.array(data.roles, dtype=object), np.array(shown, dtype=object)
    columns = {"q_pos": q, "k_pos": k, "q_role": roles[q], "k_role": roles[k], "q_token": texts[q], "k_token": texts[k]}
    values = {name: value[:, q, k].flatten().cpu().numpy() for name, value in (("mean", stats.mean), ("sd", stats.sd))}
    return pd.DataFrame(
        {
            "dataset": data.name,
            "layer": layers.repeat(repeated),
            "head": names.repeat(repeated),
            **{name: np.tile(column, n_heads) for name, column in columns.items()},
            **{name: value.astype(np.float32) for name, value in values.items()},
            "n": len(data.tokens),
        }
    )
