"""The vocabulary of circuits: nodes, edges, circuits and path-patching conventions.

Names are those of the field: ``embed``, ``a5.h1``, ``a5.h1<q>``, ``m10``, ``m10.n2659``, ``resid7``, ``logits``; a position
follows an ``@``: ``a9.h1@end``. Positions are names that the data set resolves. Layers and heads count from 0.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import comb
from typing import Literal, Self

import numpy as np

_NODE = re.compile(
    r"(?:(?P<embed>embed)|(?P<logits>logits)|resid(?P<resid>\d+)|a(?P<attn>\d+)\.h(?P<head>\d+)(?:<(?P<input>[qkv])>)?"
    r"|m(?P<mlp>\d+)(?:\.n(?P<neuron>\d+))?)(?:@(?P<pos>\w+))?"
)


class Freeze(Enum):
    """What path patching holds at its clean value beside the patched path."""

    NOTHING = "nothing"  # everything downstream of the path is recomputed
    HEADS = "heads"  # other heads keep their clean output, MLPs are recomputed
    ALL = "all"  # other heads and MLPs keep their clean output


@dataclass(frozen=True, order=True)
class Node:
    """One component of a transformer, at all positions (``pos`` None) or at a named one."""

    kind: Literal["embed", "attn", "mlp", "resid", "logits"]
    layer: int | None = None
    head: int | None = None
    neuron: int | None = None
    input: Literal["q", "k", "v"] | None = None
    pos: str | None = None

    def __post_init__(self) -> None:
        layered = self.kind in ("attn", "mlp", "resid")
        if layered != (self.layer is not None) or (self.kind == "attn") != (self.head is not None):
            raise ValueError(f"{self.kind} node with layer {self.layer} and head {self.head}")
        if (self.neuron is not None and self.kind != "mlp") or (self.input is not None and self.kind != "attn"):
            raise ValueError(f"{self.kind} node with neuron {self.neuron} and input {self.input}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a node's name; ``Node.parse(str(node)) == node``. Raises ValueError on anything else."""
        match = _NODE.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}' is not a node; expected a name such as a5.h1, a5.h1<q>, m10, m10.n2659@end")
        found = match.groupdict()
        number = {key: int(value) for key, value in found.items() if value is not None and value.isdigit()}
        for kind in ("attn", "mlp", "resid"):
            if kind in number:
                return cls(kind, number[kind], number.get("head"), number.get("neuron"), found["input"], found["pos"])
        return cls("embed" if found["embed"] else "logits", pos=found["pos"])

    def __str__(self) -> str:
        at = f"@{self.pos}" if self.pos is not None else ""
        if self.kind == "attn":
            return f"a{self.layer}.h{self.head}" + (f"<{self.input}>" if self.input else "") + at
        if self.kind == "mlp":
            return f"m{self.layer}" + (f".n{self.neuron}" if self.neuron is not None else "") + at
        return self.kind + (str(self.layer) if self.kind == "resid" else "") + at


def head(layer: int, index: int) -> Node:
    """Return the node of an attention head."""
    return Node("attn", layer, index)


def mlp(layer: int) -> Node:
    """Return the node of an MLP."""
    return Node("mlp", layer)


@dataclass(frozen=True, order=True)
class Edge:
    """A path from a writer to a reader of the residual stream: ``a5.h1->m10``."""

    src: Node
    dst: Node

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an edge's name; ``Edge.parse(str(edge)) == edge``."""
        src, arrow, dst = text.partition("->")
        if not arrow:
            raise ValueError(f"'{text}' is not an edge; expected a name such as a5.h1->m10")
        return cls(Node.parse(src), Node.parse(dst))

    def __str__(self) -> str:
        return f"{self.src}->{self.dst}"


@dataclass(frozen=True)
class Circuit:
    """A set of heads and MLPs (and, where known, edges) that are kept; all else is ablated."""

    nodes: frozenset[Node]
    edges: frozenset[Edge] = frozenset()

    @classmethod
    def of(cls, heads: Iterable[tuple[int, int]], mlps: Iterable[int]) -> Self:
        """Build a circuit from (layer, head) pairs and MLP layers."""
        return cls(frozenset([head(*pair) for pair in heads] + [mlp(layer) for layer in mlps]))

    @classmethod
    def full(cls, n_layers: int, n_heads: int) -> Self:
        """Return all heads and MLPs of a model."""
        return cls.of(((layer, h) for layer in range(n_layers) for h in range(n_heads)), range(n_layers))

    def heads(self, layer: int | None = None) -> list[tuple[int, int]]:
        """Return the (layer, head) pairs, sorted; those of one layer when it is given."""
        pairs = sorted((n.layer, n.head) for n in self.nodes if n.kind == "attn")
        return pairs if layer is None else [pair for pair in pairs if pair[0] == layer]

    def mlps(self) -> list[int]:
        """Return the layers of the MLPs, sorted."""
        return sorted(n.layer for n in self.nodes if n.kind == "mlp")

    def without(self, node: Node) -> "Circuit":
        """Return the circuit with one node less."""
        return Circuit(self.nodes - {node}, self.edges)

    def random_like(self, n_layers: int, n_heads: int, rng: np.random.Generator, *, by_layer: bool) -> "Circuit":
        """Draw a circuit with as many heads and MLPs.

        ``by_layer`` keeps the number of heads in each layer (and so the MLPs as they are); otherwise heads and MLPs are
        drawn from the whole model.
        """
        if by_layer:
            counts = [len(self.heads(layer)) for layer in range(n_layers)]
            drawn = [(l, int(h)) for l, n in enumerate(counts) for h in rng.choice(n_heads, n, replace=False)]
            return Circuit.of(drawn, self.mlps())
        flat = rng.choice(n_layers * n_heads, len(self.heads()), replace=False)
        mlps = rng.choice(n_layers, len(self.mlps()), replace=False)
        return Circuit.of(((int(i) // n_heads, int(i) % n_heads) for i in flat), (int(i) for i in mlps))


@dataclass(frozen=True)
class Overlap:
    """How much two sets drawn from a population share; ``p_value`` is P(share >= observed) by chance."""

    n_a: int
    n_b: int
    n_shared: int
    n_union: int
    iou: float
    expected: float
    p_value: float


def overlap(a: Iterable, b: Iterable, population: int) -> Overlap:
    """Compare two sets against the hypergeometric chance level (two random subsets of ``population`` things)."""
    a, b = set(a), set(b)
    shared, union = len(a & b), len(a | b)
    ways = comb(population, len(b))
    tail = sum(comb(len(a), k) * comb(population - len(a), len(b) - k) for k in range(shared, min(len(a), len(b)) + 1))
    expected = len(a) * len(b) / population
    return Overlap(len(a), len(b), shared, union, shared / union if union else 1.0, expected, tail / ways)
