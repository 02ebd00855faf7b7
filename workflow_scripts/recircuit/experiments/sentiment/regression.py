"""The fifty prompts of the paper's circuit notebook: their logit differences are known (spec 3.5), so they are run first."""

import pandas as pd
import torch

from recircuit.core.model import at
from recircuit.experiments.sentiment.setting import CIRCUIT, Log, Setting
from recircuit.methods.direction_hooks import read, readout, streams
from recircuit.runs.budget import in_chunks


@torch.inference_mode()
def regression(setting: Setting, log: Log) -> pd.DataFrame:
    """Return ``se_regression``: each prompt's logit difference, and that of its corrupted one by the clean one's answers."""
    toy, model = setting.toy(*CIRCUIT), setting.model

    def run(rows: slice) -> torch.Tensor:
        part = toy.pairs.rows(rows)
        vectors = readout(model, part.answers)
        return torch.stack(
            [read(model, at(streams(model, side)[-1], part.end), vectors) for side in (part.clean, part.corrupted)]
        )

    clean, corrupted = torch.cat([part for _, part in in_chunks(run, len(toy), setting.chunk)], 1).double().cpu()
    log(f"logit difference {clean.mean():.4f} of {len(toy)} prompts, {corrupted.mean():.4f} of the corrupted ones")
    return toy.rows[["row", "word_adj", "word_vrb", "label"]].assign(ld_clean=clean, ld_corrupted=corrupted)
