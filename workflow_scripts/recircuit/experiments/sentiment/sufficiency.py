"""Are the circuit's heads enough, and is the rest not? Clean heads in the corrupted run, and heads set to their mean (3.5, 8).

A condition is a set of cells (a head at a position) that carry the clean run; 0 % is the run in which no cell does, 100 % the
clean run. With base ``resample`` the others are those of the corrupted prompt; with base ``mean`` all prompts are clean and the
others write their mean over prompts: the circuit kept is its faithfulness, the complement kept its completeness.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Spec, at
from recircuit.core.stats import bootstrap_percent, stream, wilson
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.roles import DATASETS, places_of
from recircuit.experiments.sentiment.setting import Log, Setting, Toy
from recircuit.methods.ablation import mean_reference
from recircuit.methods.direction_hooks import centred, read, readout
from recircuit.methods.head_patching import Runs, among_means, into_corrupted, same_before
from recircuit.runs.budget import in_chunks

DRAWS = 20  # random circuits of each kind
BASES = ("resample", "mean")
TRIED = ("movie", "circuit")  # data sets, of one circuit
RANDOM = ("random", "random_layers")
Cell = tuple[int, int, str]  # layer, head, name of a position


@dataclass(frozen=True)
class Condition:
    """Which cells [L T H] carry the clean run, and along which frames [L d k] (None: all of it); the rest are its names."""

    node_set: str
    restriction: str
    cells: Tensor
    direction: str = "none"
    alignment: str = "none"
    frames: Tensor | None = None
    draw: int = 0

    @property
    def key(self) -> dict:
        """The columns that name it."""
        names = ("node_set", "restriction", "direction", "alignment", "draw")
        sizes = {"n_heads": int(self.cells.any(1).sum()), "n_cells": int(self.cells.sum())}
        return {name: getattr(self, name) for name in names} | sizes


# ---- cells ----------------------------------------------------------------------------------------------------------


def mask_of(cells: Sequence[Cell], toy: Toy, spec: Spec, *, everywhere: bool) -> Tensor:
    """Return cells as a mask [L T H]: at their own positions, or their heads at all positions."""
    length = toy.tokens.shape[1]
    mask = torch.zeros(spec.n_layers, length, spec.n_heads, dtype=torch.bool, device=toy.tokens.device)
    for layer, head, name in cells:
        mask[layer, slice(None) if everywhere or name == "ALL" else toy.place(name), head] = True
    return mask


def random_cells(cells: Sequence[Cell], spec: Spec, kind: str, rng: np.random.Generator) -> list[Cell]:
    """Put another head in each head's place, none twice: of the whole model, or of its own layer (``random_layers``)."""
    heads = sorted({cell[:2] for cell in cells})
    if kind == "random":
        drawn = [divmod(int(i), spec.n_heads) for i in rng.choice(spec.n_layers * spec.n_heads, len(heads), replace=False)]
    else:
        counts = {layer: sum(l == layer for l, _ in heads) for layer, _ in heads}
        drawn = [(layer, int(h)) for layer, k in counts.items() for h in rng.choice(spec.n_heads, k, replace=False)]
    other = dict(zip(heads, drawn, strict=True))
    return [(*other[cell[:2]], cell[2]) for cell in cells]


def conditions(
    cells: Sequence[Cell], toy: Toy, spec: Spec, frames: Mapping[tuple[str, str], Tensor], seed: int
) -> Iterator[Condition]:
    """Yield no cell and all cells, then the circuit, its complement and random circuits, each restricted in every way.

    ``frames`` are by direction and alignment. The complement of cells at positions is every other cell.
    """
    full = torch.ones_like(mask_of([], toy, spec, everywhere=True))
    yield Condition("none", "all", ~full)
    yield from _restricted(Condition("all", "all", full), frames)
    for restriction in ("all", "pos"):
        mask = mask_of(cells, toy, spec, everywhere=restriction == "all")
        yield from _restricted(Condition("circuit", restriction, mask), frames)
        yield from _restricted(Condition("complement", restriction, ~mask), frames)
        for kind in RANDOM if restriction == "all" else RANDOM[:1]:
            for draw in range(DRAWS):
                other = random_cells(cells, spec, kind, stream(seed, "sentiment", "random circuits", toy.name, kind, draw))
                mask = mask_of(other, toy, spec, everywhere=restriction == "all")
                yield Condition(kind, restriction, mask, draw=draw)


