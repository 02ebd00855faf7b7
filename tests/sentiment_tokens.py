"""The part of GPT-2's tokenizer that the toy prompts and the negated sentences of sentiment need, with its ids."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import BPE

from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.tasks.corpus import vocabulary

DATA = Path(__file__).parent / "data"


def byte_pairs(merges: dict[str, int]) -> HubTokenizer:
    """Return a byte-level tokenizer with these merges; a byte's id is its rank in the alphabet, as in GPT-2."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {pair.replace(" ", ""): i for pair, i in merges.items()} | {END_OF_TEXT: 50256}
    inner = HubTokenizer(BPE(vocab, [tuple(pair.split(" ")) for pair in merges]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    return inner


def gpt2_tokenizer() -> Tokenizer:
    """Return GPT-2's tokenizer, as far as the words of the sentiment paper need it."""
    data = json.loads((DATA / "gpt2_sentiment_tokenizer.json").read_text(encoding="utf-8"))
    return Tokenizer(byte_pairs(data["merges"]), "gpt2")


@pytest.fixture(scope="module")
def gpt2():
    return gpt2_tokenizer()


@pytest.fixture(scope="module")
def pocket():
    return Tokenizer(word_level(list(vocabulary())), "pocket")
