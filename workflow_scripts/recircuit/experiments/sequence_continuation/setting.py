"""What the experiments of the sequence-continuation paper share: prompts and means beside a model, and intervals.

Variants: ``published`` ablates with the released corrupted prompts and takes the means of ablated MLPs with the current heads
ablated, as the authors' code does; ``fixed`` with prompts corrupted slot by slot, and means of the unablated model.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

from recircuit.core.metrics import logit_diff
from recircuit.core.model import Model
from recircuit.core.nodes import Circuit, Node
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.methods.ablation import Prompts, Reference, circuit_logits, full_logits

CORRUPTED = {"published": "corrupted", "fixed": "corrupted_fixed"}


def prompts_of(frame: pd.DataFrame, device: torch.device) -> Prompts:
    """Turn rows of the prompts table into tensors; ``end`` is the last token."""
    tokens = torch.from_numpy(np.stack(frame["tokens"])).long().to(device)
    end = torch.full((len(frame),), tokens.shape[1] - 1, device=device)
    answers = torch.tensor(frame[["corr_id", "incorr_id"]].to_numpy(), device=device).long()
    return Prompts(tokens, end, answers)


def select(prompts: pd.DataFrame, task: str, kind: str) -> pd.DataFrame:
    """Return the rows of one task and set, in the order of the paper."""
    return prompts[(prompts["task"] == task) & (prompts["set"] == kind)].sort_values("row")


class Setting:
    """A model with the paper's prompts and means at hand."""

    def __init__(self, model: Model, prompts: pd.DataFrame, means_path: str | Path, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self._prompts = {
            key: prompts_of(rows.sort_values("row"), model.device) for key, rows in prompts.groupby(["task", "set"])
        }
        with safe_open(str(means_path), framework="pt", device=str(model.device)) as file:
            self._means = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

    def prompts(self, task: str) -> Prompts:
        """Return the clean prompts of a task."""
        return self._prompts[task, "clean"]

    def corrupted(self, task: str, variant: str) -> Tensor | None:
        """Return the prompts that MLP means are taken over again for each circuit; None in the fixed variant."""
        return self._prompts[task, CORRUPTED[variant]].tokens if variant == "published" else None

    def twins(self, task: str, variant: str) -> Tensor:
        """Return the tokens of a task's corrupted prompts, row by row beside the clean ones."""
        return self._prompts[task, CORRUPTED[variant]].tokens

    def reference(self, task: str, variant: str) -> Reference:
        """Return the means of the unablated model."""
        return Reference(*(self._means[f"{variant}/{task}/{part}"][:, None] for part in ("heads", "mlps")))

    def logits(self, task: str, variant: str, circuit: Circuit) -> Tensor:
        """Return the answers' logits [N 2] of a circuit on a task's clean prompts."""
        extra = self.corrupted(task, variant)
        return circuit_logits(self.model, self.prompts(task), circuit, self.reference(task, variant), self.chunk, extra)

    def full(self, task: str) -> Tensor:
        """Return the logit differences [N] of the whole model on a task's clean prompts."""
        return logit_diff(full_logits(self.model, self.prompts(task), self.chunk))


def interval(scores: Tensor, full: Tensor, seed: int, draws: int, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 95 % intervals, in percent, of scores [k N]; the same resamples of a task's prompts for every circuit."""
    rng = stream(seed, "sequence_continuation", "bootstrap", task)
    return bootstrap_percent(scores.cpu().numpy(), full.cpu().numpy(), rng, draws=draws)


def node_columns(node: Node) -> dict:
    """Return a head's or MLP's columns: its name, component, layer and head (None for an MLP)."""
    return {"node": str(node), "component": "head" if node.kind == "attn" else "mlp", "layer": node.layer, "head": node.head}


def typed(rows: list[dict], columns: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns).astype({"head": "Int16"})
