"""E12: which heads are knocked out: those of circuits, those that circuits share, and random ones beside them.

No model here. Sets are the published ones where a model has them; else those of the node search read at the last token, a head
counting if it is left in more than half of the draws.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.tasks.corpus import word_data
from recircuit.tasks.llama_prompts import ENGLISH, LISTS

Head = tuple[int, int]  # layer, head
Heads = frozenset[Head]
CIRCUITS = "sequence_continuation/circuits_llama2_7b_chat"
N_RANDOM = 100  # heads of the control in sequences and sums; half of a model at most
N_RANDOM_WORDS = 3  # heads of the control in word problems
LIKE = "random_like_"  # controls of a set's own size: this, and the set's name
IN_WORD_PROBLEMS = frozenset({"shared", "big3", "big5"})  # sets with such controls there; elsewhere circuits and the shared


class KnockOut(NamedTuple):
    """Heads that are knocked out together: the name of their set, and which draw of a random one."""

    name: str
    draw: int
    heads: Heads


def published_sets() -> dict[str, Heads]:
    """Return the paper's sets of Llama-2-7b-chat: three circuits, the 16 heads they share, the largest three and five."""
    listed = word_data(CIRCUITS)
    named = {task: listed[task]["heads"] for task in ENGLISH}
    named |= {"shared": listed["intersection_3_english"], "big3": listed["big3"], "big5": listed["big5"]}
    return {name: frozenset(map(tuple, heads)) for name, heads in named.items()}


def found_sets(circuits: pd.DataFrame, drops: pd.DataFrame) -> dict[str, Heads]:
    """Return the same sets of a model's own circuits (tables llama_circuits and llama_drops of one variant).

    The largest three and five are the heads with the largest mean drop over the tasks and draws (0 where a head is not in a
    circuit): of the shared ones first, and of the other heads of the circuits where fewer are shared.
    """
    rows = circuits[(circuits["component"] == "head") & (circuits["share"] > 0.5)]
    sets = {task: frozenset(_pairs(rows[rows["task"] == task])) for task in ENGLISH}
    shared = frozenset.intersection(*sets.values())
    ranked = largest(drops, frozenset.union(*sets.values()))
    ranked.sort(key=lambda head: head not in shared)  # stable: by drop among those that are shared, and among the others
    return sets | {"shared": shared, "big3": frozenset(ranked[:3]), "big5": frozenset(ranked[:5])}


def largest(drops: pd.DataFrame, heads: Heads) -> list[Head]:
    """Return heads by how much the English tasks' circuits lose without them, summed over tasks and draws, worst first."""
    rows = drops[(drops["base"] == "circuit") & (drops["component"] == "head") & drops["task"].isin(ENGLISH)]
    lost = {(int(layer), int(head)): drop for (layer, head), drop in rows.groupby(["layer", "head"])["drop_pp"].sum().items()}
    return sorted(heads, key=lambda head: (lost.get(head, 0.0), head))


def _pairs(rows: pd.DataFrame) -> set[Head]:
    return set(zip(rows["layer"].astype(int), rows["head"].astype(int), strict=True))


def refuse_beyond(sets: Mapping[str, Heads], shape: tuple[int, int]) -> None:
    """Raise UserError for a head that a model of (layers, heads) does not have."""
    for name, heads in sets.items():
        beyond = sorted(head for head in heads if head[0] >= shape[0] or head[1] >= shape[1])
        if beyond:
            layer, head = beyond[0]
            raise UserError(f"the set '{name}' has head {layer}.{head}; the model has {shape[0]} layers of {shape[1]} heads")


def controls(
    sets: Mapping[str, Heads], shape: tuple[int, int], seed: int, draws: int, *, published: bool
) -> dict[str, list[KnockOut]]:
    """Return random heads, drawn anew in each draw: for sequences and sums, for word problems, and (both) of each set's size.

    Keys: ``random`` (100 heads, at most half of the model's, outside the shared ones; ``published``: the paper's 50 draws
    first), ``random_words`` (3 such heads) and ``random_like_`` with a set's name (as many heads as it has, or as there are,
    outside all circuits). A control for which no head is left is absent.
    """
    every = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    union = frozenset.union(*(sets[task] for task in ENGLISH))
    unshared, outside = ([head for head in every if head not in inside] for inside in (sets["shared"], union))
    listed = [frozenset(map(tuple, heads)) for heads in word_data(LISTS)["random_circuits_100_heads"]] if published else []
    wanted = [
        ("random", "random", unshared, min(N_RANDOM, len(every) // 2)),
        ("random_words", "random", unshared, N_RANDOM_WORDS),
    ]
    wanted += [(LIKE + name, LIKE + name, outside, len(heads)) for name, heads in sets.items() if heads]
    found = {}
    for key, name, pool, size in wanted:
        if not pool or not size:
            continue
        released = listed[:draws] if key == "random" else []
        rngs = [stream(seed, "sequence_continuation", "knockouts", key, draw) for draw in range(len(released), draws)]
        drawn = [frozenset(pool[int(i)] for i in rng.choice(len(pool), min(size, len(pool)), replace=False)) for rng in rngs]
        found[key] = [KnockOut(name, draw, heads) for draw, heads in enumerate([*released, *drawn])]
    return found


def knockouts_of(experiment: str, sets: Mapping[str, Heads], random: Mapping[str, list[KnockOut]]) -> list[KnockOut]:
    """Return what is knocked out in an experiment: nothing, every set that is not empty, and random heads.

    Heads of a set's own number stand beside the sets that the paper uses in the experiment. In qualitative prompts there is one
    random draw, and the heads of the largest three go alone as well.
    """
    chosen = [KnockOut("none", 0, frozenset()), *(KnockOut(name, 0, heads) for name, heads in sets.items() if heads)]
    if experiment == "qualitative":
        chosen += [KnockOut(f"{layer}.{head}", 0, frozenset({(layer, head)})) for layer, head in sorted(sets["big3"])]
        return chosen + random.get("random", [])[:1]
    in_words = experiment.startswith("word_problem")
    beside = IN_WORD_PROBLEMS if in_words else {*ENGLISH, "shared"}
    keys = ["random_words" if in_words else "random", *(LIKE + name for name in sets if name in beside)]
    return chosen + [knockout for key in keys for knockout in random.get(key, [])]
