"""E1, E3, E6 on the large data sets: the full model and its circuits, example by example, then means, intervals, heatmaps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model
from recircuit.core.stats import stream
from recircuit.experiments.greater_than.circuits import Variant, YearCircuit, evaluate, variants
from recircuit.experiments.greater_than.setting import Data, Log, Setting
from recircuit.methods.years import collate, cutoff_sharpness, probability_difference, year_stats


@dataclass
class Scores:
    """Per example, in the data set's order: probability difference, sharpness [n], year probabilities [n 100], top token."""

    pd: np.ndarray
    cs: np.ndarray
    p: np.ndarray
    top: np.ndarray

    @classmethod
    def empty(cls, n: int) -> "Scores":
        """Return room for n examples."""
        return cls(np.full(n, np.nan), np.full(n, np.nan), np.full((n, 100), np.nan, np.float32), np.full(n, -1))

    def put(self, setting: Setting, final: Tensor, yy: Tensor, direction: str, rows: Tensor) -> None:
        """Score some examples' final streams."""
        p, top = year_stats(setting.model, final, setting.ids)
        where = rows.cpu().numpy()
        self.pd[where] = probability_difference(p, yy, direction).double().cpu().numpy()
        self.cs[where] = cutoff_sharpness(p, yy).double().cpu().numpy()
        self.p[where], self.top[where] = p.float().cpu().numpy(), top.cpu().numpy()


Job = tuple[str, YearCircuit, Variant]  # the circuit's name, the circuit, and how it is evaluated


def activated(model: Model, activation: str) -> Model:
    """Return the model with another activation: ``gelu_new`` as trained, or ``gelu`` (erf) as the authors' circuits had it."""
    return replace(model, spec=replace(model.spec, activation=activation))


def jobs(circuits: Mapping[str, YearCircuit], *, every: bool) -> list[Job]:
    """List what to evaluate: all variants of the first circuit, sufficiency of the others; not ``every``: E3 and E6 alone."""
    first, *others = circuits
    main = [v for v in variants() if every or (v.qkv == "ggg" and v.edge_set == "code")]
    found = [(first, circuits[first], v) for v in main]
    return found + ([(name, circuits[name], Variant("E3", "sufficiency", "code")) for name in others] if every else [])


@torch.inference_mode()
def run(setting: Setting, data: Data, work: Iterable[Job]) -> dict[str | Job, Scores]:
    """Score the clean and the 01 prompts (``clean``, ``corrupt``) and every job on each example."""
    work = list(work)
    found: dict = {key: Scores.empty(len(data)) for key in ("clean", "corrupt")}
    found |= {(job[0], job[2]): Scores.empty(len(data)) for job in work}
    for pair in setting.pairs(data):
        finals = {"clean": pair.good.at["end"].final, "corrupt": pair.bad.at["end"].final}
        finals |= {(name, variant): evaluate(setting.model, circuit, pair, variant) for name, circuit, variant in work}
        for key, final in finals.items():
            found[key].put(setting, final, pair.yy, pair.direction, pair.rows)
    return found


# ---- tables ---------------------------------------------------------------------------------------------------------


def subsets(data: Data) -> dict[str, np.ndarray]:
    """Return which examples count: all, and those whose 01 twin is well formed (``1001`` splits as 100, 1)."""
    n = len(data)
    kept = {"all": np.ones(n, bool)}
    centuries = data.rows["century"]
    if centuries.notna().all() and (centuries == 10).any() and (centuries != 10).any():
        kept["without century 10"] = (centuries != 10).to_numpy()
    return kept


