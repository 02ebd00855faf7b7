"""The prompts that a model will be used on, read from the tables of every paper that names it."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor


def first_prompts(tables: Iterable[tuple[str, pd.DataFrame]], count: int, device: torch.device) -> dict[str, Tensor]:
    """Return the tokens [n T] of the first ``count`` clean prompts of every task, by the task's name.

    ``tables`` are (schema, rows): ``prompts`` and ``llama_prompts`` of sequence continuation, ``gt_prompts`` of greater-than,
    ``cp_sentences`` of circuit probing, whose sentences have several lengths: those of the commonest one are taken; and
    ``se_prompts`` of sentiment, of which the paper's test prompts and stories are.
    """
    found: dict[str, Tensor] = {}
    for name, rows in tables:
        if name == "se_prompts":
            tested = rows[(rows["variant"] == "paper") & rows["split"].isin(("test", "notebook"))]
            found |= {f"sentiment {task}": _tokens(part, "tokens", count, device) for task, part in tested.groupby("set")}
            continue
        column, key = ("clean_ids", "dataset") if name == "gt_prompts" else ("tokens", "task")
        clean = rows[rows["set"] == "clean"] if "set" in rows else rows
        if name == "cp_sentences":
            clean = pd.concat([_commonest(part) for _, part in clean[clean["part"].str.endswith("iid")].groupby("task")])
        found |= {str(task): _tokens(part, column, count, device) for task, part in clean.groupby(key)}
    return found


def _commonest(rows: pd.DataFrame) -> pd.DataFrame:
    lengths = rows["tokens"].map(len)
    return rows[lengths == lengths.mode().iloc[0]]


def _tokens(rows: pd.DataFrame, column: str, count: int, device: torch.device) -> Tensor:
    first: Mapping = rows.sort_values("row").head(count)[column]
    return torch.from_numpy(np.stack(list(first))).long().to(device)
