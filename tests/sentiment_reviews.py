"""Stand-in reviews, transformers' GPT-2 of their vocabulary and ours, and random directions: what tests of ablations share."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment.review_ablation import Ablations
from recircuit.tasks import reviews as stand_ins
from recircuit.tasks import sst
from recircuit.tasks.corpus import vocabulary
from sentiment_oracle import LAYERS, WIDTH, frozen, rng


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(tokenizer, transformers' model, ours, reviews, directions) of the embedded models' vocabulary."""
    tokenizer = Tokenizer(word_level(list(vocabulary())), "pocket")
    size = tokenizer.inner.get_vocab_size()
    theirs, model = frozen(oracle.random_gpt2(vocab=size, positions=64, d=WIDTH), tmp_path_factory.mktemp("reviews"))
    sentences = stand_ins.reviews(tokenizer, {"train": 8, "test": 12}, seed=3)
    sentences["text"] = "I thought this movie was average, I liked it. " + sentences["text"]  # each with a comma and a period
    found = pd.concat([sst.prompts(sentences, tokenizer, name, stand_ins.SCAFFOLDS) for name in stand_ins.SCAFFOLDS])
    rows = [
        {"method": method, "set": "movie", "variant": "paper", "layer": layer, "component": 0, "seed": 0,
         "vector": torch.randn(WIDTH, generator=rng(100 + 10 * i + layer)).numpy()}
        for i, method in enumerate(("das", "kmeans", "mean_diff"))
        for layer in range(LAYERS + (method != "das"))
    ]  # fmt: skip
    return SimpleNamespace(tokenizer=tokenizer, theirs=theirs, model=model, reviews=found, directions=pd.DataFrame(rows))


@pytest.fixture(scope="module")
def ablations(study):
    return Ablations(study.model, study.tokenizer, study.directions, 16)
