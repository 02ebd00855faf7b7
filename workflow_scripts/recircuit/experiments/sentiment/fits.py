"""Directions fitted to the stream at one position, how well they tell words apart, and points for pictures (spec 3.1, 3.3)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recircuit.core.stats import wilson
from recircuit.experiments.sentiment.setting import TEST, TRAIN, Log, Setting, Toy
from recircuit.methods.components import principal_components
from recircuit.methods.direction_hooks import centred_width
from recircuit.methods.directions import (
    METHODS,
    Direction,
    correct,
    fit,
    orient,
    random_directions,
    similarity,
    two_means,
    unit,
)
from recircuit.tasks.sentiment import fit_position

MOVIE_VARIANTS = ("paper", "full")
TOYS = ("adverb", "book", "res", "product")  # the other sets of the generalisation heat-maps (3.4)
TOY_METHODS = ("mean_diff", "logistic_regression")
PUBLISHED_SEEDS = {"random": 42}  # 2-means and DAS have seed 0, the rest none
ADJECTIVE, VERB = "ADJ", "VRB"


class Labelled(NamedTuple):
    """Centred streams at one position entering each layer, and the final one, [L+1 n d] in float64; labels and words."""

    x: Tensor
    positive: Tensor
    words: Sequence[str]

    @classmethod
    def of(cls, setting: Setting, toy: Toy, position: str) -> "Labelled":
        """Read them on the CPU, where the fits run: a few dozen rows are too few for anything else."""
        words = toy.rows["word_vrb" if position == VERB else "word_adj"]
        x = setting.streams_at(toy, position).cpu().double()
        return cls(centred_width(setting.model, x), toy.positive.cpu(), tuple(words))

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return one layer's rows and their labels."""
        return self.x[layer], self.positive


def training_sets(setting: Setting) -> list[tuple[str, str, str]]:
    """Return (set, split, variant) of the prompts that directions are fitted to, as far as the tokenizer allows them.

    Reviews in both variants, the other toy sets as in the paper's time where that has them.
    """
    toys = [[(name, "all", variant) for variant in MOVIE_VARIANTS if setting.has(name, "all", variant)][:1] for name in TOYS]
    return [(*TRAIN, variant) for variant in MOVIE_VARIANTS] + [key for found in toys for key in found]


# ---- directions -----------------------------------------------------------------------------------------------------


def directions(setting: Setting, log: Log) -> pd.DataFrame:
    """Return ``se_directions`` of the closed forms, at every layer and the final stream, and the random ones.

    ``vector`` is in residual units with positive prompts on its positive side; ``sign_flipped`` says where the fit's own sign
    was the other one. Random directions keep their published sign.
    """
    rows = []
    for name, split, variant in training_sets(setting):
        position = fit_position(name)
        data = Labelled.of(setting, setting.toy(name, split, variant), position)
        key = {"set": name, "variant": variant, "position": position}
        for method in METHODS if (name, split) == TRAIN else TOY_METHODS:
            rows += direction_rows(key | {"method": method}, fit(method, *data[:2]), data)
        if (name, split) == TRAIN:
            drawn = published_random(*data.x.shape[::2])
            kept = Direction(drawn, torch.zeros(len(drawn), dtype=torch.bool))
            rows += direction_rows(key | {"method": "random"}, kept, data)
        log(f"{name}, {variant}: {len(data.positive)} prompts at {position}")
    return pd.DataFrame(rows)


def published_random(layers: int, width: int) -> Float[Tensor, "layers width"]:
    """Return the random directions of the published seed, in float64."""
    return random_directions(layers, width, PUBLISHED_SEEDS["random"]).double()


def direction_rows(key: dict, found: Direction, data: Labelled) -> list[dict]:
    """Return a row per layer, for one direction at each."""
    right = by_midpoint(found.raw, data, data).double().mean(-1)
    seed = PUBLISHED_SEEDS.get(key["method"], 0)
    return [
        key | {"layer": layer, "component": 0, "d_das": 1, "vector": vector.float().numpy(), "raw_norm": float(norm),
               "sign_flipped": bool(flipped), "train_accuracy": float(share), "n": len(data.positive), "seed": seed}
        for layer, (vector, norm, flipped, share) in enumerate(zip(found.raw, found.norm, found.flipped, right, strict=True))
    ]  # fmt: skip


