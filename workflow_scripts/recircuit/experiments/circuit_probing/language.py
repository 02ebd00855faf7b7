"""Exp. 4: masks of a language model's blocks for the number of a noun, read out and ablated, layer by layer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, at, attention, attention_out, embed, layer_norm, mlp, mlp_input
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.circuit_probing.arithmetic import COMPONENTS
from recircuit.experiments.circuit_probing.masks import columns, score
from recircuit.methods.masks import Cached, CachedAttention, CachedMlp, Mask, Recipe, random_mask, train_mask
from recircuit.runs.forward import finish, layer_step
from recircuit.runs.progress import counted

CHUNK = 100  # sentences run at once
PRICES = {128: 1e-6, 768: 1e-7, 1024: 1e-8}  # lambda by the width of the published models


def price_of(width: int) -> float:
    """Return the price of a weight: the published one of the model that is nearest in width."""
    return PRICES[min(PRICES, key=lambda known: abs(known - width))]


@dataclass(frozen=True)
class Part:
    """Sentences of one part: tokens padded on the right, the read position, labels and the two answers."""

    tokens: Int[Tensor, "n T"]
    end: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    answers: Int[Tensor, "n 2"]


def part_of(rows: pd.DataFrame, device: torch.device | str) -> Part:
    """Return a part of the table ``cp_sentences``; padding is never attended to from the read position."""
    encoded = [torch.tensor(list(ids)) for ids in rows["tokens"]]
    tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
    end = torch.tensor([len(ids) - 1 for ids in encoded])
    answers = torch.tensor(rows[["right", "wrong"]].to_numpy("int64"))
    labels = torch.tensor(rows["label"].to_numpy("int64"))
    return Part(*(part.to(device) for part in (tokens, end, labels, answers)))


def parts_of(rows: pd.DataFrame, device: torch.device | str) -> dict[str, Part]:
    """Return the parts of one task."""
    return {str(name): part_of(part.sort_values("row"), device) for name, part in rows.groupby("part", sort=False)}


class Streams:
    """The residual stream entering a layer, for every part, moved up layer by layer."""

    def __init__(self, model: Model, parts: Mapping[str, Part]) -> None:
        self.model, self.parts, self.layer = model, parts, 0
        with torch.no_grad():
            self.x = {name: embed(model, part.tokens) for name, part in parts.items()}

    @torch.no_grad()
    def up(self) -> None:
        """Move to the next layer."""
        for name, x in self.x.items():
            self.x[name] = torch.cat([layer_step(self.model, self.layer, chunk)[0] for chunk in x.split(CHUNK)])
        self.layer += 1

    @torch.no_grad()
    def block(self, name: str, component: str) -> Cached:
        """Return a block of this layer with x W computed for a part."""
        part, x = self.parts[name], self.x[name]
        make = cached_attention if component == "attn" else cached_mlp
        return make(self.model, self.layer, x, part.end)

    @torch.no_grad()
    def differences_here(self, name: str, component: str, mask: Mask) -> Float[Tensor, " n"]:
        """Return right minus wrong logit with a block's columns gated at the read position alone."""
        model, layer, part, found = self.model, self.layer, self.parts[name], []
        make = cached_attention if component == "attn" else cached_mlp
        for rows in torch.arange(len(part.end), device=part.end.device).split(CHUNK):
            x, end = self.x[name][rows], part.end[rows]
            update = make(model, layer, x, end).update_here(slice(None), mask)
            mid = at(x, end) + update if component == "attn" else stream_after_attention(model, layer, x, end)
            out = mlp(model, layer, mlp_input(model, at(x, end), mid)) if component == "attn" else update
            after = layer_step(model, layer, x)[0]
            after[torch.arange(len(end), device=end.device), end] = mid + out
            logits = finish(model, after, layer + 1, end, part.answers[rows])
            found.append(logits[:, 0] - logits[:, 1])
        return torch.cat(found).double()

    @torch.no_grad()
    def differences(self, name: str, model: Model | None = None) -> Float[Tensor, " n"]:
        """Return right minus wrong logit of each sentence; ``model`` may have another block at this layer."""
        part, found = self.parts[name], []
        for rows in torch.arange(len(part.end), device=part.end.device).split(CHUNK):
            logits = finish(model or self.model, self.x[name][rows], self.layer, part.end[rows], part.answers[rows])
            found.append(logits[:, 0] - logits[:, 1])
        return torch.cat(found).double()


