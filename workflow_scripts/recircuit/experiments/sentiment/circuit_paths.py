"""Path patching from every head to the final stream and to the values of heads; the circuit's roles (spec 3.5: 3, 4, 6)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.circuit import datasets, interval, token_labels
from recircuit.experiments.sentiment.roles import (
    FINAL,
    FOUND_ON,
    Head,
    path_scores,
    receiver_sets,
    role_table,
    values_of,
)
from recircuit.experiments.sentiment.setting import Log, Setting, Toy
from recircuit.methods.attention import pattern_stats
from recircuit.methods.direction_hooks import noising, span
from recircuit.methods.head_paths import Wanted, final_paths, value_paths

BY_POSITION = ("movie", "circuit")  # data sets on which senders are also taken at each position alone
SUMMARY = "SUM"


def to_summary(setting: Setting, toy: Toy) -> dict[Head, float] | None:
    """Return each head's mean attention from END to the summary; None for prompts without one."""
    if SUMMARY not in toy.positions:
        return None
    stats = pattern_stats(setting.model, toy.tokens, setting.chunk)
    return dict(zip(stats.heads, stats.mean[:, toy.place("END"), toy.place(SUMMARY)].tolist(), strict=True))


def path_tables(
    setting: Setting, tokenizer: Tokenizer, model_name: str, draws: int, seed: int, log: Log
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``se_path_patching`` (fractions of the clean less the corrupted logit difference) and ``se_circuit``.

    Data sets of one template have the same receivers, found on the first of them or published.
    """
    paths, roles, sets = [], [], {}
    for name, toy in datasets(setting).items():
        done = final_paths(setting.model, toy.pairs, setting.chunk)
        table = _Rows(name, done.clean, done.corrupted, token_labels(tokenizer, toy), draws, seed)
        own = [table.rows(FINAL, None, done.patched["final"])]
        final, source = path_scores(own[0], FINAL), FOUND_ON[name]
        reading = to_summary(setting, toy)
        if source not in sets:
            sets[source] = receiver_sets(model_name, name, final, reading)
        wanted = wanted_paths(sets[source], toy, by_position=name in BY_POSITION)
        for (receivers, position), values in value_paths(setting.model, toy.pairs, wanted, setting.chunk).items():
            own.append(table.rows(receivers, position, values))
        paths.append(pd.concat(own))
        log(f"{name}: most to the final stream {_lowest(final)}")
        if source == name:
            roles.append(_roles(model_name, name, toy, paths[-1], final, reading, sets[name]))
            log(f"{name}: " + "; ".join(f"{role} {_named(rows)}" for role, rows in roles[-1].groupby("role", sort=False)))
    every = pd.concat(paths, ignore_index=True)
    return every.astype({"sender_position": "Int16"}), pd.concat(roles, ignore_index=True)


def wanted_paths(sets: Mapping[str, list[Head]], toy: Toy, *, by_position: bool) -> dict[str, Wanted]:
    """Return the receivers by name, and the senders' positions: all at once; the summary, into intermediate heads; each one."""
    found: dict[str, dict] = {}
    for name, heads in sets.items():
        positions = {None: None}
        if name == "intermediate" and SUMMARY in toy.positions:
            positions[toy.place(SUMMARY)] = None
        if by_position and name in ("direct", "intermediate"):
            positions |= dict.fromkeys(range(*span(toy.pairs)))
        found.setdefault(values_of(heads), {"heads": heads, "positions": {}})["positions"] |= positions
    return {name: Wanted(want["heads"], tuple(want["positions"])) for name, want in found.items()}


def _roles(
    model_name: str, name: str, toy: Toy, paths: pd.DataFrame, final: dict, reading: dict | None, sets: Mapping[str, list[Head]]
) -> pd.DataFrame:
    direct, intermediate = (values_of(sets[role]) if role in sets else "" for role in ("direct", "intermediate"))
    summary = toy.place(SUMMARY) if SUMMARY in toy.positions else None
    mapped = {} if summary is None else path_scores(paths, intermediate, summary)
    return role_table(model_name, name, final, reading, mapped, path_scores(paths, direct), toy.positions)


def _lowest(scores: Mapping[Head, float], n: int = 5) -> str:
    best = sorted(scores, key=lambda head: scores[head])[:n]
    return ", ".join(f"{layer}.{head} {scores[layer, head]:+.3f}" for layer, head in best)


def _named(rows: pd.DataFrame) -> str:
    return " ".join(dict.fromkeys(f"{row.layer}.{row.head}" for row in rows.itertuples()))


class _Rows(NamedTuple):
    """What all rows of one data set have in common: its name, plain logit differences [n], labels of positions, intervals."""

    name: str
    clean: Tensor
    corrupted: Tensor
    labels: list[str]
    draws: int
    seed: int

    def rows(self, receivers: str, position: int | None, values: Tensor) -> pd.DataFrame:
        """Return the rows of all senders, whose logit differences are ``values`` [L H n]."""
        flat, (layers, heads) = values.flatten(0, 1), (index.flatten() for index in np.indices(values.shape[:2]))
        rng = stream(self.seed, "sentiment", "circuit", "paths")
        lo, hi = interval(flat - self.clean, self.clean - self.corrupted, self.draws, rng)
        senders = {"sender_layer": layers, "sender_head": heads, "sender_position": position}
        token = None if position is None else self.labels[position]
        effect = noising(flat, self.clean, self.corrupted).cpu().numpy()
        numbers = {"value": effect, "ci_lo": lo / 100, "ci_hi": hi / 100, "ld_patched": flat.double().mean(-1).cpu().numpy()}
        return pd.DataFrame(
            {"dataset": self.name, **senders, "sender_token": token, "receivers": receivers, **numbers, "n": len(self.clean)}
        )
