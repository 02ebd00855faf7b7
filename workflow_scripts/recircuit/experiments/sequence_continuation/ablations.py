"""E4: every head and MLP of the full model, ablated alone."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from recircuit.core.metrics import logit_diff, percent_of
from recircuit.experiments.sequence_continuation.setting import CORRUPTED, Setting, interval, node_columns, typed
from recircuit.methods.sweep import sweep_nodes
from recircuit.runs.progress import Countdown
from recircuit.tasks.sequence_continuation import TASKS


def single_ablations(setting: Setting, seed: int, draws: int, log: Callable[[str], None]) -> pd.DataFrame:
    """E4: the full model's score (percent) with one node mean-ablated, for every head and MLP, task and variant."""
    parts, countdown = [], Countdown(len(CORRUPTED) * len(TASKS), log, "sweeps")
    for variant in CORRUPTED:
        for task in TASKS:
            sweep = sweep_nodes(setting.model, setting.prompts(task), setting.reference(task, variant), setting.chunk)
            full, ablated = logit_diff(sweep.full), torch.stack([logit_diff(a) for a in sweep.ablated])
            scores = np.array([percent_of(a, full) for a in ablated])
            low, high = interval(ablated, full, seed, draws, task)
            rows = typed([node_columns(node) for node in sweep.nodes]).drop(columns="node")
            parts.append(rows.assign(task=task, variant=variant, score_pct=scores, drop_pp=scores - 100, ci_lo=low, ci_hi=high))
            log(f"{task}, {variant}: {len(scores)} nodes, worst {sweep.nodes[int(scores.argmin())]} at {scores.min():.2f} %")
            countdown.step()
    return pd.concat(parts, ignore_index=True)