def cached_attention(model: Model, layer: int, x: Float[Tensor, "n T d"], end: Int[Tensor, " n"]) -> CachedAttention:
    """Return a language model's attention block for its update at ``end``; GPT-2's shape, without rotary positions."""
    block, w = model.blocks[layer], model.blocks[layer].heads
    h = layer_norm(block.norm1, x, model.spec.eps)
    seen = torch.arange(x.shape[1], device=x.device) <= end[:, None]
    biases = (w.q_bias, w.k_bias, w.v_bias)
    return CachedAttention(at(h, end) @ w.q, h @ w.k, h @ w.v, seen, biases, w.out, block.out_bias, model.spec.n_heads)


def cached_mlp(model: Model, layer: int, x: Float[Tensor, "n T d"], end: Int[Tensor, " n"]) -> CachedMlp:
    """Return a language model's MLP for its update at ``end``."""
    block = model.blocks[layer]
    reads = layer_norm(block.norm2, mlp_input(model, at(x, end), stream_after_attention(model, layer, x, end)), model.spec.eps)
    return CachedMlp(reads @ block.up, block.up_bias, block.down, block.down_bias, model.spec.activation)


def stream_after_attention(model: Model, layer: int, x: Float[Tensor, "n T d"], end: Int[Tensor, " n"]) -> Tensor:
    """Return the stream [n d] at ``end`` after a layer's attention."""
    block = model.blocks[layer]
    return at(x, end) + attention_out(block.heads, attention(model, layer, x, end=end))[:, 0] + block.out_bias


def with_mask(model: Model, layer: int, component: str, mask: Mask, *, biases: bool = False) -> Model:
    """Return a model whose weights are scaled column by column in one block, with their biases if so wished.

    An MLP's neuron goes with its bias when the row of W_2 that it writes with is scaled.
    """
    block = model.blocks[layer]
    out_gate = mask.second if biases else torch.ones_like(mask.second)
    if component == "attn":
        w, gates = block.heads, mask.first.chunk(3)
        q, k, v = (part * gate for part, gate in zip((w.q, w.k, w.v), gates, strict=True))
        heads = w._replace(q=q, k=k, v=v, out=w.out * mask.second)
        if biases:
            q, k, v = (bias * gate for bias, gate in zip((w.q_bias, w.k_bias, w.v_bias), gates, strict=True))
            heads = heads._replace(q_bias=q, k_bias=k, v_bias=v)
        block = block._replace(heads=heads, out_bias=block.out_bias * out_gate)
    else:
        up, down = (block.up, block.down * mask.first[:, None]) if biases else (block.up * mask.first, block.down)
        block = block._replace(up=up, down=down * mask.second, down_bias=block.down_bias * out_gate)
    return replace(model, blocks=(*model.blocks[:layer], block, *model.blocks[layer + 1 :]))


@dataclass
class Found:
    """Rows of the tables of this experiment."""

    runs: list[dict]
    masks: list[pd.DataFrame]
    ablations: list[dict]


def probe_layers(
    model: Model, parts: Mapping[str, Part], recipe: Recipe, seed: int, log: Callable[[str], None], *, draws: int
) -> Found:
    """Train a mask for every layer and component of a model on one task, read it out and ablate it on every part.

    ``draws`` random circuits are ablated beside each circuit.
    """
    found, streams = Found([], [], []), Streams(model, parts)
    tested = next(name for name in parts if name.endswith("iid"))
    for name in parts:
        if name != "train":
            found.ablations += [_scored(streams.differences(name), "", -1, "vanilla", name, 0, outside=None)]
    for layer in counted(range(model.spec.n_layers), log, "layers"):
        for component in COMPONENTS:
            blocks = {"train": streams.block("train", component), "test": streams.block(tested, component)}
            labels = {"train": parts["train"].labels, "test": parts[tested].labels}
            scores = train_mask(blocks["train"], labels["train"], recipe, seed)
            hard, facts = scores.hard(), {"layer": layer, "component": component}
            found.runs.append(facts | score(blocks, labels, hard, recipe, seed))
            found.masks.append(columns(scores, component).assign(**facts))
            found.ablations += list(ablations(streams, component, hard, seed, draws))
            log(f"{component}-{layer}: KNN {found.runs[-1]['knn_test']:.3f}, kept {found.runs[-1]['kept_fraction']:.3f}")
        streams.up()
    return found


