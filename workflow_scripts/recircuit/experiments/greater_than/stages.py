"""E2, E4 and E5: iterative path patching, base clean, patch 01: what the logits, the late MLPs and the circuit's heads hear.

Each stage patches one sender at a time along one kind of path: ``logits`` (directly), ``m11`` (into one MLP's input at the end,
whose change then travels through later MLPs), ``v``, ``k``, ``q`` (into one input of the circuit's heads, which write to the
logits and to the late MLPs), ``low_m3`` (into a low MLP at YY, and from there into the heads' values).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model, mlp
from recircuit.core.nodes import Node
from recircuit.experiments.greater_than.setting import Data, Log, Pair, Setting, senders
from recircuit.methods.end_paths import delta, enters_mlp, key_change, query_change, through_mlps, value_change

INPUTS: Mapping[str, Callable] = {"v": value_change, "k": key_change, "q": query_change}
Changed = tuple[Node, Tensor]  # a sender and the final stream [n d] when it is patched


def sender_delta(model: Model, pair: Pair, node: Node, position: str) -> Tensor:
    """Return how a sender's write at a position changes from the clean run to the 01 run, [n d]."""
    if node.kind == "embed":
        return pair.bad.at[position].pre[0] - pair.good.at[position].pre[0]
    return delta(model, pair.good.at[position], pair.bad.at[position], node.layer, node.head)


def level(node: Node) -> int:
    """Return a sender's layer, -1 for the token embedding."""
    return -1 if node.layer is None else node.layer


def logits_stage(model: Model, pair: Pair, nodes: Iterable[Node]) -> Iterator[Changed]:
    """Yield the final stream when a sender's change goes to the logits alone."""
    for node in nodes:
        yield node, pair.good.at["end"].final + sender_delta(model, pair, node, "end")


def mlp_stage(model: Model, pair: Pair, nodes: Iterable[Node], receiver: int) -> Iterator[Changed]:
    """Yield the final stream when a sender's change enters one MLP at the end, and that MLP's all later ones and the logits."""
    later = range(receiver, model.spec.n_layers)
    for node in nodes:
        yield node, through_mlps(model, pair.good.at["end"], later, {receiver: sender_delta(model, pair, node, "end")})


def after_heads(model: Model, pair: Pair, changes: Mapping[Node, Tensor], late_mlps: Sequence[int]) -> Tensor:
    """Return the final stream when heads at the end change: directly, and through the late MLPs that read them."""
    enters = {}
    for layer in late_mlps:
        heard = [change for node, change in changes.items() if enters_mlp(model, node.layer, layer)]
        if heard:
            enters[layer] = sum(heard)
    return through_mlps(model, pair.good.at["end"], late_mlps, enters, sum(changes.values()))


def input_stage(
    model: Model, pair: Pair, nodes: Iterable[Node], which: str, heads: Sequence[Node], late_mlps: Sequence[int]
) -> Iterator[Changed]:
    """Yield the final stream when a sender's change reaches the circuit's heads through their ``which`` input alone.

    Values and keys hear the senders at YY, queries those at the end (the authors' query stage used YY, which no query hears).
    """
    position = "end" if which == "q" else "yy"
    for node in nodes:
        d = sender_delta(model, pair, node, position)
        changes = {
            head: INPUTS[which](model, pair.good, head.layer, head.head, d) for head in heads if head.layer > level(node)
        }
        yield node, after_heads(model, pair, changes, late_mlps) if changes else pair.good.at["end"].final


def low_mlp_stage(
    model: Model, pair: Pair, nodes: Iterable[Node], receiver: int, heads: Sequence[Node], late_mlps: Sequence[int]
) -> Iterator[Changed]:
    """Yield the final stream when a sender at YY is heard by one low MLP there, and that by the values of the heads."""
    run = pair.good.at["yy"]
    for node in nodes:
        change = mlp(model, receiver, run.reads[receiver] + sender_delta(model, pair, node, "yy")) - run.out[receiver]
        changes = {h: value_change(model, pair.good, h.layer, h.head, change) for h in heads if h.layer > receiver}
        yield node, after_heads(model, pair, changes, late_mlps) if changes else pair.good.at["end"].final


# ---- tables ---------------------------------------------------------------------------------------------------------

Stage = Callable[[Pair], Iterator[Changed]]


def run_stages(setting: Setting, data: Data, stages: Mapping[str, tuple[str, Stage]]) -> pd.DataFrame:
    """Run stages (name -> position of the senders, stage) over a data set; rows of the table ``ipp``, eligible senders only."""
    scores: dict[tuple[str, Node], list[tuple[Tensor, Tensor]]] = {}
    base: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode():
        for pair in setting.pairs(data):
            before = setting.score(pair.good.at["end"].final, pair.yy, pair.direction)[:2]
            base.append(before)
            for name, (_, stage) in stages.items():
                for nodes, finals in grouped(stage(pair)):
                    pd_, cs, _ = setting.score(finals, pair.yy, pair.direction)
                    for i, node in enumerate(nodes):
                        scores.setdefault((name, node), []).append((pd_[i] - before[0], cs[i] - before[1]))
    baseline = float(torch.cat([part[0] for part in base]).double().mean())
    rows = []
    for (name, node), parts in scores.items():
        changes, sharp = (torch.cat(column).double().cpu().numpy() for column in zip(*parts, strict=True))
        rows.append(ipp_row(data.name, name, node, stages[name][0]) | _effect(changes, sharp) | {"baseline_pd": baseline})
    return pd.DataFrame(rows).astype({"sender_head": "Int16"})


