"""What tests of coloured words share: a GPT-2 of the small vocabulary, transformers' and ours, its prompts, and directions."""

import pytest
import torch

import oracle
from recircuit.experiments.sentiment.setting import Setting
from recircuit.tasks.corpus import vocabulary
from recircuit.tasks.sentiment import toy_tables
from sentiment_oracle import LAYERS, WIDTH, frozen

METHODS = ("kmeans", "mean_diff", "das")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return frozen(oracle.random_gpt2(vocab=len(vocabulary()) + 1, positions=64), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def directions():
    """Vectors with a mean, which centring must take off; DAS has none of the final stream."""
    drawn = torch.randn(3, LAYERS + 1, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    found = {name: dict(enumerate(own)) for name, own in zip(METHODS, drawn, strict=True)}
    del found["das"][LAYERS]
    return found


@pytest.fixture(scope="module")
def setting(small, pocket):
    prompts, positions = toy_tables(pocket, lambda line: None, ["movie", "classification", "french"])
    return Setting(small[1], prompts, positions, chunk=8)
