"""E7, representations: principal components of what the circuit reads and writes, and what is left when YY is erased from it.

The erasure is a reconstruction: the paper reports one outcome and there is no code. A site's activation at the end is erased,
the change goes on through the late MLPs and to the logits, and the heads keep their clean output.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import mlp as run_mlp
from recircuit.core.nodes import Node, head
from recircuit.experiments.greater_than.circuits import YearCircuit
from recircuit.experiments.greater_than.setting import Data, Log, Pair, Setting
from recircuit.experiments.greater_than.stages import after_heads
from recircuit.methods.components import principal_components
from recircuit.methods.end_paths import write_of
from recircuit.methods.erasure import Eraser, leace, linear_r2, one_hot, remove_components

PUBLISHED_HEAD, PUBLISHED_CONTROL = head(7, 10), head(7, 8)
ERASED = 2000  # prompts of D10k to erase YY on: twenty of each value are enough, and all of them cost a sixth of the paper


def shown_head(nodes: pd.DataFrame) -> Node:
    """Return the head whose representation is shown: a7.h10 as published, else the one with the largest effect."""
    heads = nodes[nodes["role"] == "late_head"]
    if (nodes["source"] == "published").all():
        return PUBLISHED_HEAD
    return Node.parse(heads.sort_values(["score", "node"]).iloc[0]["node"])


def control_head(nodes: pd.DataFrame, n_layers: int, n_heads: int) -> Node:
    """Return a head beside it that is not in the circuit: a7.h8 as published, else of the same layer or the nearest one."""
    if (nodes["source"] == "published").all():
        return PUBLISHED_CONTROL
    chosen, shown = set(nodes["node"]), shown_head(nodes)
    free = [head(l, h) for l in range(n_layers) for h in range(n_heads) if str(head(l, h)) not in chosen]
    return min(free or [shown], key=lambda node: (abs(node.layer - shown.layer), node))


# ---- principal components -------------------------------------------------------------------------------------------


@torch.inference_mode()
def components(setting: Setting, data: Data, nodes: pd.DataFrame) -> pd.DataFrame:
    """Return ``gt_pca``: two components per site on one prompt per YY (D97, no end-of-text token in front)."""
    model, circuit, found = setting.model, YearCircuit.of(nodes), {}
    shown, first = shown_head(nodes), min(circuit.mlps)
    control = control_head(nodes, model.spec.n_layers, model.spec.n_heads)
    for pair in setting.pairs(data):
        end = pair.good.at["end"]
        parts = {
            f"m{first} input": end.reads[first],
            f"{shown}": write_of(model, end, shown.layer, shown.head),
            f"{control} (control)": write_of(model, end, control.layer, control.head),
            "embedding at YY": pair.good.at["yy"].pre[0],
        }
        for site, values in parts.items():
            found.setdefault(site, []).append((pair.rows, values))
    rows, yy = [], data.yy
    for site, chunks in found.items():
        order = torch.cat([rows_ for rows_, _ in chunks])
        pca = principal_components(torch.cat([v for _, v in chunks]), 2, yy[order])
        for (a, b), y in zip(pca.scores.tolist(), yy[order].tolist(), strict=True):
            ratios = {"evr1": float(pca.ratios[0]), "evr2": float(pca.ratios[1])}
            rows.append({"site": site, "yy": y, "pc1": a, "pc2": b} | ratios)
    return pd.DataFrame(rows)


# ---- erasure --------------------------------------------------------------------------------------------------------


def site_values(setting: Setting, data: Data, circuit: YearCircuit, shown: Node) -> dict[str, Tensor]:
    """Return the activations at the end of every site, [n d], in the order in which ``pairs`` goes; and their YY."""
    model, parts = setting.model, {}
    for pair in setting.pairs(data):
        end = pair.good.at["end"]
        values = {f"m{l}": end.reads[l] for l in circuit.mlps}
        values |= {str(shown): write_of(model, end, shown.layer, shown.head), "yy": pair.yy}
        for site, value in values.items():
            parts.setdefault(site, []).append(value)
    return {site: torch.cat(values) for site, values in parts.items()}


def erasers(values: Tensor, yy: Tensor) -> dict[str, Eraser]:
    """Fit both ways: away with the first two principal components, and LEACE of the 97 values of YY."""
    pca = principal_components(values, 2)
    return {"pca2": remove_components(pca.mean, pca.axes), "leace": leace(values, one_hot(yy))}


def erased_final(setting: Setting, pair: Pair, at: Mapping[int, Eraser], circuit: YearCircuit) -> Tensor:
    """Return the final stream [n d] when the inputs of some late MLPs are erased; each reads the changes of those before it."""
    end, total = pair.good.at["end"], 0.0
    for layer in circuit.mlps:
        x = end.reads[layer] + total
        if layer in at:
            x = at[layer](x)
        total = total + run_mlp(setting.model, layer, x) - end.out[layer]
    return end.final + total


@torch.inference_mode()
def erasure(setting: Setting, data: Data, nodes: pd.DataFrame, log: Log) -> pd.DataFrame:
    """Return ``gt_erasure``: the probability difference with YY erased at each late MLP's input, at all, at a head's output."""
    circuit, shown = YearCircuit.of(nodes), shown_head(nodes)
    values = site_values(setting, data, circuit, shown)
    yy = values.pop("yy")
    fitted = {site: erasers(x, yy) for site, x in values.items()}
    jobs = {(method, site): {site: fitted[site][method]} for method in ("pca2", "leace") for site in values}
    late = [f"m{l}" for l in circuit.mlps]
    jobs |= {(method, "all late MLPs"): {site: fitted[site][method] for site in late} for method in ("pca2", "leace")}
    scores = {key: [] for key in ("clean", *jobs)}
    for pair in setting.pairs(data):
        finals = {"clean": pair.good.at["end"].final}
        finals |= {key: _final(setting, pair, chosen, circuit, shown) for key, chosen in jobs.items()}
        for key, final in finals.items():
            scores[key].append(torch.stack(setting.score(final, pair.yy, pair.direction)[:2]))
    means = {key: torch.cat(parts, 1).double().mean(1).tolist() for key, parts in scores.items()}
    return pd.DataFrame(list(_rows(jobs, means, values, yy, len(data), log)))


def _final(setting: Setting, pair: Pair, chosen: Mapping[str, Eraser], circuit: YearCircuit, shown: Node) -> Tensor:
    if str(shown) in chosen:
        write = write_of(setting.model, pair.good.at["end"], shown.layer, shown.head)
        return after_heads(setting.model, pair, {shown: chosen[str(shown)](write) - write}, circuit.mlps)
    return erased_final(setting, pair, {int(site[1:]): eraser for site, eraser in chosen.items()}, circuit)


def _rows(jobs: Mapping, means: Mapping, values: Mapping[str, Tensor], yy: Tensor, n: int, log: Log) -> Iterator[dict]:
    for (method, site), chosen in jobs.items():
        pd_, cs = means[method, site]
        before, after = np.nan, np.nan
        if site in values:
            x = values[site].double()
            before, after = linear_r2(x, yy), linear_r2(chosen[site](x), yy, x)
        log(f"{method} at {site}: probability difference {means['clean'][0]:.3f} -> {pd_:.3f}")
        row = {"method": method, "site": site, "pd": pd_, "cs": cs, "baseline_pd": means["clean"][0], "n": n}
        yield row | {"r2_before": before, "r2_after": after}
