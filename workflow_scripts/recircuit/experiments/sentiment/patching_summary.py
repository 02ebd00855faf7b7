"""Tables of directional patching: percentages with intervals, the best layer by three rules, null distributions (3.0, 3.4, 8).

All is made of logit differences per prompt: of three metrics each prompt has a score, and a percentage is the part of the gap
between the mean scores of corrupted and clean prompts that patching closes. Prompts have equal weights, and intervals are over
pairs of prompts.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from recircuit.core.stats import bootstrap_percent, stream
from recircuit.experiments.sentiment.patching import Outcome, Tested
from recircuit.experiments.sentiment.patching_plans import NULL, SHUFFLED
from recircuit.experiments.sentiment.setting import Log
from recircuit.methods.direction_hooks import centred, denoising
from recircuit.methods.directions import p_value

METRICS = ("logit_diff", "logit_flip", "logit_flip_uncentred")
LEAST_RESAMPLES = 0.9  # of all, in which a percentage is defined; with fewer there is no interval
GROUP = ["variant", "eval_set", "scaffold", "split", "method"]


# ---- scores and percentages -----------------------------------------------------------------------------------------


def scores(differences: np.ndarray, positive: np.ndarray, metric: str) -> np.ndarray:
    """Return each prompt's score [*b n]: the logit difference, or 1 where it is above 0, centred over all prompts or not."""
    if metric == "logit_diff":
        return differences
    if metric == "logit_flip":
        differences = centred(torch.from_numpy(differences), torch.from_numpy(positive)).numpy()
    return (differences > 0).astype(float)


def percentages(patched: np.ndarray, clean: np.ndarray, corrupted: np.ndarray) -> np.ndarray:
    """Return the part of the gap that is closed, [m], of scores [m n] and [n]; NaN where there is no gap."""
    if clean.mean() == corrupted.mean():
        return np.full(len(patched), np.nan)
    return denoising(*(torch.from_numpy(part) for part in (patched, clean, corrupted))).numpy()


def intervals(
    outcome: Outcome, layer: int, metric: str, chosen: np.ndarray, rng: np.random.Generator, draws: int
) -> np.ndarray:
    """Return 95 % bootstrap intervals over pairs, [2 c], of some patches of a layer; NaN where too few resamples have a gap."""
    pairs, member = np.unique(outcome.unit, return_inverse=True)
    patched, runs = outcome.patched[layer][chosen], (outcome.clean, outcome.corrupted)
    if metric == "logit_diff":
        whole, part = runs[0] - runs[1], patched - runs[1]
        sums = np.zeros((len(part) + 1, len(pairs)))
        np.add.at(sums.T, member, np.vstack([part, whole]).T)
        return np.stack(bootstrap_percent(sums[:-1], sums[-1], rng, draws=draws))
    weights = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=draws)[:, member].astype(float)
    clean, corrupted, *found = (resampled_accuracy(row, outcome.positive, weights, metric) for row in (*runs, *patched))
    gap = clean - corrupted
    usable = gap != 0
    if usable.mean() < LEAST_RESAMPLES:
        return np.full((2, len(found)), np.nan)
    percents = 100 * (np.array(found)[:, usable] - corrupted[usable]) / gap[usable]
    return np.quantile(percents, (0.025, 0.975), axis=1)


