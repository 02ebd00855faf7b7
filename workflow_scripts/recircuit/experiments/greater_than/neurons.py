"""E8: the neurons of one late MLP: which matter, what they write, how many are needed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import unembed
from recircuit.experiments.greater_than.evaluation import heatmap_rows
from recircuit.experiments.greater_than.setting import Data, Log, Pair, Setting
from recircuit.methods.neurons import activations, swap_each, year_lens
from recircuit.methods.years import cutoff_sharpness, probability_difference

SIZES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
ROWS = 64  # prompts at once: the logits of a few neurons for all of them must fit


def chosen_layer(split: pd.DataFrame) -> int:
    """Return the layer of the late MLP with the largest direct effect (in gpt2-small the paper looks at MLP 10)."""
    return int(split.sort_values("direct").iloc[-1]["layer"])


class _Acts:
    """Activations of both runs [n f], final streams [n d] and YY, in one order."""

    def __init__(self, setting: Setting, data: Data, layer: int) -> None:
        parts = [self._one(setting, pair, layer) for pair in setting.pairs(data)]
        self.good, self.bad, self.final, self.yy = (torch.cat(column) for column in zip(*parts, strict=True))
        self.change = self.bad - self.good

    @staticmethod
    def _one(setting: Setting, pair: Pair, layer: int) -> tuple[Tensor, ...]:
        good, bad = (activations(setting.model, layer, run.at["end"].reads[layer]) for run in (pair.good, pair.bad))
        return good, bad, pair.good.at["end"].final, pair.yy


@torch.inference_mode()
def neurons(setting: Setting, data: Data, layer: int, log: Log) -> dict[str, pd.DataFrame]:
    """Return the tables ``gt_neurons``, ``gt_neuron_lens`` and ``gt_neuron_curve``."""
    acts = _Acts(setting, data, layer)
    table = _ranked(setting, acts, data.direction, layer)
    order = table.sort_values("rank")["neuron"].to_numpy(copy=True)
    best = table.sort_values("rank").iloc[0]
    log(f"m{layer}: {len(order)} neurons, the worst to lose is n{best.neuron} ({best.delta_pd:+.4f})")
    return {
        "gt_neurons": table,
        "gt_neuron_lens": _lenses(setting, acts, layer, order),
        "gt_neuron_curve": _curve(setting, acts, data.direction, layer, order),
    }


def _ranked(setting: Setting, acts: _Acts, direction: str, layer: int) -> pd.DataFrame:
    model, n, f = setting.model, *acts.good.shape
    change, square, logit = (torch.zeros(f, dtype=torch.float64, device=model.device) for _ in range(3))
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        full = _metrics(unembed(model, acts.final[rows])[None], setting.ids, acts.yy[rows], direction)
        for chosen, logits in swap_each(model, layer, acts.final[rows], acts.change[rows], group=8):
            pd_, of_logits = _metrics(logits, setting.ids, acts.yy[rows], direction)
            d = (pd_ - full[0]).double()
            change[chosen] += d.sum(1)
            square[chosen] += d.square().sum(1)
            logit[chosen] += (of_logits - full[1]).double().sum(1)
    mean = change / n
    sem = ((square / n - mean**2).clamp(min=0) * n / max(1, n - 1)).sqrt() / n**0.5
    columns = {"delta_pd": mean, "delta_pd_sem": sem, "delta_logit_pd": logit / n}
    frame = pd.DataFrame({"neuron": np.arange(f)} | {key: value.cpu().numpy() for key, value in columns.items()})
    for name, order in (("rank", frame["delta_pd"]), ("rank_abs", -frame["delta_pd"].abs())):
        frame[name] = order.rank(method="first").astype(int)
    means = {"act_good": acts.good.double().mean(0).cpu().numpy(), "act_bad": acts.bad.double().mean(0).cpu().numpy()}
    return frame.assign(layer=layer, **means)


def _metrics(logits: Tensor, ids: Tensor, yy: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    years = logits[..., ids]
    p = (years - logits.logsumexp(-1, keepdim=True)).exp()
    return probability_difference(p, yy, direction), probability_difference(years, yy, direction)


def _lenses(setting: Setting, acts: _Acts, layer: int, order: np.ndarray) -> pd.DataFrame:
    """Return what single neurons, and sums of the first k, write; and their direct effects, summed and patched together."""
    device, parts, yy = setting.model.device, [], acts.yy.cpu().numpy()
    sets = {f"rank {i + 1}": order[i : i + 1] for i in range(min(11, len(order)))}
    sets |= {f"top {k}": order[:k] for k in (10, 100, 200) if k <= len(order)}
    before = unembed(setting.model, acts.final)[:, setting.ids]
    for name, chosen in sets.items():
        index = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
        write = sum(year_lens(setting.model, layer, acts.good[:, part], part, setting.ids).sum(1) for part in index.split(16))
        together = before - unembed(setting.model, acts.final + _moved(setting, acts, layer, index))[:, setting.ids]
        lens = heatmap_rows("", "", "", write.double().cpu().numpy(), yy).rename(columns={"prob": "lens"})
        direct = heatmap_rows("", "", "", together.double().cpu().numpy(), yy)["prob"]
        parts.append(lens[["yy", "pred", "lens"]].assign(direct=direct, set=name, k=len(chosen)))
    return pd.concat(parts + _summed(parts), ignore_index=True)


def _summed(parts: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the first ten neurons' direct effects, each patched alone and then summed."""
    alone = [p for p in parts if p["set"].iloc[0].startswith("rank")][:10]
    if len(alone) < 10:
        return []
    total = alone[0][["yy", "pred"]].assign(lens=sum(p["lens"] for p in alone), direct=sum(p["direct"] for p in alone))
    return [total.assign(set="top 10 summed", k=10)]


def _moved(setting: Setting, acts: _Acts, layer: int, neurons_: Tensor) -> Tensor:
    return acts.change[:, neurons_] @ setting.model.blocks[layer].down[neurons_]


def _curve(setting: Setting, acts: _Acts, direction: str, layer: int, order: np.ndarray) -> pd.DataFrame:
    """Return the probability difference with the first k neurons at their 01 values, and with all others there, k by k."""
    index, rows = torch.from_numpy(np.ascontiguousarray(order)).to(setting.model.device), []
    for k in sorted({0, *(k for k in SIZES if k < len(order)), len(order)}):
        for mode, chosen in (("top_corrupt", index[:k]), ("only_top_clean", index[k:])):
            p = setting.score(acts.final + _moved(setting, acts, layer, chosen), acts.yy, direction)[2]
            pd_, cs = probability_difference(p, acts.yy, direction), cutoff_sharpness(p, acts.yy)
            rows.append({"mode": mode, "k": k, "pd": float(pd_.double().mean()), "cs": float(cs.double().mean())})
    return pd.DataFrame(rows)
