"""Who does what in the circuit on ToyMovieReview: the published heads for the paper's model, else heads by a rule (spec 3.5).

Direct heads read the words of sentiment and write at END; intermediate ones read the summary at SUM; mapping heads write it
there; the tokenizer head writes at the words themselves. The rule, on the fractions of path patching (negative: it helps):

============  =========================================================================================================
direct        the four heads with the most negative path to the final stream
intermediate  three heads: the most negative product of that path and the head's mean attention from END to SUM
mapping       three heads: the most negative path from SUM to the values of the intermediate ones
tokenizer     the head of the first layer with the most negative path to the values of the direct ones
============  =========================================================================================================

Prompts without a SUM have direct and tokenizer heads alone. Tables only, no model: figures may ask too.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from recircuit.tasks.corpus import word_data

Head = tuple[int, int]  # layer, head
ROLES = ("tokenizer", "mapping", "intermediate", "direct")
WRITE_AT = {"tokenizer": ("ADJ", "VRB"), "mapping": ("SUM",), "intermediate": ("END",), "direct": ("END",)}
N_DIRECT, N_INTERMEDIATE, N_MAPPING, N_PATTERNS = 4, 3, 3, 15
FINAL = "final"
# Data sets of the circuit, by set, split and variant. Those of one template share their heads, found on the first of them.
DATASETS = {
    "movie": ("movie", "train", "paper"),
    "circuit": ("circuit", "all", "paper"),
    "movie_full": ("movie", "train", "full"),
    "classification": ("classification", "all", "paper"),
}
FOUND_ON = {"movie": "movie", "movie_full": "movie", "circuit": "movie", "classification": "classification"}
COLUMNS = ["dataset", "role", "layer", "head", "position", "source", "score"]


def published(model: str, dataset: str) -> dict:
    """Return what was published of a model's circuit on a data set (``circuit_heads.json``); empty where nothing was."""
    return word_data("sentiment/circuit_heads").get(model, {}).get(FOUND_ON[dataset], {})


def pairs(heads: Iterable[Sequence[int]]) -> list[Head]:
    """Return heads as sorted pairs."""
    return sorted((int(layer), int(head)) for layer, head, *_ in heads)


def values_of(heads: Iterable[Head]) -> str:
    """Return the name of the values of some heads as receivers, ``v: 7.1, 9.2``, lowest first."""
    return "v: " + ", ".join(f"{layer}.{head}" for layer, head in sorted(heads))


def heads_in(receivers: str) -> list[Head]:
    """Return the heads that such a name names; none for the final stream."""
    if receivers == FINAL:
        return []
    return [tuple(map(int, name.split("."))) for name in receivers.removeprefix("v: ").split(", ")]


def lowest(scores: Mapping[Head, float], n: int) -> list[Head]:
    """Return up to n heads with the most negative scores, the most negative first; none whose score is not below zero."""
    return [head for head in sorted(scores, key=lambda head: (scores[head], head)) if scores[head] < 0][:n]


def path_scores(paths: pd.DataFrame, receivers: str, position: int | None = None) -> dict[Head, float]:
    """Return each sender's effect on some receivers, from all positions or one; ``paths`` are rows of ``se_path_patching``."""
    rows = paths[paths["receivers"] == receivers]
    where = rows["sender_position"].isna() if position is None else rows["sender_position"] == position
    rows = rows[where.fillna(False).astype(bool)]
    senders = zip(rows["sender_layer"].astype(int), rows["sender_head"].astype(int), strict=True)
    return dict(zip(senders, rows["value"].astype(float), strict=True))


# ---- what is patched into ------------------------------------------------------------------------------------------