def ablations(streams: Streams, component: str, hard: Mask, seed: int, draws: int) -> Iterator[dict]:
    """Yield accuracies without the circuit and without random columns of its complement, redrawn for each draw and part.

    ``circuit`` ablates weights at all positions, as published; ``activations`` the columns' biases too, and
    ``read_position`` the columns where the mask was trained alone (spec 7.5).
    """
    model, layer, gone = streams.model, streams.layer, hard.complement()
    whole = with_mask(model, layer, component, gone)
    silent = with_mask(model, layer, component, gone, biases=True)
    for name in streams.parts:
        if name == "train":
            continue
        here = streams.differences_here(name, component, gone)
        yield _scored(streams.differences(name, whole), component, layer, "circuit", name, 0, outside=None)
        yield _scored(streams.differences(name, silent), component, layer, "activations", name, 0, outside=None)
        yield _scored(here, component, layer, "read_position", name, 0, outside=None)
        rng = torch.Generator().manual_seed(int(stream(seed, "random", layer, component, name).integers(2**62)))
        for draw in range(draws):
            chosen, outside = random_mask(hard, rng)
            other = with_mask(model, layer, component, chosen.complement())
            yield _scored(streams.differences(name, other), component, layer, "random", name, draw, outside=outside)


def _scored(
    differences: Tensor, component: str, layer: int, condition: str, part: str, draw: int, *, outside: bool | None
) -> dict:
    """Return a row of ``cp_lm_ablations``."""
    return {
        "layer": layer, "component": component, "condition": condition, "part": part, "draw": draw,
        "accuracy": float((differences > 0).double().mean()), "mean_logit_diff": float(differences.mean()),
        "outside": outside, "n": len(differences),
    }  # fmt: skip


@torch.no_grad()
def top_tokens(model: Model, rows: pd.DataFrame, found: Found, tokenizer: Tokenizer, sentences: int, k: int = 10) -> list[dict]:
    """Return the k likeliest next tokens of a task's first sentences, with the whole model and without its strongest circuit.

    The strongest is the circuit whose ablation costs most accuracy on the test sentences.
    """
    tested = next(part for part in rows["part"] if part.endswith("iid"))
    chosen = rows[rows["part"] == tested].sort_values("row").head(sentences)
    part, (layer, component) = part_of(chosen, model.device), strongest(found, tested)
    index = next(i for i, run in enumerate(found.runs) if (run["layer"], run["component"]) == (layer, component))
    without = with_mask(model, layer, component, _hard(found.masks[index], model).complement())
    table = []
    for condition, shown in (("vanilla", model), ("circuit", without)):
        values, ids = finish(shown, embed(shown, part.tokens), 0, part.end).topk(k, dim=1)
        for row, (text, scores, tokens) in enumerate(zip(chosen["text"], values.tolist(), ids.tolist(), strict=True)):
            words = tokenizer.decode(tokens)
            facts = {"layer": layer, "component": component, "row": row, "text": text, "condition": condition}
            for rank, (word, token, logit) in enumerate(zip(words, tokens, scores, strict=True)):
                table.append(facts | {"rank": rank, "token": word, "token_id": token, "logit": logit})
    return table


def _hard(columns_of: pd.DataFrame, model: Model) -> Mask:
    """Return the hard mask of the rows that ``columns`` made."""
    parts = [part["kept"].to_numpy("float64") for _, part in columns_of.groupby("matrix", sort=False)]
    return Mask(*(torch.tensor(part, device=model.device, dtype=model.dtype) for part in parts))


def strongest(found: Found, tested: str) -> tuple[int, str]:
    """Return the layer and component whose ablation costs most accuracy on a part; the first of several."""
    rows = pd.DataFrame(found.ablations)
    rows = rows[(rows["condition"] == "circuit") & (rows["part"] == tested)]
    best = rows.iloc[int(np.argmin(rows["accuracy"].to_numpy()))]
    return int(best["layer"]), str(best["component"])
