"""Cosines of directions: methods at one layer, layers of one method, training sets at one layer (spec 3.2)."""

import numpy as np
import pandas as pd
import torch

from recircuit.experiments.sentiment.fits import frames
from recircuit.methods.directions import cosines

KEYS = ["method", "set", "variant"]


def direction_cosines(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_cosines`` of all single directions of ``se_directions``, signed (after orientation) and absolute.

    At one layer every pair of methods, sets and variants; across layers each direction with itself. Both orders are there, and
    so is each with itself at its own layer.
    """
    single = table[table["d_das"] == 1]
    units = [
        (*key, layer, frame[:, 0])
        for key in single[KEYS].drop_duplicates().itertuples(index=False)
        for layer, frame in frames(single, *key).items()
    ]
    labels = pd.DataFrame([unit[:-1] for unit in units], columns=[*KEYS, "layer"])
    vectors = torch.stack([unit[-1] for unit in units])
    found = cosines(vectors, vectors).numpy()
    own = labels.groupby(KEYS).ngroup().to_numpy()
    layer = labels["layer"].to_numpy()
    a, b = np.nonzero((layer[:, None] == layer) | (own[:, None] == own))
    pairs = [labels.loc[rows].add_suffix(f"_{side}").reset_index(drop=True) for side, rows in (("a", a), ("b", b))]
    return pd.concat(pairs, axis=1).assign(cosine=found[a, b], abs_cosine=np.abs(found[a, b]))
