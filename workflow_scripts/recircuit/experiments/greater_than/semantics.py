"""E7: what the circuit's heads attend to, what its heads and MLPs write, and how much of it goes to the logits directly."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model, layer_norm
from recircuit.core.nodes import Node, mlp
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.circuits import YearCircuit
from recircuit.experiments.greater_than.evaluation import heatmap_rows
from recircuit.experiments.greater_than.setting import Data, Log, Pair, Setting
from recircuit.experiments.greater_than.stages import sender_delta
from recircuit.methods.end_paths import full_patterns, pattern_row, through_mlps, write_of

LENSES = ("own_ln", "frozen_ln", "raw")


def lens(model: Model, kind: str, write: Tensor, final: Tensor, ids: Tensor) -> Tensor:
    """Return the years' logits of a write [n d] alone: [n 100].

    ``own_ln`` feeds it to the final norm as the authors do, ``frozen_ln`` divides by the whole stream's deviation, ``raw``
    unembeds it as it is.
    """
    u, norm = model.unembedding[ids].T, model.final_norm
    if kind == "own_ln":
        return layer_norm(norm, write, model.spec.eps) @ u
    if kind == "raw":
        return write @ u
    centred = write if norm.bias is None else write - write.mean(-1, keepdim=True)
    whole = final if norm.bias is None else final - final.mean(-1, keepdim=True)
    scale = (whole.square().mean(-1, keepdim=True) + model.spec.eps).sqrt()
    return (centred / scale * norm.weight) @ u


class _Means:
    """Means over examples with one YY, gathered chunk by chunk."""

    def __init__(self, n: int) -> None:
        self.n, self.values = n, {}

    def put(self, key, values: Tensor, rows: Tensor) -> None:
        room = self.values.setdefault(key, np.full((self.n, values.shape[-1]), np.nan))
        room[rows.cpu().numpy()] = values.double().cpu().numpy()


@torch.inference_mode()
def semantics(setting: Setting, data: Data, circuit: YearCircuit, tokenizer: Tokenizer, log: Log) -> dict[str, pd.DataFrame]:
    """Return the tables ``gt_attention``, ``gt_attention_yy``, ``gt_lens`` and ``mlp_split``."""
    lenses = _Means(len(data))
    patterns, split = _Means(len(data)), {l: [] for l in circuit.mlps}
    base = []
    for pair in setting.pairs(data):
        base.append(setting.score(pair.good.at["end"].final, pair.yy, pair.direction)[0])
        for node in (*circuit.heads, *map(mlp, circuit.mlps)):
            _put_lenses(setting, pair, node, lenses)
        for node in circuit.heads:
            for side in ("good", "bad"):
                patterns.put((str(node), side), pattern_row(getattr(pair, side), node.layer, node.head), pair.rows)
        for layer in circuit.mlps:
            split[layer].append(_split(setting, pair, layer))
    yy, baseline = data.rows["yy"].to_numpy(), float(torch.cat(base).double().mean())
    tables = {
        "gt_lens": _lens_table(lenses, yy),
        "mlp_split": _split_table(split, baseline, len(data)),
        "gt_attention": _attention(setting, data, circuit, tokenizer),
        "gt_attention_yy": _attention_yy(patterns, data, circuit),
    }
    for row in tables["mlp_split"].itertuples():
        log(f"m{row.layer}: direct {100 * row.direct:.1f} %, indirect {100 * row.indirect:.1f} % of the baseline")
    return tables


def _put_lenses(setting: Setting, pair: Pair, node: Node, lenses: _Means) -> None:
    model, end = setting.model, pair.good.at["end"]
    write = write_of(model, end, node.layer, node.head)
    for kind in LENSES:
        lenses.put(("lens", str(node), kind), lens(model, kind, write, end.final, setting.ids), pair.rows)
    before, after = (
        layer_norm(model.final_norm, x, model.spec.eps) @ model.unembedding[setting.ids].T
        for x in (end.final, end.final + sender_delta(model, pair, node, "end"))
    )
    lenses.put(("direct", str(node), "none"), before - after, pair.rows)


def _lens_table(lenses: _Means, yy: np.ndarray) -> pd.DataFrame:
    parts = []
    for (kind, component, name), values in lenses.values.items():
        rows = heatmap_rows("", "", "", values, yy).rename(columns={"prob": "value"})
        parts.append(rows.drop(columns=["dataset", "condition", "kind"]).assign(kind=kind, component=component, lens=name))
    return pd.concat(parts, ignore_index=True)


def _split(setting: Setting, pair: Pair, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probability difference when an MLP's 01 write goes to the logits alone, to all later MLPs alone, to both."""
    model, end = setting.model, pair.good.at["end"]
    d, later = sender_delta(model, pair, mlp(layer), "end"), range(layer + 1, model.spec.n_layers)
    enters = dict.fromkeys(later, d)
    finals = end.final + d, through_mlps(model, end, later, enters), through_mlps(model, end, later, enters, d)
    return tuple(setting.score(x, pair.yy, pair.direction)[0] for x in finals)


def _split_table(split: Mapping[int, list], baseline: float, n: int) -> pd.DataFrame:
    rows = []
    for layer, parts in split.items():
        means = [float(torch.cat(column).double().mean()) for column in zip(*parts, strict=True)]
        direct, indirect, total = ((baseline - mean) / baseline for mean in means)
        rows.append({"layer": layer, "direct": direct, "indirect": indirect, "total": total, "n": n})
    return pd.DataFrame(rows)


def _attention(setting: Setting, data: Data, circuit: YearCircuit, tokenizer: Tokenizer) -> pd.DataFrame:
    """Return mean and deviation of the whole pattern of each head, over the clean prompts."""
    texts, rows = tokenizer.decode(data.rows["clean_ids"].iloc[0]), []
    total: dict[Node, Tensor | float] = dict.fromkeys(circuit.heads, 0.0)
    squares: dict[Node, Tensor | float] = dict.fromkeys(circuit.heads, 0.0)
    for start in range(0, len(data), setting.chunk):
        found = full_patterns(setting.model, data.good[start : start + setting.chunk], circuit.heads)
        for node, pattern in found.items():
            total[node] = total[node] + pattern.double().sum(0)
            squares[node] = squares[node] + pattern.double().square().sum(0)
    for node in circuit.heads:
        mean = total[node] / len(data)
        sd = (squares[node] / len(data) - mean**2).clamp(min=0).sqrt()
        for q in range(mean.shape[0]):
            for k in range(q + 1):
                key = {"head": str(node), "query_pos": q, "key_pos": k, "q_token": texts[q], "k_token": texts[k]}
                rows.append(key | {"mean": float(mean[q, k]), "sd": float(sd[q, k])})
    return pd.DataFrame(rows)


def _attention_yy(patterns: _Means, data: Data, circuit: YearCircuit) -> pd.DataFrame:
    """Return each head's attention from the end to YY by YY, with YY = 01 from the 01 prompts."""
    yy, place, parts = data.rows["yy"].to_numpy(), data.rows["yy_pos"].to_numpy(), []
    for node in circuit.heads:
        good, bad = (patterns.values[str(node), side][np.arange(len(yy)), place] for side in ("good", "bad"))
        frame = pd.DataFrame({"yy": np.r_[yy, np.ones_like(yy)], "value": np.r_[good, bad]})
        means = frame.groupby("yy")["value"].agg(mean="mean", n="size").reset_index()
        parts.append(means.assign(head=str(node)))
    return pd.concat(parts, ignore_index=True)
