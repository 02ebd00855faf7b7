"""The circuit when the direction is set to its mean behind the first block, at all positions (sentiment, spec 3.5, item 8).

Every token's projection on the direction of layer 1 becomes the mean projection of adjectives and verbs of both classes. What
then differs on negative prompts is seen in three ways: the logit difference, direct logit attribution, and noising: one
component of the ablated run at a time put into the clean one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model, at, embed
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.experiments.sentiment.axes import FIRST, Axes
from recircuit.experiments.sentiment.setting import TRAIN, Log, Setting, Toy
from recircuit.methods.component_patching import Pair, patch_heads, patch_positions
from recircuit.methods.direct_attribution import head_outputs, scaled
from recircuit.methods.direction_hooks import PromptPairs, read, readout, remove, streams
from recircuit.methods.directions import random_directions
from recircuit.methods.end_paths import Run
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import Cache, layer_step, run_with_cache

DATASET, WORDS = "movie", ("ADJ", "VRB")
RANDOM_SEED = 1  # of the null distribution; 42 is the published direction's
COLUMNS = ["kind", "component", "layer", "head", "position", "value", "change"]


@dataclass(frozen=True)
class Ablation:
    """Set the projection of the stream entering layer 1 on a unit direction [d] to a value, at all positions."""

    direction: Float[Tensor, " d"]
    value: Float[Tensor, ""]

    @classmethod
    def of(cls, direction: Tensor, words: Float[Tensor, "m d"]) -> "Ablation":
        """Take the mean projection of the streams at adjectives and verbs of both classes."""
        return cls(direction, (words @ direction).mean())

    def cache(self, model: Model, tokens: Tensor) -> Cache:
        """Run prompts with it. The stream entering layer 1 is the changed one; what block 0 wrote stays as it was."""
        layers = torch.zeros(model.spec.n_layers, model.spec.d_model, dtype=model.dtype, device=model.device)
        values = layers[:, 0].clone()
        layers[FIRST - 1], values[FIRST - 1] = self.direction, self.value
        change = remove(layers, values)  # a zero vector removes nothing
        x, entered, steps = embed(model, tokens), [], []
        for layer in range(model.spec.n_layers):
            entered.append(x)
            x, *rest = layer_step(model, layer, x)
            x = change(layer, x)
            steps.append(rest)
        return Cache((*entered, x), *map(tuple, zip(*steps, strict=True)))

    def pair(self, model: Model, pairs: PromptPairs) -> Pair:
        """Return its run as the one that is patched from, and the plain run as the one that is patched."""
        end = int(pairs.end[0])
        caches = (self.cache(model, pairs.clean), run_with_cache(model, pairs.clean))
        return Pair(*caches, readout(model, pairs.answers), 0, end + 1)


@torch.inference_mode()
def ablated_circuit(setting: Setting, axes: Axes, randoms: int, draws: int, seed: int, log: Log) -> pd.DataFrame:
    """Return ``se_ablated_circuit``: the logit difference with each direction, and with random ones, set to its mean.

    For the directions also what then happens to every component on negative prompts.
    """
    toy, model = setting.toy(*TRAIN), setting.model
    jobs = {(method, -1): own[FIRST] for method, own in axes.vectors.items()}
    drawn = random_directions(randoms, model.spec.d_model, RANDOM_SEED).to(model.tokens)
    jobs |= {("random", draw): vector for draw, vector in enumerate(drawn)}
    words = torch.cat([setting.streams_at(toy, name)[FIRST] for name in WORDS])
    plain, found = whole_differences(setting, toy, None), []
    for (method, draw), vector in jobs.items():
        ablation = Ablation.of(vector, words)
        key = {"direction": method, "draw": draw}
        ablated = whole_differences(setting, toy, ablation)
        found.append(run_rows(toy, plain, ablated, draws, seed).assign(**key))
        if draw < 0:
            negative = ~toy.positive
            parts = pd.concat([attributed(setting, toy, ablation), noised(setting, toy, ablation)], ignore_index=True)
            ends = {"ld_clean": float(plain[negative.cpu()].mean()), "ld_ablated": float(ablated[negative.cpu()].mean())}
            found.append(parts.assign(subset="negative", n=int(negative.sum()), **ends, **key))
            log(f"{method}: logit difference of negative prompts {ends['ld_clean']:.3f} -> {ends['ld_ablated']:.3f}")
    table = pd.concat(found, ignore_index=True).assign(dataset=DATASET)
    return table.astype(dict.fromkeys(("layer", "head", "position"), "Int16"))


def negative_pairs(toy: Toy) -> PromptPairs:
    """Return the negative prompts; they are their own twins."""
    pairs = toy.pairs.rows(~toy.positive)
    return replace(pairs, corrupted=pairs.clean)


def whole_differences(setting: Setting, toy: Toy, ablation: Ablation | None) -> Float[Tensor, " n"]:
    """Return the logit differences of all prompts, float64 on the CPU."""
    model, pairs = setting.model, toy.pairs

    def run(rows: slice) -> Tensor:
        part = pairs.rows(rows)
        final = streams(model, part.clean)[-1] if ablation is None else ablation.cache(model, part.clean).x[-1]
        return read(model, at(final, part.end), readout(model, part.answers))

    return torch.cat([part for _, part in in_chunks(run, len(toy), setting.chunk)]).double().cpu()


def run_rows(toy: Toy, plain: Tensor, ablated: Tensor, draws: int, seed: int) -> pd.DataFrame:
    """Return the change of the logit difference, as a fraction of it (value) and in logits, by class and over all prompts."""
    positive, rows = toy.positive.cpu(), []
    for subset, chosen in (("negative", ~positive), ("positive", positive), ("all", torch.ones_like(positive))):
        before, after = plain[chosen], ablated[chosen]
        rng = stream(seed, "sentiment", "ablated circuit", subset)
        low, high = bootstrap_percent((after - before)[None].numpy(), before.numpy(), rng, draws=draws)
        rows.append(
            {"kind": "run", "component": "all", "layer": None, "head": None, "position": None, "subset": subset,
             "value": float((after - before).mean() / before.mean()), "change": float((after - before).mean()),
             "ci_lo": low[0] / 100, "ci_hi": high[0] / 100, "ld_clean": float(before.mean()), "ld_ablated": float(after.mean()),
             "n": int(chosen.sum())}
        )  # fmt: skip
    return pd.DataFrame(rows)


# ---- components -----------------------------------------------------------------------------------------------------


def attributed(setting: Setting, toy: Toy, ablation: Ablation) -> pd.DataFrame:
    """Return direct logit attribution, clean less ablated, each by its own final norm; the sum over layers is the change.

    ``lens``: the stream entering each layer; ``attn_out``, ``mlp_out``, ``head``: writers; ``ablation``: what END lost.
    """
    model, pairs = setting.model, negative_pairs(toy)

    def run(rows: slice) -> Tensor:
        part, shares = pairs.rows(rows), []
        for cache in (run_with_cache(model, part.clean), ablation.cache(model, part.clean)):
            shares.append(shares_at_end(model, cache, part))
        return torch.cat([clean - other for clean, other in zip(*shares, strict=True)], 1)

    total = torch.cat([part for _, part in in_chunks(run, len(pairs), setting.chunk)]).double().mean(0)
    layers, heads = model.spec.n_layers, model.spec.n_heads
    names = [("lens", layer, None) for layer in range(layers + 1)] + [("ablation", FIRST, None)]
    names += [(name, layer, None) for name in ("attn_out", "mlp_out") for layer in range(layers)]
    names += [("head", layer, head) for layer in range(layers) for head in range(heads)]
    # A share of the logit difference is in logits already: value and change are the same.
    rows = [("dla", *name, None, value, value) for name, value in zip(names, total.tolist(), strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def shares_at_end(model: Model, cache: Cache, pairs: PromptPairs) -> tuple[Tensor, ...]:
    """Return what streams entering layers, the ablation, attentions, MLPs and heads add to the logit difference, each [n k]."""
    end = pairs.end
    x, mid, z, out = (torch.stack([at(part, end) for part in parts]) for parts in (cache.x, cache.mid, cache.z, cache.mlp))
    w = scaled(model, readout(model, pairs.answers), x[-1])
    heads = head_outputs(model, Run(tuple(x), tuple(mid), tuple(z), tuple(out)))  # [L H n d]
    parts = (x, (x[FIRST] - mid[FIRST - 1] - out[FIRST - 1])[None], mid - x[:-1], out, heads.flatten(0, 1))
    return tuple((part * w).sum(-1).T for part in parts)


def noised(setting: Setting, toy: Toy, ablation: Ablation) -> pd.DataFrame:
    """Return what the clean run loses when one component is the ablated run's: heads at all positions, the rest at each.

    ``value``: (patched - clean) / (clean - ablated), 0 intact, -1 as ablated; empty where the ablation changes nothing.
    """
    model, pairs = setting.model, negative_pairs(toy)
    found = [patch(model, pairs, setting.chunk, run=ablation.pair) for patch in (patch_heads, patch_positions)]
    ablated, clean = (float(part.double().mean()) for part in found[0][:2])
    rows = []
    for patched, key in zip(found, ("head", "position"), strict=True):
        for component, values in patched.patched.items():
            rows += _cells(component, values.double().mean(-1).cpu().numpy() - clean, key)
    table = pd.DataFrame(rows)
    span = clean - ablated
    return table.assign(kind="noising", value=table["change"] / span if abs(span) > 1e-9 else np.nan)[COLUMNS]


def _cells(component: str, change: np.ndarray, key: str) -> list[Mapping]:
    other = {"head": "position", "position": "head"}[key]
    return [
        {"component": component, "layer": layer, key: i, other: None, "change": float(value)}
        for layer, row in enumerate(change)
        for i, value in enumerate(row)
    ]