def _restricted(condition: Condition, frames: Mapping[tuple[str, str], Tensor]) -> Iterator[Condition]:
    yield condition
    name = "dir" if condition.restriction == "all" else "pos+dir"
    for (direction, alignment), own in frames.items():
        yield replace(condition, restriction=name, direction=direction, alignment=alignment, frames=own)


# ---- runs -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def differences(setting: Setting, toy: Toy, found: Sequence[Condition]) -> Mapping[str, Tensor]:
    """Return the logit differences [c n] of every condition, by base; each chunk of prompts is run plainly once for all."""
    model, start = setting.model, same_before(toy.tokens)
    means = mean_reference(model, toy.tokens, "position", setting.chunk).heads

    def run(rows: slice) -> Tensor:
        part = toy.pairs.rows(rows)
        runs, vectors, values = Runs.of(model, part.clean, part.corrupted, start), readout(model, part.answers), []
        for one in found:
            finals = (
                into_corrupted(model, runs, one.cells, one.frames),
                among_means(model, runs, one.cells, means, one.frames),
            )
            values.append(torch.stack([read(model, at(final, part.end - start), vectors) for final in finals]))
        return torch.stack(values, 1)

    both = torch.cat([part for _, part in in_chunks(run, len(toy), setting.chunk)], 2)
    return dict(zip(BASES, both.double().cpu(), strict=True))


def sufficiency(
    setting: Setting, dataset: str, circuit: pd.DataFrame, axes: Axes, draws: int, seed: int, log: Log
) -> pd.DataFrame:
    """Return ``se_sufficiency`` of one data set: ``draws`` resamples of the prompts for the intervals."""
    toy, cells = setting.toy(*DATASETS[dataset]), places_of(circuit, dataset)
    found = list(conditions(cells, toy, setting.model.spec, axes.frames(), seed))
    by_base = differences(setting, toy, found)
    table = pd.concat([_rows(found, by_base[base], toy, base, draws, seed) for base in BASES], ignore_index=True)
    table = table.assign(dataset=dataset, n=len(toy), p_value=_p_values(table))
    shown = table.query("metric == 'denoising' and direction == 'none' and node_set in ['circuit', 'complement']")
    heads = len({cell[:2] for cell in cells})
    log(f"{dataset}: {len(cells)} cells of {heads} heads, {len(found)} conditions with each base")
    log("; ".join(f"{r.base} {r.node_set} {r.restriction}: {r.value:.1f} %" for r in shown.itertuples()))
    return table


def _rows(found: Sequence[Condition], ld: Tensor, toy: Toy, base: str, draws: int, seed: int) -> pd.DataFrame:
    """Return three metrics of each condition; ``ld`` [c n], its first row without a clean cell, its second clean."""
    floor, full = ld[0], ld[1]
    assert (found[0].node_set, found[1].node_set, found[1].restriction) == ("none", "all", "all")
    gain, span = (ld - floor).numpy(), (full - floor).numpy()
    low, high = bootstrap_percent(gain, span, stream(seed, "sentiment", "sufficiency", toy.name, base), draws=draws)
    sign = 1.0 if float(full.mean()) >= 0 else -1.0
    # Where no head says anything a centred difference is nothing but rounding, and no flip.
    least = 1e-5 * float(full.abs().mean())
    flips = {"flips": ld * sign > 0, "flips_centred": centred(ld, toy.positive.cpu()) * sign > least}
    rows = []
    for i, one in enumerate(found):
        key = one.key | {"base": base, "mean_ld": float(ld[i].mean())}
        value = 100 * gain[i].mean() / span.mean()
        rows.append(key | {"metric": "denoising", "value": value, "ci_lo": low[i], "ci_hi": high[i]})
        for metric, hits in flips.items():
            count = int(hits[i].sum())
            ci_lo, ci_hi = wilson(count, len(toy))
            ends = {"value": 100 * count / len(toy), "ci_lo": 100 * ci_lo, "ci_hi": 100 * ci_hi}
            rows.append(key | {"metric": metric} | ends)
    return pd.DataFrame(rows)


def _p_values(table: pd.DataFrame) -> list[float]:
    """Return for each row of the circuit, undirected, how often a random one of the whole model does as well; else NaN."""
    keys = ["base", "restriction", "metric"]
    null = {key: part["value"].to_numpy() for key, part in table[table["node_set"] == "random"].groupby(keys)}
    values = []
    for row in table.itertuples():
        drawn = null.get(tuple(getattr(row, key) for key in keys))
        known = row.node_set == "circuit" and drawn is not None
        values.append((1 + int((drawn >= row.value).sum())) / (1 + len(drawn)) if known else np.nan)
    return values
