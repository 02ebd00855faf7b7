"""Which directions are patched into which layer: all that spec 3.4 and section 8 ask for, as plans."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from recircuit.core.stats import stream
from recircuit.experiments.sentiment.fits import frames
from recircuit.experiments.sentiment.setting import TRAIN, Setting
from recircuit.methods.direction_hooks import Patch, frame_of
from recircuit.methods.directions import mean_difference, random_directions, resolve, shuffled_labels, unit
from recircuit.tasks.sentiment import fit_position

METHODS = ("das", "das2d", "das3d", "kmeans", "logistic_regression", "mean_diff", "pca", "svd", "random")
TRANSFERRED = ("das", "kmeans")  # directions that are tried at other layers than their own
SCALED = ("das", "kmeans", "random")  # and in other doses than one
SCALES = np.linspace(-1, 2, 13)
GENERAL_SETS = ("adverb", "book", "product", "res", "movie")
GENERAL_METHODS = ("mean_diff", "logistic_regression", "das")
NULL, SHUFFLED = "random", "shuffled"  # methods of null distributions, with a draw of 0 or more


class Entry(NamedTuple):
    """What is patched: the direction of a method, fitted on a set's variant at ``from_layer``.

    ``projection``: ``none``; ``complement`` (all of the difference but the direction's part); ``para`` and ``ortho`` (the part
    of the unit direction along the one of the tested set's own prompts and the rest, each with the length that it has).
    ``scale``: the dose. ``draw``: -1, or which of a null distribution, or which further seed of DAS (1, 2, ...).
    """

    variant: str
    method: str
    d_das: int
    set: str
    from_layer: int
    projection: str = "none"
    scale: float = 1.0
    draw: int = -1


Plan = dict[int, list[tuple[Entry, Patch]]]  # by the layer that is patched


def joined(plans: Iterable[Mapping[int, Sequence]]) -> Plan:
    """Return several plans as one."""
    found = defaultdict(list)
    for plan in plans:
        for layer, entries in plan.items():
            found[layer] += entries
    return dict(found)


# ---- directions -----------------------------------------------------------------------------------------------------


class Directions:
    """Fitted directions as orthonormal frames [d k] by layer, from tables ``se_directions``."""

    def __init__(self, table: pd.DataFrame, n_layers: int) -> None:
        self.table, self.n_layers = table, n_layers

    def seeds(self, method: str, name: str = "movie", variant: str = "paper") -> list[int]:
        """Return the seeds that a direction was fitted with, the lowest of which is the one that counts."""
        keys = ["method", "set", "variant"]
        return sorted(map(int, self.table.loc[(self.table[keys] == [method, name, variant]).all(axis=1), "seed"].unique()))

    def frames(self, method: str, name: str = "movie", variant: str = "paper", seed: int | None = None) -> dict[int, Tensor]:
        """Return the frames by layer; none where a method was not fitted."""
        table = self.table if seed is None else self.table[self.table["seed"] == seed]
        return frames(table, method, name, variant)

    def variant_of(self, name: str) -> str | None:
        """Return which prompts of a set stand for it: the paper's, or the later ones where it has none."""
        return next((v for v in ("paper", "full") if self.seeds(GENERAL_METHODS[0], name, v)), None)


# ---- plans ----------------------------------------------------------------------------------------------------------


def own_layer(directions: Directions, *, variant: str = "paper", projection: str = "none") -> Plan:
    """Patch each method's direction at the layer that it was fitted at, or with ``complement`` all but it."""
    weights, plan = {"none": (1.0, 0.0), "complement": (0.0, 1.0)}[projection], defaultdict(list)
    for method in METHODS:
        if method == "random" and variant != "paper":
            continue  # the same ones again
        for layer, frame in directions.frames(method, variant=variant).items():
            entry = Entry(variant, method, frame.shape[1], "movie", layer, projection)
            plan[layer].append((entry, Patch(frame, *weights)))
    return dict(plan)


def further_seeds(directions: Directions) -> Plan:
    """Patch the directions that other seeds of DAS found."""
    plan = defaultdict(list)
    for draw, seed in enumerate(directions.seeds("das")[1:], 1):
        for layer, frame in directions.frames("das", seed=seed).items():
            plan[layer].append((Entry("paper", "das", frame.shape[1], "movie", layer, draw=draw), Patch(frame)))
    return dict(plan)


def transfer(directions: Directions) -> Plan:
    """Patch the direction of each layer at every other one."""
    plan = defaultdict(list)
    for method in TRANSFERRED:
        for source, frame in directions.frames(method).items():
            for layer in range(directions.n_layers + 1):
                if layer != source:
                    plan[layer].append((Entry("paper", method, frame.shape[1], "movie", source), Patch(frame)))
    return dict(plan)


def doses(directions: Directions, layers: Iterable[int]) -> Plan:
    """Patch multiples of the difference along a direction, at some layers."""
    plan = defaultdict(list)
    for method, layer in product(SCALED, layers):
        frame = directions.frames(method).get(layer)
        for scale in SCALES if frame is not None else ():
            if scale != 1:  # which own_layer has
                entry = Entry("paper", method, frame.shape[1], "movie", layer, scale=float(scale))
                plan[layer].append((entry, Patch(frame, float(scale))))
    return dict(plan)


def random_null(n_layers: int, width: int, draws: int, seed: int) -> Plan:
    """Patch random directions, at each layer others."""
    plan = {}
    for layer in range(n_layers + 1):
        drawn = random_directions(draws, width, int(stream(seed, "random directions", layer).integers(2**31))).double()
        plan[layer] = [(Entry("paper", NULL, 1, "movie", layer, draw=i), Patch(frame_of(v))) for i, v in enumerate(drawn)]
    return plan


def shuffled_null(setting: Setting, draws: int, seed: int) -> Plan:
    """Patch mean differences between prompts whose labels were dealt out anew."""
    toy = setting.toy(*TRAIN)
    x, plan = setting.streams_at(toy, fit_position("movie")).double(), defaultdict(list)
    for draw, labels in enumerate(shuffled_labels(toy.positive, draws, seed)):
        for layer, vector in enumerate(mean_difference(x, labels)):
            plan[layer].append((Entry("paper", SHUFFLED, 1, "movie", layer, draw=draw), Patch(frame_of(vector))))
    return dict(plan)


def general(directions: Directions, test: str) -> Plan:
    """Patch directions of all toy sets, and their parts along and across the tested set's own, for one tested set."""
    plan, own_variant = defaultdict(list), directions.variant_of(test)
    for name in GENERAL_SETS:
        variant = directions.variant_of(name)
        for method in GENERAL_METHODS if variant else ():
            own = directions.frames(method, test, own_variant)
            for layer, frame in directions.frames(method, name, variant).items():
                entry = Entry(variant, method, 1, name, layer)
                plan[layer].append((entry, Patch(frame)))
                parts = resolve(frame[:, 0], own[layer][:, 0]) if layer in own else ()
                for projection, part in zip(("para", "ortho"), parts, strict=False):
                    # v v' of a part that is no unit vector is |v|^2 times the projection on it; a direction's rest across
                    # itself is rounding alone, and no direction.
                    size = 0.0 if name == test and projection == "ortho" else float(part.square().sum())
                    patch = Patch(unit(part)[:, None] if size else frame, size)
                    plan[layer].append((entry._replace(projection=projection), patch))
    return dict(plan)
