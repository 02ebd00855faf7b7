"""How a direction responds to running text: histograms, samples, statistics of tokens, accuracy, AUC (spec 3.9).

An activation is the cosine of the residual stream with a direction; index i is the stream entering layer i, and the published
figures have index 1 with the direction of layer 1. The weights of the paper's models are centred, so that their streams have
no mean over coordinates: the same is done here to streams, and to directions, of models with LayerNorm, which does it anyway.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.model import Model, embed
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment import text_statistics as statistics
from recircuit.experiments.sentiment.axes import FIRST
from recircuit.experiments.sentiment.fits import frames
from recircuit.experiments.sentiment.setting import TRAIN, Log
from recircuit.experiments.sentiment.text_labels import LABELS, codes, lexicon
from recircuit.methods.direction_hooks import centred_width
from recircuit.methods.directions import unit
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import layer_step
from recircuit.tasks.running_text import RECIPES
from recircuit.tasks.sentiment import word_groups

Directions = Mapping[str, Mapping[int, Tensor]]  # of Axes: vectors [d] by method and layer

METHODS = ("kmeans", "pca", "mean_diff", "logistic_regression", "das")
DEEP_ROWS = 500  # rows for the other indices: they give a standard deviation to within one in a hundred
DEEPEST = 10  # the last index whose activations are pooled (spec 3.11)


def vectors_of(model: Model, table: pd.DataFrame, methods: Sequence[str] = METHODS) -> dict[str, dict[int, Tensor]]:
    """Return the direction [d] of each method and layer, from ``se_directions``; DAS has none of the final stream."""
    found = {method: frames(table, method) for method in methods}
    return {name: {layer: frame[:, 0].to(model.tokens) for layer, frame in own.items()} for name, own in found.items()}


def axes_of(model: Model, vectors: Sequence[Tensor]) -> Float[Tensor, "m d"]:
    """Return unit vectors along directions [d], such as those of ``Axes``."""
    return unit(centred_width(model, torch.stack(list(vectors))))


def activations(model: Model, x: Float[Tensor, "*b d"], axes: Float[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    """Return the cosines [m *b] of streams with unit vectors, and the streams' lengths [*b]."""
    x = centred_width(model, x)
    length = x.norm(dim=-1)
    return torch.einsum("...d,md->m...", x, axes) / length, length


