"""Single neurons: what each one writes, beside the direction (spec 3.14)."""

import numpy as np
import pandas as pd
from torch import Tensor

from recircuit.core.model import Model
from recircuit.experiments.sentiment.running_text import axes_of
from recircuit.methods.direction_hooks import centred_width
from recircuit.methods.directions import cosines, random_directions


def neurons(model: Model, direction: Tensor, seed: int = 42) -> pd.DataFrame:
    """Return ``se_neurons``: cosines of the output weights of all neurons with a direction [d], and with a random one.

    ``norm`` is the length of the weights. As everywhere they have no mean over coordinates in models with LayerNorm.
    """
    drawn = random_directions(1, len(direction), seed)[0].to(direction)
    axes, parts = axes_of(model, [direction, drawn]), []
    for layer, block in enumerate(model.blocks):
        written = centred_width(model, block.down.double())  # [f d]
        own, random = cosines(axes, written).cpu().numpy()
        lengths = written.norm(dim=-1).cpu().numpy()
        parts.append(pd.DataFrame({"layer": layer, "neuron": np.arange(len(own)), "cosine": own, "cosine_random": random,
                                   "norm": lengths}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)
