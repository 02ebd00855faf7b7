"""What the tests of the sentiment paper's claims share: the claims, and the keys of a cosine and of mood stories."""

import pytest

from recircuit.study.scorecard import read_claims
from recircuit.study.scorecard_page import claim_files

GPT2, PYTHIA = "gpt2-small", "pythia-2.8b"
STORIES = {"positive": "positive", "negative": "negative", "first person": "first", "second person": "second"}
STORY = {"people": 2, "split": "notebook", "variant": "paper", "subset": "all"}


def pair(a, b, layers):
    """Return the keys of the cosine of two methods' directions, fitted on the paper's reviews."""
    return {f"{key}_{side}": value for side, method, layer in zip("ab", (a, b), layers, strict=True)
            for key, value in (("method", method), ("layer", layer), ("set", "movie"), ("variant", "paper"))}  # fmt: skip


@pytest.fixture(scope="module")
def claims():
    return read_claims(claim_files()["sentiment"])