def frames(table: pd.DataFrame, method: str, name: str = TRAIN[0], variant: str = "paper") -> dict[int, Float[Tensor, "d k"]]:
    """Return the unit vectors of a method by layer, from ``se_directions``; the columns are DAS's orthonormal ones, or one.

    Of several seeds the lowest counts. Empty when the table has none.
    """
    rows = table[(table["method"] == method) & (table["set"] == name) & (table["variant"] == variant)]
    rows = rows[rows["seed"] == rows["seed"].min()].sort_values(["layer", "component"])
    return {
        int(layer): torch.stack([unit(torch.tensor(vector, dtype=torch.float64)) for vector in part["vector"]], 1)
        for layer, part in rows.groupby("layer")
    }


# ---- accuracy -------------------------------------------------------------------------------------------------------


def by_midpoint(vectors: Float[Tensor, "*b d"], train: Labelled, test: Labelled) -> Bool[Tensor, "*b m"]:
    """Tell which test rows a direction classifies rightly, by the point half way between the training classes on it.

    One rule for every direction, where the published accuracies follow the fits' own (``directions.correct``).
    """
    axes = orient(vectors, *train[:2]).raw[..., None]
    projected = (train.x @ axes)[..., 0]
    middle = (projected[..., train.positive].mean(-1) + projected[..., ~train.positive].mean(-1)) / 2
    return ((test.x @ axes)[..., 0] > middle[..., None]) == test.positive


def ordered_pairs(vectors: Float[Tensor, "*b d"], train: Labelled, test: Labelled) -> Float[Tensor, " *b"]:
    """Return the share of (positive, negative) test rows of which the positive one projects higher; a tie counts half.

    No threshold is needed, which at another position would be another one.
    """
    projected = (test.x @ orient(vectors, *train[:2]).raw[..., None])[..., 0]
    gaps = projected[..., test.positive, None] - projected[..., None, ~test.positive]
    return ((gaps.sign() + 1) / 2).mean((-2, -1))


def accuracy_rows(key: dict, right: Bool[Tensor, "b m"], words: Sequence[str], **columns: Tensor) -> list[dict]:
    """Return a row of ``se_fit_accuracy`` per layer; ``columns`` [b] are ``similarity`` and ``auc``, empty where not given.

    ``similarity`` is the cosine with the direction fitted to the test set itself, ``auc`` what ``ordered_pairs`` gives; the
    interval of the accuracy is Wilson's.
    """
    n, rows = right.shape[1], []
    for layer, hits in enumerate(right.sum(-1).tolist()):
        low, high = wilson(hits, n)
        values = {name: float(column[layer]) for name, column in columns.items()}
        rows.append(key | {"layer": layer, "n": n, "n_words": len(set(words)), "correct": hits, "accuracy": hits / n,
                           "ci_lo": low, "ci_hi": high, "similarity": None, "auc": None} | values)  # fmt: skip
    return rows


def accuracies(setting: Setting, log: Log) -> pd.DataFrame:
    """Return ``se_fit_accuracy`` of the closed forms and random directions fitted to reviews.

    From adjectives to the same ones, to those of the test set and to verbs; from verbs to verbs and adjectives; and each
    training adjective by a fit to the others. ``rule``: as published, or by ``by_midpoint``.
    """
    rows = []
    for variant in MOVIE_VARIANTS:
        places = {
            (split, position): Labelled.of(setting, setting.toy(*key, variant), position)
            for split, key in (("train", TRAIN), ("test", TEST))
            for position in (ADJECTIVE, VERB)
        }
        for position in (ADJECTIVE, VERB):
            train = places["train", position]
            for split, where in (("train", position), ("test", ADJECTIVE), ("test", VERB)):
                key = {"set": TRAIN[0], "variant": variant, "position": position, "test_set": split, "test_position": where}
                rows += list(_scores(key, train, places[split, where]))
        rows += list(_left_out(variant, places["train", ADJECTIVE]))
        log(f"{variant}: accuracies of {len(places['train', ADJECTIVE].words)} prompts' fits")
    return pd.DataFrame(rows)


