"""The fitted directions for what heads write: one layer's for all heads, or that of the stream which a head's layer leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.experiments.sentiment.fits import frames
from recircuit.methods.direction_hooks import frame_of
from recircuit.methods.directions import random_directions

Alignment = Literal["first", "matched"]
ALIGNMENTS: tuple[Alignment, ...] = ("first", "matched")
METHODS = ("kmeans", "das")  # what the authors restricted heads to: both at once
FIRST = 1  # the stream entering block 1: on what the first block leaves behind the authors fitted the directions of this part


@dataclass(frozen=True)
class Axes:
    """Unit vectors [d] of directions by method and layer; "layer l" is the stream entering block l, layer L the final one.

    ``first`` is the direction of layer 1 whatever the head, as published; ``matched`` that of the stream which a head's layer
    leaves behind, or of the one entering it where none was fitted (DAS of the final stream).
    """

    vectors: Mapping[str, Mapping[int, Tensor]]
    n_layers: int

    @classmethod
    def of(cls, model: Model, directions: pd.DataFrame) -> "Axes":
        """Read ``se_directions``: those fitted on the paper's ToyMovieReview."""
        found = {}
        for method in METHODS:
            own = {layer: frame[:, 0].to(model.tokens) for layer, frame in frames(directions, method).items()}
            if FIRST not in own:
                raise UserError(f"the directions have none by '{method}' for layer {FIRST}; let Snakemake build them again")
            found[method] = own
        return cls(found, model.spec.n_layers)

    def at(self, method: str, alignment: Alignment, layer: int) -> Tensor:
        """Return the direction [d] for what a layer's heads write."""
        own = self.vectors[method]
        return own[FIRST] if alignment == "first" else own[layer + 1 if layer + 1 in own else layer]

    def stack(self, method: str, alignment: Alignment) -> Tensor:
        """Return the directions for every layer's heads, [L d]."""
        return torch.stack([self.at(method, alignment, layer) for layer in range(self.n_layers)])

    def frames(self, seed: int = 42) -> dict[tuple[str, str], Tensor]:
        """Return frames [L d k] by direction and alignment.

        Published is the span of all methods' vectors of layer 1; each method's matched vectors and a random one are ours.
        """
        planes = torch.stack([self.stack(method, "first") for method in self.vectors], 1)  # [L k d]
        drawn = random_directions(1, planes.shape[-1], seed).to(planes)
        found = {("+".join(self.vectors), "first"): torch.stack([frame_of(plane) for plane in planes])}
        found |= {(method, "matched"): self.stack(method, "matched")[..., None] for method in self.vectors}
        return found | {("random", "first"): drawn.mT.expand(self.n_layers, -1, -1)}