def resampled_accuracy(differences: np.ndarray, positive: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """Return the share of prompts with a positive logit difference in each resample, [draws], from weights [draws n].

    ``logit_flip``: centred in each resample anew.
    """
    signs, total = np.where(positive, 1.0, -1.0), weights.sum(1)
    bias = (weights @ (signs * differences) / total if metric == "logit_flip" else np.zeros(len(weights)))[:, None]
    return (weights * (differences - signs * bias > 0)).sum(1) / total


# ---- tables ---------------------------------------------------------------------------------------------------------


def patching_table(tested: Tested, seed: int, draws: int) -> pd.DataFrame:
    """Return the rows of ``se_patching`` for prompts of one kind; draws of null distributions have no interval."""
    outcome, facts, parts = tested.outcome, _facts(tested), []
    for layer, entries in tested.plan.items():
        rows = pd.DataFrame([entry._asdict() for entry, _ in entries]).assign(**facts, layer=layer, share=outcome.share[layer])
        single = (rows["draw"] < 0).to_numpy()
        for metric in METRICS:
            patched, clean, corrupted = (
                scores(part, outcome.positive, metric) for part in (outcome.patched[layer], outcome.clean, outcome.corrupted)
            )
            bounds = np.full((2, len(rows)), np.nan)
            # The same resamples for all layers and metrics.
            rng = stream(seed, "patching", *map(str, facts.values()))
            bounds[:, single] = intervals(outcome, layer, metric, single, rng, draws)
            found = {"value": percentages(patched, clean, corrupted), "clean": clean.mean(), "corrupted": corrupted.mean()}
            found |= {"patched": patched.mean(1), "ci_lo": bounds[0], "ci_hi": bounds[1]}
            parts.append(rows.assign(metric=metric, n=len(clean), **found))
    return pd.concat(parts, ignore_index=True)


def _facts(tested: Tested) -> dict[str, str]:
    facts = {"eval_set": tested.eval_set, "scaffold": tested.scaffold, "split": tested.split}
    return facts if tested.variant is None else facts | {"variant": tested.variant}


def prompts_table(tested: Tested) -> pd.DataFrame:
    """Return the rows of ``se_patching_prompts``: directions fitted on the movie prompts, each at its own layer."""
    outcome, parts = tested.outcome, []
    for layer, entries in tested.plan.items():
        for (entry, _), patched in zip(entries, outcome.patched[layer], strict=True):
            if is_plain(entry._asdict() | {"layer": layer}):
                facts = {"variant": entry.variant, "method": entry.method, "layer": layer} | _facts(tested)
                columns = {"prompt_id": outcome.prompt, "label": outcome.positive.astype(int), "ld_clean": outcome.clean}
                columns |= {"ld_corrupted": outcome.corrupted, "ld_patched": patched}
                parts.append(pd.DataFrame(columns).assign(**facts))
    return pd.concat(parts, ignore_index=True)


def is_plain(rows):
    """Tell which rows of ``se_patching`` are the published patch: a movie direction at its own layer, whole, once.

    ``rows`` is the table, or one row of it as a mapping.
    """
    same = (rows["layer"] == rows["from_layer"]) & (rows["set"] == "movie") & (rows["projection"] == "none")
    return same & (rows["scale"] == 1) & (rows["draw"] == -1)


def best_table(patching: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """Return ``se_patching_best``: each method's value at one layer, which a rule finds.

    ``max``: the layer with the largest value on the very prompts and metric, the final stream included, as published.
    ``train``: for every metric that with the largest part of the logit difference on the movie prompts for training; ``dev``:
    on the reviews of dev in the same scaffold. These two leave out the final stream, which is a readout.
    """
    plain = patching[is_plain(patching) & patching["value"].notna()].sort_values("layer", ignore_index=True)
    # Which reviews are looked at does not change the directions: those are fitted on the paper's prompts.
    plain = plain.assign(fitted=plain["variant"].where(plain["scaffold"] == "toy", "paper"), readout=plain["layer"] == n_layers)
    inner = plain[(plain["metric"] == "logit_diff") & ~plain["readout"]]
    tested, parts = plain[~plain["split"].isin(("train", "dev"))], [_argmax(plain, [*GROUP, "metric"]).assign(rule="max")]
    rules = {
        "train": (inner[(inner["eval_set"] == "movie") & (inner["split"] == "train")], ["fitted", "method"]),
        "dev": (inner[(inner["split"] == "dev") & (inner["variant"] == "paper")], ["scaffold", "method"]),
    }
    for rule, (shown, keys) in rules.items():
        found = _argmax(shown, keys)[[*keys, "layer"]]
        parts.append(tested.merge(found, on=[*keys, "layer"]).assign(rule=rule))
    return pd.concat(parts, ignore_index=True)[["rule", *GROUP, "metric", "layer", "readout", "value", "ci_lo", "ci_hi", "n"]]


def _argmax(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the rows with the largest value of each group; of equal ones the lowest layer's."""
    return rows.loc[rows.groupby(keys)["value"].idxmax()] if len(rows) else rows


def null_table(patching: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_patching_null``: where each direction stands among random ones and among fits to shuffled labels.

    Subspaces of two and three dimensions are left out, since the null distributions are of one.
    """
    keys, rows = ["eval_set", "scaffold", "split", "layer", "metric"], []
    defined = patching[patching["value"].notna() & (patching["variant"] == "paper")]
    plain = defined[is_plain(defined) & (defined["d_das"] == 1)]
    draws = defined[(defined["draw"] >= 0) & defined["method"].isin((NULL, SHUFFLED))]
    for key, null in draws.groupby([*keys, "method"]):
        *where, name = key
        values = null["value"].to_numpy(copy=True)
        facts = dict(zip(keys, where, strict=True)) | {"null": name, "draws": len(values), "mean": values.mean()}
        facts |= {"sd": values.std(ddof=1) if len(values) > 1 else 0.0, "lowest": values.min(), "highest": values.max()}
        same = plain[(plain[keys] == where).all(axis=1)]
        rows += [
            facts | {"method": row.method, "value": row.value, "p": p_value(torch.from_numpy(values), row.value)}
            for row in same.itertuples()
        ]
    return pd.DataFrame(rows)


def tables(tests: Iterable[Tested], n_layers: int, seed: int, draws: int, log: Log) -> dict[str, pd.DataFrame]:
    """Return all four tables, without the column ``model``."""
    rows, prompts = [], []
    for tested in tests:
        rows.append(patching_table(tested, seed, draws))
        prompts.append(prompts_table(tested))
        log(_line(rows[-1]))
    patching = pd.concat(rows, ignore_index=True)
    return {
        "se_patching": patching,
        "se_patching_prompts": pd.concat(prompts, ignore_index=True),
        "se_patching_best": best_table(patching, n_layers),
        "se_patching_null": null_table(patching),
    }


def _line(rows: pd.DataFrame) -> str:
    """Return one line on what was patched: the method that does most."""
    first = rows.iloc[0]
    what = f"{first['eval_set']} {first['split']}, {first['scaffold']}, {first['n']} prompts"
    plain = rows[is_plain(rows) & (rows["metric"] == "logit_diff") & rows["value"].notna()]
    if not len(plain):
        return what
    top = plain.loc[plain["value"].idxmax()]
    where = f"{top['method']} ({top['variant']}) at layer {top['layer']}"
    return f"{what}: {where} gives back {top['value']:.1f} % of the logit difference"
