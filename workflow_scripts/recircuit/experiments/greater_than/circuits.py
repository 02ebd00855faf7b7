"""E1, E3 and E6: the full model, the circuit's sufficiency and necessity, and the circuit from the input to the logits.

Everything outside the circuit keeps the base run's values; the circuit's nodes carry the patch run's. Sufficiency: base 01,
patch clean. Necessity: base clean, patch 01. ``edge_set``: in ``code`` every head is heard by every late MLP above it, as in
the authors' evaluation; in ``text`` a head is heard by the late MLPs that its stage named only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model
from recircuit.core.nodes import Node, head
from recircuit.experiments.greater_than.choice import chosen
from recircuit.experiments.greater_than.setting import Pair
from recircuit.methods.end_paths import (
    Plain,
    delta,
    enters_mlp,
    head_write,
    mixed_head,
    mlp_deltas,
    rebuilt_head,
    through_mlps,
    write_of,
)
from recircuit.tasks.corpus import word_data

HeadChanges = Mapping[Node, Tensor]


@dataclass(frozen=True)
class YearCircuit:
    """Which nodes are in: heads and MLPs at the end, and below them at YY; ``heard`` restricts heads to some late MLPs."""

    heads: tuple[Node, ...]
    mlps: tuple[int, ...]
    low_heads: tuple[Node, ...] = ()
    low_mlps: tuple[int, ...] = ()
    low_mlp_heads: tuple[Node, ...] = ()
    heard: Mapping[int, frozenset[Node]] = field(default_factory=dict)
    token: bool = False  # heads hear the token at YY itself

    @classmethod
    def of(cls, table: pd.DataFrame, heard: Mapping[int, frozenset[Node]] | None = None) -> "YearCircuit":
        """Read the rows of ``gt_circuit``."""
        nodes = {role: tuple(Node.parse(n) for n in part["node"]) for role, part in table.groupby("role")}
        layers = {role: tuple(sorted(n.layer for n in nodes.get(role, ()))) for role in ("late_mlp", "low_mlp")}
        heads = (nodes.get(role, ()) for role in ("late_head", "low_head", "low_mlp_head"))
        late, low, feeding = (tuple(sorted(part)) for part in heads)
        return cls(late, layers["late_mlp"], low, layers["low_mlp"], feeding, heard or {}, "low_embed" in nodes)

    def hears(self, model: Model, layer: int, node: Node, edge_set: str) -> bool:
        """Tell whether a late MLP hears a head."""
        if not enters_mlp(model, node.layer, layer):
            return False
        return edge_set == "code" or node in self.heard.get(layer, ())


def published_edges() -> dict[int, frozenset[Node]]:
    """Return which heads each MLP hears in the paper's text."""
    listed = word_data("greater_than/circuits")["paper_camera_ready"]["head_to_mlp_per_text"]
    return {int(layer): frozenset(head(*pair) for pair in pairs) for layer, pairs in listed.items()}


def found_edges(ipp: pd.DataFrame, share: float) -> dict[int, frozenset[Node]]:
    """Return which heads each MLP hears by the rule of ``choice``."""
    stages = [s for s in ipp["stage"].unique() if s.startswith("m")]
    return {int(s[1:]): frozenset(n for n in chosen(ipp, s, share) if n.kind == "attn") for s in stages}


def with_heads(model: Model, circuit: YearCircuit, base: Plain, changes: HeadChanges, edge_set: str = "code") -> Tensor:
    """Return the final stream [n d] when the circuit's heads change: directly and through its late MLPs."""
    enters = {
        layer: sum(changes[node] for node in circuit.heads if circuit.hears(model, layer, node, edge_set))
        for layer in circuit.mlps
        if any(circuit.hears(model, layer, node, edge_set) for node in circuit.heads)
    }
    return through_mlps(model, base.at["end"], circuit.mlps, enters, sum(changes.values()) if changes else 0.0)