@torch.inference_mode()
def first_layer(
    model: Model, tokens: Int[np.ndarray, "n T"], axes: Float[Tensor, "m d"], chunk: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines [m n T] and lengths [n T] at index 1: only the embedding and the first layer are run."""
    cosines, lengths = np.empty((len(axes), *tokens.shape), np.float32), np.empty(tokens.shape, np.float32)

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(tokens[rows]).long().to(model.device)
        return activations(model, layer_step(model, 0, embed(model, ids))[0], axes)

    for rows, (found, length) in in_chunks(run, len(tokens), chunk):
        cosines[:, rows], lengths[rows] = found.cpu().numpy(), length.cpu().numpy()
    return cosines, lengths


@dataclass(frozen=True)
class Deep:
    """What is kept of all layers.

    ``moments``: sums and sums of squares [m] and the number of the published directions' cosines, by index. ``chosen``: the
    cosines with the directions of an index's own layer at some tokens, by method and index.
    """

    moments: dict[int, tuple[np.ndarray, np.ndarray, int]]
    chosen: dict[tuple[str, int], np.ndarray]


@torch.inference_mode()
def all_layers(
    model: Model,
    tokens: Int[np.ndarray, "n T"],
    directions: Directions,
    kept: np.ndarray,
    chunk: int,
) -> Deep:
    """Run whole rows; keep moments at indices 0 to ``DEEPEST``, and each layer's own cosines where ``kept`` [n T] is true."""
    last = model.spec.n_layers
    published = axes_of(model, [found[FIRST] for found in directions.values()])
    names = {i: [method for method, found in directions.items() if i in found] for i in range(last + 1)}
    own = {i: axes_of(model, [directions[name][i] for name in some]) for i, some in names.items() if some}

    def run(rows: slice) -> tuple[list, dict]:
        ids = torch.from_numpy(tokens[rows]).long().to(model.device)
        mask = torch.from_numpy(kept[rows]).to(model.device)
        x, sums, found = embed(model, ids), [], {}
        for i in range(last + 1):
            if i:
                x = layer_step(model, i - 1, x)[0]
            if i <= DEEPEST:
                cosines = activations(model, x, published)[0].flatten(1).double()
                sums.append(torch.stack([cosines.sum(1), cosines.square().sum(1)]).cpu().numpy())
            if i in own:
                cosines = activations(model, x[mask], own[i])[0].cpu().numpy()
                found |= {(name, i): row for name, row in zip(names[i], cosines, strict=True)}
        return sums, found

    parts = [part for _, part in in_chunks(run, len(tokens), chunk)]
    sums = np.sum([part[0] for part in parts], axis=0)  # [indices 2 m]
    moments = {i: (first, second, tokens.size) for i, (first, second) in enumerate(sums)}
    return Deep(moments, {key: np.concatenate([part[1][key] for part in parts]) for key in parts[0][1]})


def deep_rows(n: int, seed: int) -> np.ndarray:
    """Draw the rows that are run through all layers, in their order."""
    return np.sort(stream(seed, "rows of all layers").choice(n, min(n, DEEP_ROWS), replace=False))


def stats_table(methods: Sequence[str], deep: Deep, n_rows: int) -> pd.DataFrame:
    """Return ``se_text_stats``: mean and standard deviation of the published directions' cosines by index, and pooled."""
    last = max(deep.moments)
    pools = {str(i): [i] for i in deep.moments} | {f"0-{last}": list(deep.moments)}
    rows = []
    for layers, indices in pools.items():
        first, second, count = (sum(part) for part in zip(*(deep.moments[i] for i in indices), strict=True))
        mean = first / count
        sd = np.sqrt(np.maximum(second / count - mean**2, 0))
        rows += [(method, layers, m, s, count) for method, m, s in zip(methods, mean, sd, strict=True)]
    table = pd.DataFrame(rows, columns=["method", "layers", "mean", "sd", "count"])
    return table.assign(layer_direction=FIRST, n_rows=n_rows)


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Rows of running text: tokens and labels (indices of ``LABELS``), both [n T], and whose labels they are.

    ``groups`` maps a name to the tokens of some words, ``fitted`` are those of the words on which directions were fitted.
    """

    tokens: Int[np.ndarray, "n T"]
    codes: Int[np.ndarray, "n T"]
    source: str
    groups: Mapping[str, np.ndarray]
    fitted: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, tokenizer: Tokenizer, prompts: pd.DataFrame, treebank: Path | None, log: Log) -> "Text":
        """Read ``se_text`` (the current recipe) and ``se_prompts``, whose training words are those that were fitted."""
        tokens = np.stack(table.loc[table["recipe"] == RECIPES[0]].sort_values("row")["tokens"]).astype(np.int32)
        words, source = lexicon(treebank, log)
        groups = {f"{group} words": own["token"].to_numpy() for group, own in word_groups(tokenizer).groupby("group")}
        name, split = TRAIN
        train = prompts[(prompts["set"] == name) & (prompts["split"] == split) & (prompts["variant"] == "paper")]
        fitted = {token for word in train["word_adj"] for token in tokenizer.encode(f" {word}")}
        return cls(tokens, codes(tokenizer, words, tokens), source, groups, np.array(sorted(fitted)))


def read_text(model: Model, text: Text, directions: Directions, draws: int, seed: int, chunk: int) -> dict[str, pd.DataFrame]:
    """Return the tables of running text by name.

    ``se_text_hist``, ``se_text_samples``, ``se_token_stats``, ``se_text_accuracy`` and ``se_text_auc`` are of index 1 of all
    rows with the directions of layer 1; AUC is also of the other indices, each with its own layer's directions, in some rows,
    in which ``se_text_stats`` has the moments of the directions of layer 1 at all indices.
    """
    cosines, lengths = first_layer(model, text.tokens, axes_of(model, [found[FIRST] for found in directions.values()]), chunk)
    ids, labels, length = text.tokens.ravel(), text.codes.ravel(), lengths.ravel()
    subsets = {label: labels == code for code, label in enumerate(LABELS)}
    subsets |= {group: np.isin(ids, own) for group, own in text.groups.items()}
    found = defaultdict(list)
    for method, values in zip(directions, cosines.reshape(len(cosines), -1), strict=True):
        parts = _first_tables(values, length, ids, labels, subsets)
        parts["se_text_auc"] = _auc_table(FIRST, values, labels, ids, len(text.tokens), text.fitted, seed, draws)
        for name, part in parts.items():
            found[name].append(part.assign(method=method))
    rows = deep_rows(len(text.tokens), seed)
    ids, labels = text.tokens[rows], text.codes[rows]
    signed = (labels == statistics.POSITIVE) | (labels == statistics.NEGATIVE)
    deep = all_layers(model, ids, directions, signed, chunk)
    for (method, layer), values in deep.chosen.items():
        if layer != FIRST:
            table = _auc_table(layer, values, labels[signed], ids[signed], len(rows), text.fitted, seed, draws)
            found["se_text_auc"].append(table.assign(method=method))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    samples = tables["se_text_samples"]
    row, position = np.divmod(samples.pop("flat").to_numpy(), text.tokens.shape[1])
    tables["se_text_samples"] = samples.assign(row=row, position=position)
    return tables | {"se_text_stats": stats_table([*directions], deep, len(rows))}


def _first_tables(values: np.ndarray, length: np.ndarray, ids: np.ndarray, labels: np.ndarray, subsets: Mapping) -> dict:
    """Return the tables of one direction at index 1."""
    kinds = {"cosine": values, "projection": values * length}
    histograms = [statistics.histogram(own, subsets).assign(kind=kind) for kind, own in kinds.items()]
    sample = statistics.sample(values)
    flat = sample["flat"].to_numpy()
    sample = sample.assign(token_id=ids[flat], activation=values[flat], projection=kinds["projection"][flat])
    cuts = tuple(np.quantile(values, statistics.TAILS).tolist())
    limits = dict(zip(("lower_q", "upper_q", "lower", "upper"), (*statistics.TAILS, *cuts), strict=True))
    tails = [
        limits | {"over": over} | statistics.accuracy(*chosen, cuts)
        for over, chosen in (("samples", (values[flat], labels[flat])), ("tokens", (values, labels)))
    ]
    return {
        "se_text_hist": pd.concat(histograms).assign(layer=FIRST),
        "se_text_samples": sample.assign(label=np.array(LABELS)[labels[flat]]),
        "se_token_stats": statistics.token_stats(values, ids).assign(layer=FIRST),
        "se_text_accuracy": pd.DataFrame(tails).assign(layer=FIRST),
    }


def _auc_table(layer: int, values, labels, ids, n_rows: int, fitted, seed: int, draws: int) -> pd.DataFrame:
    rows = statistics.auc_rows(values, labels, ids, fitted, seed, draws)
    return pd.DataFrame(rows, columns=statistics.AUC).assign(layer=layer, n_rows=n_rows)
