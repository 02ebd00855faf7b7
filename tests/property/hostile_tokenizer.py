"""Mistakes in the tokenizer of a model folder; each is in the list of ``hostile`` once this module is imported."""

import json

from badinput import NESTS
from hostile import BOMB_PICKLE, EITHER, FINE, REFUSED, VOCAB, WORDS, mistake
from hypothesis import strategies as st

BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    "vocab": {c: i for i, c in enumerate("onetwhrfuiv")}, "merges": [],
}  # fmt: skip


@mistake
def tokenizer_of_no_use(data, it):
    text = json.dumps(it.tokenizer)
    it.files["tokenizer.json"] = data.draw(
        st.sampled_from([b"", b"[]", b"null", b"{}", b"[" * 100_000, text.encode("utf-16"), BOMB_PICKLE, b"\xff"])
        | st.integers(0, len(text) - 1).map(lambda stop: text[:stop].encode())
    )
    return REFUSED


@mistake
def token_beyond_the_embedding(data, it):
    vocabulary = it.tokenizer["model"]["vocab"]
    vocabulary[data.draw(st.sampled_from([*WORDS, "unheard"]))] = data.draw(
        st.sampled_from([VOCAB, VOCAB + 1, 2**31, 2**32 - 1])
    )
    return REFUSED


@mistake
def two_tokens_of_one_id(data, it):
    vocabulary = it.tokenizer["model"]["vocab"]
    a, b = data.draw(st.permutations(WORDS))[:2]
    vocabulary[a] = vocabulary[b]
    return REFUSED


@mistake
def words_gone(data, it):
    gone = data.draw(st.sampled_from(WORDS))
    it.tokenizer["model"]["vocab"] = {word: i for word, i in it.tokenizer["model"]["vocab"].items() if word != gone}
    return REFUSED


@mistake
def unknown_for_all(data, it):
    vocabulary = {"<unk>": 0, "one": 1, "two": 2, "three": 3, "##e": 4}
    kind = data.draw(st.sampled_from(["WordLevel", "WordPiece", "Unigram", "BPE"]))
    it.tokenizer["model"] = {
        "WordLevel": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        "WordPiece": {"type": "WordPiece", "vocab": vocabulary, "unk_token": "<unk>", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100},
        "Unigram": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["one", -1.0], ["two", -1.0]],
                    "byte_fallback": False},
        "BPE": {**BPE, "unk_token": data.draw(st.sampled_from(["<unk>", None])), "vocab": {"<unk>": 0, "o": 1, "n": 2, "e": 3}},
    }[kind]  # fmt: skip
    it.tokenizer["added_tokens"] = []
    if kind == "WordLevel" and data.draw(st.booleans()):
        it.tokenizer["pre_tokenizer"] = None
    return REFUSED


@mistake
def at_random(data, it):
    it.tokenizer["model"] = {**BPE, "dropout": data.draw(st.floats(0.01, 1.0))}
    it.tokenizer["added_tokens"] = []
    return REFUSED


@mistake
def cuts_and_fills(data, it):
    it.tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": data.draw(st.integers(1, 3)),
        "strategy": "LongestFirst",
        "stride": 0,
    }
    it.tokenizer["padding"] = {
        "strategy": {"Fixed": 7}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    }  # fmt: skip
    return FINE


@mistake
def expression_without_end(data, it):
    kinds = ["(", "(?=(o+)+$)x|([a-z ]+)+!", "(([a-z ]*)*)*!", "\\", "[z-a]", "(?<=a+)b", "*"]
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    it.tokenizer["pre_tokenizer"] = split | {"pattern": {"Regex": data.draw(st.sampled_from(kinds))}}
    return REFUSED


@mistake
def bytes_of_the_tokenizer(data, it):
    content = bytearray(json.dumps(it.tokenizer).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    it.files["tokenizer.json"] = bytes(content)
    return EITHER


@mistake
def any_value_of_the_tokenizer(data, it):
    it.tokenizer[data.draw(st.sampled_from(sorted(it.tokenizer)))] = data.draw(NESTS)
    return EITHER


@mistake
def vocabulary_and_merges(data, it):
    it.files["tokenizer.json"] = None
    it.files["vocab.json"], it.files["merges.txt"] = data.draw(
        st.sampled_from([
            (b"{", b""), (b"[]", b""), (b'{"a": "x"}', b""), (b'{"a": 0}', b"a b\n"), (b'{"a": 0}', b"abc"), (b"\xff", b""),
            (b"{}", b""), (b'{"a": 0}', b"\xff\xfe"), (b'{"a": -1}', b""), (b'{"a": 99}', b""), (b'{"a": 0, "b": 0}', b""),
            (b"[" * 100_000, b""), (b"", b""), (b'{"a": 0}', None), (None, b""),
        ])
    )  # fmt: skip
    return REFUSED