def grouped(changed: Iterable[Changed], size: int = 16) -> Iterator[tuple[list[Node], Tensor]]:
    """Yield senders and their final streams [s n d] in groups, so that the unembedding is one product."""
    nodes, finals = [], []
    for node, final in changed:
        nodes.append(node)
        finals.append(final)
        if len(nodes) == size:
            yield nodes, torch.stack(finals)
            nodes, finals = [], []
    if nodes:
        yield nodes, torch.stack(finals)


def ipp_row(dataset: str, stage: str, node: Node, position: str) -> dict:
    """Return the key columns of a row of ``ipp``."""
    kind = {"attn": "head"}.get(node.kind, node.kind)
    key = {"dataset": dataset, "stage": stage, "sender": str(node), "sender_kind": kind, "sender_layer": level(node)}
    return key | {"sender_head": node.head, "sender_pos": position.upper(), "eligible": True}


def _effect(changes: np.ndarray, sharp: np.ndarray) -> dict:
    sem = changes.std(ddof=1) / len(changes) ** 0.5 if len(changes) > 1 else 0.0
    return {"delta_pd": changes.mean(), "delta_pd_sem": sem, "delta_cs": sharp.mean(), "n": len(changes)}


def third(n_layers: int) -> int:
    """Return how many MLPs the paper looks at at either end of the model: a third of the layers, two at least."""
    return min(n_layers, max(2, n_layers // 3))


def mlp_stages(model: Model, receivers: Iterable[int]) -> dict[str, tuple[str, Stage]]:
    """Return the stages into MLPs at the end position."""

    def into(receiver: int) -> Stage:
        nodes = senders(model, receiver if model.spec.parallel else receiver + 1, mlps_before=receiver)
        return lambda pair: mlp_stage(model, pair, nodes, receiver)

    return {f"m{layer}": ("end", into(layer)) for layer in receivers}


def end_stages(model: Model) -> dict[str, tuple[str, Stage]]:
    """Return the stages at the end position: the logits, and the MLPs of the last third of the layers."""
    n = model.spec.n_layers

    def into_logits(pair: Pair) -> Iterator[Changed]:
        return logits_stage(model, pair, senders(model, n))

    found: dict[str, tuple[str, Stage]] = {"logits": ("end", into_logits)}
    return found | mlp_stages(model, reversed(range(n - third(n), n)))


def input_stages(model: Model, heads: Sequence[Node], late_mlps: Sequence[int]) -> dict[str, tuple[str, Stage]]:
    """Return the stages into the circuit's heads: values and keys from YY, queries from the end, and the low MLPs at YY."""
    # The last layer's MLP at YY has no head above it that could hear it.
    token, first = Node("embed"), range(min(third(model.spec.n_layers), model.spec.n_layers - 1))
    nodes = [token, *senders(model, max((node.layer for node in heads), default=0))]

    def into(which: str) -> Stage:
        return lambda pair: input_stage(model, pair, nodes, which, heads, late_mlps)

    def into_low(receiver: int) -> Stage:
        heard = [token, *senders(model, receiver if model.spec.parallel else receiver + 1, mlps_before=receiver)]
        return lambda pair: low_mlp_stage(model, pair, heard, receiver, heads, late_mlps)

    found = {which: ("end" if which == "q" else "yy", into(which)) for which in ("v", "k", "q")}
    return found | {f"low_m{layer}": ("yy", into_low(layer)) for layer in reversed(first)}


def stage_table(setting: Setting, data: Data, stages: Mapping[str, tuple[str, Stage]], log: Log | None = None) -> pd.DataFrame:
    """Run stages and add the senders that no path reaches, with no effect and ``eligible`` false."""
    found = run_stages(setting, data, stages)
    every, have = senders(setting.model, setting.model.spec.n_layers), set(zip(found["stage"], found["sender"], strict=True))
    nothing = {"delta_pd": 0.0, "delta_pd_sem": 0.0, "delta_cs": 0.0, "n": len(data), "eligible": False}
    nothing["baseline_pd"] = found["baseline_pd"].iloc[0]
    others = [
        ipp_row(data.name, name, node, position) | nothing
        for name, (position, _) in stages.items()
        for node in every
        if (name, str(node)) not in have
    ]
    if log:
        worst = found.loc[found.groupby("stage")["delta_pd"].idxmin()]
        log("; ".join(f"{r.stage}: {r.sender} {r.delta_pd:+.3f}" for r in worst.itertuples()))
    columns = list(found.columns)
    return (
        pd.concat([found, pd.DataFrame(others, columns=columns).astype(found.dtypes)], ignore_index=True) if others else found
    )
