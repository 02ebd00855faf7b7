"""E0 and E1: what the full model says, and its mean activations over the corrupted prompts."""

import json
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.metrics import answer_stats
from recircuit.core.model import Model
from recircuit.core.weights import save_tensors
from recircuit.experiments.sequence_continuation.setting import CORRUPTED, prompts_of, select
from recircuit.methods.ablation import Prompts, mean_reference
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import forward
from recircuit.tasks.sequence_continuation import TASKS

Log = Callable[[str], None]


def baseline(model: Model, prompts: pd.DataFrame, bos: int | None, chunk: int, log: Log) -> pd.DataFrame:
    """E0: logits, probabilities and rank of the answers on clean prompts, without and (if there is one) with ``bos``."""
    parts = []
    for task in TASKS:
        rows = select(prompts, task, "clean")
        data = prompts_of(rows, model.device)
        for with_bos in (False, True) if bos is not None else (False,):
            stats = _stats(model, data, bos if with_bos else None, chunk)
            log(
                f"{task}, {'with' if with_bos else 'without'} end-of-text token: mean logit difference {stats['ld'].mean():.4f}"
            )
            parts.append(pd.DataFrame({"task": task, "bos": with_bos, "row": rows["row"].to_numpy(), **stats}))
    return pd.concat(parts, ignore_index=True)


@torch.inference_mode()
def _stats(model: Model, data: Prompts, bos: int | None, chunk: int) -> dict[str, np.ndarray]:
    tokens, end = data.tokens, data.end
    if bos is not None:
        tokens, end = torch.cat([torch.full_like(tokens[:, :1], bos), tokens], 1), end + 1

    def run(rows: slice) -> dict[str, Tensor]:  # inside the chunk: these are the logits of all tokens
        return answer_stats(forward(model, tokens[rows], end[rows]), data.answers[rows])

    parts = [part for _, part in in_chunks(run, len(data), chunk)]
    return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}


def require_accuracy(rows: pd.DataFrame, name: str, least: float) -> None:
    """Raise UserError when a model prefers the right answer on too few prompts to have a circuit for the task."""
    for task, found in rows[~rows["bos"]].groupby("task"):
        accuracy, ld = float((found["ld"] > 0).mean()), float(found["ld"].mean())
        if accuracy < least or ld <= 0:
            raise UserError(
                f"model '{name}' cannot do {task}: accuracy {accuracy:.3f} (at least {least} is asked for), mean logit "
                f"difference {ld:.3f}; take it out of sequence_continuation.models"
            )


def means(model: Model, prompts: pd.DataFrame, chunk: int, log: Log) -> dict[str, Tensor]:
    """E1: mean z [L T H e] and MLP outputs [L T d] by position over the corrupted prompts, by variant and task."""
    found = {}
    for variant, kind in CORRUPTED.items():
        for task in TASKS:
            data = prompts_of(select(prompts, task, kind), model.device)
            reference = mean_reference(model, data.tokens, "position", chunk)
            found[f"{variant}/{task}/heads"] = reference.heads[:, 0].contiguous()
            found[f"{variant}/{task}/mlps"] = reference.mlps[:, 0].contiguous()
            log(f"means of {task}, {variant}, over {len(data)} corrupted prompts")
    return found


def write_means(path: str, found: Mapping[str, Tensor], passport: Mapping) -> None:
    """Write means with their passport as safetensors metadata."""
    tensors = {name: tensor.cpu() for name, tensor in found.items()}
    save_tensors(path, tensors, {"recircuit": json.dumps(passport, sort_keys=True)})