def head_changes(model: Model, circuit: YearCircuit, base: Plain, patch: Plain) -> dict[Node, Tensor]:
    """Return how the circuit's heads change from the base run to the patch run."""
    return {n: delta(model, base.at["end"], patch.at["end"], n.layer, n.head) for n in circuit.heads}


def mixed_changes(model: Model, circuit: YearCircuit, pair: Pair, qkv: str) -> dict[Node, Tensor]:
    """Return the heads' changes from the 01 run when q, k and v come from the runs that ``qkv`` names (g clean, b 01)."""
    q, k, v = ({"g": pair.good, "b": pair.bad}[letter] for letter in qkv)
    return {
        n: mixed_head(model, q, k, v, n.layer, n.head) - write_of(model, pair.bad.at["end"], n.layer, n.head)
        for n in circuit.heads
    }


def full_changes(model: Model, circuit: YearCircuit, base: Plain, patch: Plain) -> dict[Node, Tensor]:
    """Return the heads' changes when they hear the patch run through the low nodes at YY alone (E6).

    Low MLPs read the token and the heads named for them; keys and values read the low heads and the low MLPs, and the token
    itself where the circuit says so (the published one does not); queries are the patch run's.
    """
    low, other = base.at["yy"], patch.at["yy"]
    token = other.pre[0] - low.pre[0]
    heads = {n: delta(model, low, other, n.layer, n.head) for n in {*circuit.low_heads, *circuit.low_mlp_heads}}
    enters = {
        layer: token + sum(heads[n] for n in circuit.low_mlp_heads if enters_mlp(model, n.layer, layer))
        for layer in circuit.low_mlps
    }
    mlps = mlp_deltas(model, low, circuit.low_mlps, enters)
    found = {}
    for n in circuit.heads:
        heard = [heads[h] for h in circuit.low_heads if h.layer < n.layer] + [mlps[l] for l in mlps if l < n.layer]
        change = sum(heard, token if circuit.token else torch.zeros_like(token))
        now = rebuilt_head(model, base, patch, n.layer, n.head, change)
        found[n] = now - head_write(model, n.layer, n.head, base.at["end"].z[n.layer][:, n.head])
    return found


@dataclass(frozen=True)
class Variant:
    """One way to evaluate a circuit: its experiment, mode and edge set, and where the heads' q, k and v come from."""

    experiment: str
    mode: str
    edge_set: str
    qkv: str = "ggg"


def variants() -> Iterator[Variant]:
    """Yield all ways that the paper and its variants evaluate a circuit."""
    for edge_set in ("code", "text"):
        yield Variant("E3", "sufficiency", edge_set)
        yield Variant("E3", "necessity", edge_set)
    yield Variant("E6", "full", "code")
    for letters in product("gb", repeat=3):
        if letters != ("g", "g", "g"):
            yield Variant("E3", "sufficiency", "code", "".join(letters))


def evaluate(model: Model, circuit: YearCircuit, pair: Pair, variant: Variant) -> Tensor:
    """Return the final stream [n d] of a circuit."""
    base, patch = (pair.good, pair.bad) if variant.mode == "necessity" else (pair.bad, pair.good)
    if variant.mode == "full":
        changes: HeadChanges = full_changes(model, circuit, base, patch)
    elif variant.qkv != "ggg":
        changes = mixed_changes(model, circuit, pair, variant.qkv)
    else:
        changes = head_changes(model, circuit, base, patch)
    return with_heads(model, circuit, base, changes, variant.edge_set)


def sufficiency_of(model: Model, pair: Pair, heads: Sequence[Node], mlps: Sequence[int]) -> Tensor:
    """Return the final stream of any heads and MLPs at the end, clean in a 01 model (E9, E10)."""
    circuit = YearCircuit(tuple(heads), tuple(sorted(mlps)))
    return with_heads(model, circuit, pair.bad, head_changes(model, circuit, pair.bad, pair.good))
