"""E9: does any circuit of this size do it? Random, shifted, reduced and leave-one-out circuits, each clean in a 01 model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from recircuit.core.nodes import Node, head, mlp
from recircuit.core.stats import stream
from recircuit.experiments.greater_than.circuits import YearCircuit, sufficiency_of
from recircuit.experiments.greater_than.setting import Data, Setting
from recircuit.tasks.corpus import word_data


@dataclass(frozen=True)
class Candidate:
    """A circuit to try: heads and MLPs at the end."""

    family: str
    draw: int
    heads: tuple[Node, ...]
    mlps: tuple[int, ...]


def candidates(
    circuit: YearCircuit, n_layers: int, n_heads: int, seed: int, draws: int, *, published: bool
) -> Iterator[Candidate]:
    """Yield the circuit itself, then the families of spec section 3 (E9).

    ``same_layers``: as many random heads in each layer, the circuit's MLPs. ``any_layer``: as many random heads and MLPs of the
    whole model. ``mlp_subset``: the circuit's heads with each subset of its MLPs. ``without``: one node left out. ``script``:
    the two instances of the authors' script, which only gpt2-small has.
    """
    yield Candidate("circuit", 0, circuit.heads, circuit.mlps)
    counts = [sum(n.layer == layer for n in circuit.heads) for layer in range(n_layers)]
    for draw in range(draws):
        rng = stream(seed, "greater_than", "random circuits", draw)
        same = (head(l, int(h)) for l, k in enumerate(counts) for h in rng.choice(n_heads, k, replace=False))
        yield Candidate("same_layers", draw, tuple(sorted(same)), circuit.mlps)
        anywhere = (divmod(int(i), n_heads) for i in rng.choice(n_layers * n_heads, len(circuit.heads), replace=False))
        layers = sorted(int(l) for l in rng.choice(n_layers, len(circuit.mlps), replace=False))
        yield Candidate("any_layer", draw, tuple(sorted(head(*pair) for pair in anywhere)), tuple(layers))
    every = [c for size in range(len(circuit.mlps) + 1) for c in combinations(circuit.mlps, size)]
    for draw, mlps in enumerate(every):
        yield Candidate("mlp_subset", draw, circuit.heads, mlps)
    for draw, node in enumerate([*circuit.heads, *map(mlp, circuit.mlps)]):
        heads = tuple(n for n in circuit.heads if n != node)
        yield Candidate("without", draw, heads, tuple(l for l in circuit.mlps if mlp(l) != node))
    if published:
        shifted = word_data("greater_than/circuits")["random_script_instances"]["shifted_heads"]
        yield Candidate("script", 0, tuple(sorted(head(*pair) for pair in shifted)), (10,))
        yield Candidate("script", 1, circuit.heads, (10,))


@torch.inference_mode()
def random_circuits(setting: Setting, data: Data, found: list[Candidate], shares: YearCircuit) -> pd.DataFrame:
    """Evaluate candidates; rows of ``gt_random_circuits`` with the share of the full model's probability difference.

    The circuit's row has, in ``p_value``, how often a circuit of ``any_layer`` recovers as much ((1 + hits) / (1 + draws)).
    """
    total = np.zeros((len(found), 2))
    full = 0.0
    for pair in setting.pairs(data):
        full += float(setting.score(pair.good.at["end"].final, pair.yy, pair.direction)[0].double().sum())
        for i, candidate in enumerate(found):
            final = sufficiency_of(setting.model, pair, candidate.heads, candidate.mlps)
            pd_, cs, _ = setting.score(final, pair.yy, pair.direction)
            total[i] += [float(pd_.double().sum()), float(cs.double().sum())]
    means = total / len(data)
    rows = [
        {"family": c.family, "draw": c.draw, "heads": " ".join(map(str, c.heads)), "mlps": " ".join(f"m{l}" for l in c.mlps)}
        | {"shared_heads": len(set(c.heads) & set(shares.heads)), "shared_mlps": len(set(c.mlps) & set(shares.mlps))}
        | {"pd": pd_, "cs": cs, "recovery": pd_ / (full / len(data))}
        for c, (pd_, cs) in zip(found, means, strict=True)
    ]
    table = pd.DataFrame(rows)
    others = table.loc[table["family"] == "any_layer", "recovery"].to_numpy()
    table["p_value"] = np.nan
    table.loc[table["family"] == "circuit", "p_value"] = _p_value(table.iloc[0]["recovery"], others)
    return table


def _p_value(ours: float, others: np.ndarray) -> float:
    return float((1 + (others >= ours).sum()) / (1 + len(others)))


def summary(table: pd.DataFrame) -> Mapping[str, float]:
    """Return the mean recovery of each family."""
    return table.groupby("family")["recovery"].mean().to_dict()