def receiver_sets(
    model: str, dataset: str, final: Mapping[Head, float], to_summary: Mapping[Head, float] | None
) -> dict[str, list[Head]]:
    """Return the sets of heads whose values are receivers: the published ones, or ``direct`` and ``intermediate`` by rule.

    ``final`` is each head's path to the final stream, ``to_summary`` its mean attention from END to SUM, where there is one.
    """
    known = published(model, dataset).get("receivers")
    if known:
        return {name: pairs(heads) for name, heads in known.items()}
    found = {"direct": lowest(final, N_DIRECT)}
    if to_summary is not None:
        found["intermediate"] = lowest({head: final[head] * to_summary[head] for head in final}, N_INTERMEDIATE)
    return {name: heads for name, heads in found.items() if heads}


# ---- roles ---------------------------------------------------------------------------------------------------------


def role_table(
    model: str,
    dataset: str,
    final: Mapping[Head, float],
    to_summary: Mapping[Head, float] | None,
    from_summary: Mapping[Head, float],
    to_direct: Mapping[Head, float],
    positions: Iterable[str],
) -> pd.DataFrame:
    """Return ``se_circuit`` of one data set: dataset, role, layer, head, position, source (published, rule), score.

    ``from_summary`` is each head's path from SUM to the values of the intermediate heads, ``to_direct`` from everywhere to
    those of the direct ones. Scores are what the rule looks at, NaN where it was not measured.
    """
    indirect = {} if to_summary is None else {head: final[head] * to_summary[head] for head in final}
    first = {head: score for head, score in to_direct.items() if head[0] == 0}
    scores = dict(zip(ROLES, (first, from_summary, indirect, final), strict=True))
    rows = []
    if roles := published(model, dataset).get("roles"):
        for role, heads in roles.items():
            for layer, head, places in heads:
                score = scores.get(role, final).get((layer, head), np.nan)
                rows += [(dataset, role, layer, head, place, "published", score) for place in places]
        return pd.DataFrame(rows, columns=COLUMNS)
    for role, n in zip(ROLES, (1, N_MAPPING, N_INTERMEDIATE, N_DIRECT), strict=True):
        for layer, head in lowest(scores[role], n):
            places = [name for name in WRITE_AT[role] if name in set(positions)] or ["ALL"]
            rows += [(dataset, role, layer, head, place, "rule", scores[role][layer, head]) for place in places]
    return pd.DataFrame(rows, columns=COLUMNS)


def heads_of(circuit: pd.DataFrame, *roles: str, dataset: str = "movie") -> list[Head]:
    """Return the heads of some roles of ``se_circuit`` (of all, if none is named), each once, lowest first."""
    rows = circuit[(circuit["dataset"] == FOUND_ON[dataset]) & (circuit["role"].isin(roles) if roles else True)]
    return sorted(set(zip(rows["layer"].astype(int), rows["head"].astype(int), strict=True)))


def places_of(circuit: pd.DataFrame, dataset: str = "movie") -> list[tuple[int, int, str]]:
    """Return every (layer, head, position) of the circuit, each once."""
    rows = circuit[circuit["dataset"] == FOUND_ON[dataset]]
    return sorted(set(zip(rows["layer"].astype(int), rows["head"].astype(int), rows["position"], strict=True)))


# ---- heads that are shown -------------------------------------------------------------------------------------------


def scatter_heads(model: str, dataset: str, circuit: pd.DataFrame) -> list[Head]:
    """Return the heads of the scatter plot: the published four, else the direct ones, or all where roles have no names."""
    known = published(model, dataset).get("scatter")
    return pairs(known) if known else heads_of(circuit, "direct", dataset=dataset) or heads_of(circuit, dataset=dataset)


def pattern_heads(model: str, dataset: str, z_effects: Mapping[Head, float]) -> list[Head]:
    """Return the heads whose attention is shown: the published fifteen, else those with the largest effects of patching z."""
    known = published(model, dataset).get("patterns")
    if known:
        return pairs(known)
    return sorted(sorted(z_effects, key=lambda head: (-abs(z_effects[head]), head))[:N_PATTERNS])
