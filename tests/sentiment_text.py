"""What tests of running text share: transformers' GPT-2 and ours, of few tokens and of the corpus' words, and directions."""

import numpy as np
import pytest
import torch

import oracle
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.tasks.corpus import vocabulary
from sentiment_oracle import LAYERS, WIDTH, frozen

VOCAB, LENGTH = 50, 8


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return frozen(oracle.random_gpt2(positions=64), tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(VOCAB, (20, LENGTH), generator=torch.Generator().manual_seed(1)).numpy().astype(np.int32)


@pytest.fixture(scope="module")
def directions():
    """Two methods; the second has none of the final stream, as DAS."""
    rng = torch.Generator().manual_seed(2)
    vectors = torch.randn(2, LAYERS + 1, WIDTH, generator=rng, dtype=torch.float64) + 0.5  # a mean that centring must take off
    return {"kmeans": dict(enumerate(vectors[0])), "das": dict(enumerate(vectors[1, :-1]))}


def hidden(theirs, tokens):
    """The stream entering each layer, and the last one: plain hooks."""
    kept, handles = [], []
    for block in theirs.transformer.h:
        handles.append(block.register_forward_pre_hook(lambda module, args: kept.append(args[0])))
    handles.append(theirs.transformer.ln_f.register_forward_pre_hook(lambda module, args: kept.append(args[0])))
    theirs(torch.as_tensor(tokens).long())
    for handle in handles:
        handle.remove()
    return kept


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(word_level(list(vocabulary())), "words")


@pytest.fixture(scope="module")
def worded(tokenizer, tmp_path_factory):
    """A model of the corpus' words."""
    return frozen(oracle.random_gpt2(vocab=len(vocabulary()) + 1, positions=64), tmp_path_factory.mktemp("words"))
