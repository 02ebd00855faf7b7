"""A random GPT-2, all prompts, random directions and the tables of directional patching, which tests of both share."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment import patching, patching_summary
from recircuit.experiments.sentiment.patching_plans import Directions
from recircuit.experiments.sentiment.setting import Setting
from recircuit.tasks import reviews, sst
from recircuit.tasks.corpus import vocabulary
from recircuit.tasks.sentiment import toy_tables

LAYERS, WIDTH, DRAWS, SEED = 3, 16, 3, 5
FITS = {"das": 1, "das2d": 2, "kmeans": 1, "mean_diff": 1, "logistic_regression": 1, "random": 1}


def quiet(line):
    """Log nothing."""


def fitted_directions():
    """Random vectors where fits would stand: orthonormal for DAS, of any length for the others; DAS knows no final stream."""
    rng, rows = np.random.default_rng(0), []

    def add(name, variant, method, seed):
        for layer in range(LAYERS + (not method.startswith("das"))):
            vectors = rng.normal(size=(FITS[method], WIDTH)) * 3
            vectors = np.linalg.qr(vectors.T)[0].T if method.startswith("das") else vectors
            for i, vector in enumerate(vectors):
                rows.append((name, variant, method, layer, i, len(vectors), vector.astype(np.float32), seed))

    for method in FITS:
        add("movie", "paper", method, 42 if method == "random" else 0)
    add("movie", "paper", "das", 1)
    add("movie", "full", "mean_diff", 0)
    for name, method in product(("adverb", "book"), ("mean_diff", "das")):
        add(name, "full" if name == "book" else "paper", method, 0)
    return pd.DataFrame(rows, columns=["set", "variant", "method", "layer", "component", "d_das", "vector", "seed"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A random GPT-2, all prompts, random directions, and the tables that the experiment makes of them."""
    tokenizer = Tokenizer(word_level(list(vocabulary())), "words")
    size = tokenizer.inner.get_vocab_size()
    theirs = oracle.random_gpt2(layers=LAYERS, heads=2, d=WIDTH, vocab=size, positions=64, seed=3, std=0.3)
    theirs.requires_grad_(requires_grad=False)
    model = load(oracle.save(theirs, tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)
    prompts, positions = toy_tables(tokenizer, quiet, ("movie", "adverb", "book"))
    setting = Setting(model, prompts, positions, chunk=24)
    sentences = reviews.reviews(tokenizer, {"dev": 6, "test": 10}, 0)
    sentences.loc[sentences["sentence_index"] % 5 == 0, "score"] = sentences["score"] * 0.1 + 0.45  # not clear any more
    found = pd.concat([sst.prompts(sentences, tokenizer, name, reviews.SCAFFOLDS, longest=64) for name in reviews.SCAFFOLDS])
    fitted = fitted_directions()
    directions = Directions(fitted, LAYERS)
    tests = [
        *patching.toy_tests(setting, directions, DRAWS, SEED),
        *patching.review_tests(setting, directions, found, None, 2, SEED),
    ]
    made = patching_summary.tables(tests, LAYERS, SEED, 100, quiet)
    return SimpleNamespace(theirs=theirs, setting=setting, reviews=found, fitted=fitted, tests=tests, **made)


KEYS = ["eval_set", "scaffold", "split", "variant", "method", "set", "layer", "from_layer", "projection", "scale", "draw"]


def rows_of(world, **wanted):
    defaults = {"variant": "paper", "set": "movie", "projection": "none", "scale": 1.0, "draw": -1, "scaffold": "toy"}
    wanted = defaults | {"from_layer": wanted["layer"]} | wanted
    table = world.se_patching
    return table[(table[KEYS] == [wanted[key] for key in KEYS]).all(axis=1)]