def _scores(key: dict, train: Labelled, test: Labelled) -> Iterator[dict]:
    for method in METHODS:
        vectors, alike = fit(method, *train[:2]).raw, similarity(method, train[:2], test[:2])
        published = torch.stack([correct(method, train.at(layer), test.at(layer)) for layer in range(len(train.x))])
        yield from accuracy_rows(key | {"method": method, "rule": "published"}, published, test.words, similarity=alike)
        yield from midpoint_rows(key | {"method": method}, vectors, train, test, similarity=alike)
    yield from midpoint_rows(key | {"method": "random"}, published_random(*train.x.shape[::2]), train, test)


def midpoint_rows(key: dict, vectors: Float[Tensor, "b d"], train: Labelled, test: Labelled, **columns: Tensor) -> list[dict]:
    """Return the rows of directions by ``by_midpoint`` and ``ordered_pairs``."""
    columns |= {"auc": ordered_pairs(vectors, train, test)}
    return accuracy_rows(key | {"rule": "midpoint"}, by_midpoint(vectors, train, test), test.words, **columns)


def _left_out(variant: str, data: Labelled) -> Iterator[dict]:
    """Yield how many adjectives are classified rightly by a fit to all others (the fit's own rule hardly knows labels)."""
    key = {"set": TRAIN[0], "variant": variant, "position": ADJECTIVE, "test_set": "left out", "test_position": ADJECTIVE}
    words = pd.Series(data.words)
    for method in METHODS:
        right = torch.zeros(data.x.shape[:2], dtype=torch.bool)
        for word in words.unique():
            out = torch.tensor((words == word).to_numpy())
            train, test = (Labelled(data.x[:, rows], data.positive[rows], ()) for rows in (~out, out))
            right[:, out] = by_midpoint(fit(method, *train[:2]).raw, train, test)
        yield from accuracy_rows(key | {"method": method, "rule": "midpoint"}, right, data.words)


# ---- principal components -------------------------------------------------------------------------------------------


def shown_layers(n_layers: int) -> list[int]:
    """Return the layers whose components are drawn: the embedding (published), the first layer's output, the middle."""
    return sorted({0, min(1, n_layers), n_layers // 2})


def pca_points(setting: Setting) -> pd.DataFrame:
    """Return ``se_pca_points``: two components of the training adjectives, and all words' coordinates on them (3.3).

    Each word once per set and position, at the mean of its prompts. ``cluster`` is that of 2-means on the training adjectives'
    coordinates, 1 the positive one; rows of the set "centroid" are its centres. Component 1 points to positive words.
    """
    train = Labelled.of(setting, setting.toy(*TRAIN), ADJECTIVE)
    test = setting.toy(*TEST)
    shown = [("train", ADJECTIVE, train)]
    shown += [("test", position, Labelled.of(setting, test, position)) for position in (ADJECTIVE, VERB)]
    rows = []
    for layer in shown_layers(setting.model.spec.n_layers):
        x, positive = train.at(layer)
        found = principal_components(x, 2)
        sign = torch.tensor([-1.0 if orient(found.axes[0], x, positive).flipped else 1.0, 1.0]).to(x)
        axes, ratios = found.axes * sign[:, None], {f"share{i + 1}": float(share) for i, share in enumerate(found.ratios)}
        clusters = two_means(found.scores * sign).named(positive)
        points = [("centroid", ADJECTIVE, clusters.centroids, torch.tensor([False, True]), ("negative", "positive"))]
        points += [(name, place, (data.x[layer] - found.mean) @ axes.T, *data[1:]) for name, place, data in shown]
        for name, place, scores, labels, words in points:
            key = {"layer": layer, "set": name, "position": place} | ratios
            for word, group in pd.DataFrame({"word": words, "row": range(len(words))}).groupby("word", sort=False):
                at = scores[torch.tensor(group["row"].to_numpy())].mean(0)
                cluster = bool(clusters.assign(at[None]))
                rows.append(key | {"word": word, "label": int(labels[group["row"].iloc[0]]), "pc1": float(at[0]),
                                   "pc2": float(at[1]), "cluster": int(cluster)})  # fmt: skip
    return pd.DataFrame(rows)