def interval(values: np.ndarray, rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over examples."""
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws)
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def behaviour_tables(
    found: Mapping, data: Data, activation: str, seed: int, draws: int, year_ids: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """E1: rows of ``behaviour_examples`` and ``behaviour``, without the model."""
    examples, means = [], []
    for condition in ("clean", "corrupt"):
        s, key = found[condition], {"dataset": data.name, "activation": activation, "seed": seed, "condition": condition}
        right = _right(data)
        answer = np.searchsorted(np.sort(year_ids), s.top).clip(max=99)
        year = np.argsort(year_ids)[answer]
        valid = (year_ids[year] == s.top) & right[np.arange(len(data)), year]
        keep = data.rows[["row", "noun", "century", "yy", "pool"]].assign(**key)
        examples.append(keep.assign(pd=s.pd, cs=s.cs, year_mass=s.p.sum(1), top1_id=s.top, top1_valid=valid))
        for subset, kept in subsets(data).items():
            rng = stream(seed, "greater_than", "bootstrap", data.name, subset)
            low, high = interval(s.pd[kept], rng, draws)
            n = int(kept.sum())
            means.append(
                key
                | {"pool": data.rows["pool"].iloc[0], "subset": subset, "mean_pd": s.pd[kept].mean()}
                | {"sd_pd": s.pd[kept].std(ddof=1)}
                | {"sem_pd": s.pd[kept].std(ddof=1) / n**0.5, "mean_cs": s.cs[kept].mean(), "sd_cs": s.cs[kept].std(ddof=1)}
                | {"top1_valid": valid[kept].mean(), "ci_lo": low, "ci_hi": high, "n": n}
            )
    return pd.concat(examples, ignore_index=True), pd.DataFrame(means)


def _right(data: Data) -> np.ndarray:
    yy = data.rows["yy"].to_numpy()[:, None]
    return np.arange(100) > yy if data.direction == "gt" else np.arange(100) < yy


def circuit_table(found: Mapping, data: Data, activation: str, seed: int, draws: int) -> pd.DataFrame:
    """E3, E6: rows of ``circuit_eval``; recovery is a share of the clean run's mean, on the same examples."""
    rows = []
    for key, s in found.items():
        if isinstance(key, str):
            continue
        name, variant = key
        for subset, kept in subsets(data).items():
            full, floor, mean = (float(x.pd[kept].mean()) for x in (found["clean"], found["corrupt"], s))
            low, high = interval(s.pd[kept], stream(seed, "greater_than", "bootstrap", data.name, subset), draws)
            pool = data.rows["pool"].iloc[0] + ("" if subset == "all" else f", {subset}")
            rows.append(
                {
                    "experiment": variant.experiment,
                    "dataset": data.name,
                    "pool": pool,
                    "activation": activation,
                    "circuit": name,
                }
                | {"edge_set": variant.edge_set, "mode": variant.mode, "qkv": variant.qkv, "seed": seed, "mean_pd": mean}
                | {"sd_pd": s.pd[kept].std(ddof=1), "mean_cs": s.cs[kept].mean(), "baseline_pd": full, "floor_pd": floor}
                | {"recovery": mean / full, "norm_faithfulness": (mean - floor) / (full - floor)}
                | {"ci_lo": low, "ci_hi": high, "n": int(kept.sum())}
            )
    return pd.DataFrame(rows)


def heatmap_rows(dataset: str, kind: str, condition: str, p: np.ndarray, yy: np.ndarray) -> pd.DataFrame:
    """Return rows of ``year_heatmap``: mean probability of each year over the examples with one YY."""
    found, mean, counts = collate(p, yy)
    frame = pd.DataFrame(mean, index=found, columns=range(100)).rename_axis("yy").reset_index()
    long = frame.melt("yy", var_name="pred", value_name="prob")
    return long.assign(dataset=dataset, kind=kind, condition=condition, n=long["yy"].map(dict(zip(found, counts, strict=True))))


def heatmaps(found: Mapping, data: Data, activation: str, circuit: str) -> pd.DataFrame:
    """Return heatmaps of the clean and the 01 run and of the first circuit's E3 and E6."""
    yy, parts = data.rows["yy"].to_numpy(), []
    for key, s in found.items():
        if isinstance(key, str):
            parts.append(heatmap_rows(data.name, f"behaviour {activation}", key, s.p, yy))
        elif key[0] == circuit and key[1].edge_set == "code" and key[1].qkv == "ggg":
            parts.append(heatmap_rows(data.name, f"circuit {activation}", key[1].mode, s.p, yy))
    return pd.concat(parts, ignore_index=True)


def evaluate_all(
    setting: Setting, names: Iterable[str], circuits: Mapping[str, YearCircuit], *, seed: int, draws: int, log: Log
) -> dict[str, pd.DataFrame]:
    """E1, E3, E6 on data sets, the first one with both activations; returns the tables by name."""
    tables: dict[str, list] = {"behaviour_examples": [], "behaviour": [], "circuit_eval": [], "year_heatmap": []}
    trained = setting.model.spec.activation
    others = [a for a in ("gelu_new", "gelu") if a != trained] if trained in ("gelu_new", "gelu") else []
    for i, name in enumerate(names):
        data = setting.data(name)
        for activation in (trained, *(others if i == 0 else ())):
            here = setting.on(activated(setting.model, activation))
            found = run(here, data, jobs(circuits, every=i == 0 and activation == trained))
            examples, means = behaviour_tables(found, data, activation, seed, draws, setting.ids.cpu().numpy())
            pictures = heatmaps(found, data, activation, next(iter(circuits)))
            new = examples, means, circuit_table(found, data, activation, seed, draws), pictures
            for kind, frame in zip(tables, new, strict=True):
                tables[kind].append(frame)
            full = means.query("condition == 'clean' and subset == 'all'").iloc[0]
            log(f"{name}, {activation}: probability difference {full.mean_pd:.4f}, sharpness {full.mean_cs:.4f}, n {full.n}")
    return {kind: pd.concat(frames, ignore_index=True) for kind, frames in tables.items()}
