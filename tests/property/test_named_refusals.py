"""Mistakes that once ended in a traceback, in a hang or in a wrong number, one by one: each is told in a sentence now."""

import json
import struct
from copy import deepcopy
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from badinput import check_sentence, within
from safetensors.torch import load_file, save_file
from snakemake.utils import update_config

import oracle
from recircuit.core.errors import LONGEST, UserError
from recircuit.core.families import load
from recircuit.core.files import strict_json
from recircuit.core.model import embed
from recircuit.core.shards import INDEX, WEIGHTS, entries, read_index
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.core.weights import refuse_infinite
from recircuit.study import certify as judging
from recircuit.study.config import validate
from recircuit.study.models import check_contents, copy_folder
from recircuit.study.pins import pinned
from recircuit.study.tables import check
from workflow import ROOT, read_yaml


def refused(work, *words):
    """Return the sentence in which something ends, soon; it holds the words."""
    with within(5), pytest.raises(UserError) as error:
        work()
    sentence = str(error.value)
    check_sentence(sentence)
    for word in words:
        assert str(word) in sentence, sentence
    return sentence


# ---- sentences --------------------------------------------------------------------------------------------------------------


def test_a_sentence_is_one_line_whatever_a_file_is_called():
    text = str(UserError("the file a\nb\x1b[31m\udcff\u202e is bad"))
    assert text == "the file a b\\x1b[31m\\udcff\\u202e is bad"
    assert len(str(UserError("x" * 10**6))) <= LONGEST


# ---- the configuration ------------------------------------------------------------------------------------------------------


def config(**change):
    """Return the default configuration with others laid over it."""
    made = deepcopy(read_yaml(ROOT / "config.yaml"))
    update_config(made, change)
    return made


def nest(kind):
    """Return a value without an end: one that holds itself, one of many levels, one of many values."""
    value = []
    if kind == "itself":
        value.append(value)
    for _ in range({"deep": 10_000, "many": 40}.get(kind, 0)):
        value = [value] * (10 if kind == "many" else 1)
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 0.0}, "seed is 0.0; expected integer"),
        ({"models": {"pocket": {"layers": 4.0}}}, "models.pocket.layers is 4.0; expected integer"),
        ({"models": {"pocket": {"layers": 10**5000}}}, "models.pocket.layers is a whole number of 16610 bits"),
        ({"models": {"pocket": {"width": 10**12}}}, "models.pocket.width: 1000000000000 is greater than the maximum"),
        ({"greater_than": {"population": 10**15}}, "greater_than.population: "),
        ({"seed": nest("itself")}, "nested deeper than 32 levels"),
        ({"seed": nest("deep")}, "nested deeper than 32 levels"),
        ({"models": {"pocket": {"papers": [nest("many")]}}}, "nested deeper than 32 levels"),
        ({"models": {"pocket": {"papers": [["x"] * 1000] * 1000}}}, "it holds more than 100000 values"),
        ({"models": {1: {}}}, "the key 1 at models is no text"),
        ({"models": {"a\n": {}}}, r"models has the name 'a\n'; expected small letters, digits"),
        ({"models": {"x" * 300: {}}}, "expected small letters, digits, dots and dashes, at most 64"),
        ({False: 1}, "the key False at the top level is no text; expected a name (in quotes)"),
        ({"a\nb": 1}, r"the key 'a\nb' at the top level is not known"),
        ({"device": "c" * 10**6}, "ccc ...; choose one of: auto, cpu, cuda"),
        ({"models": {"pocket": {"gates": {"months": {"accuracy": 7}}}}}, "accuracy: 7 is greater than the maximum of 1"),
        ({"models": {"pocket-llama": {"heads": 64}}}, "a llama's heads turn pairs of coordinates"),
        (
            {"circuit_probing": {"arithmetic": {"grokking": {"epochs": 30, "evaluate_every": 5}}}},
            "circuit_probing.arithmetic.grokking.checkpoints has 400, but training ends after 30 epochs",
        ),
        ({"circuit_probing": {"transfer": {"a2": {"epochs": 5, "evaluate_every": 6}}}}, "transfer.a2.evaluate_every has 6"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_configuration_that_went_through_or_fell_over(change, words):
    refused(lambda: validate(config(**change) if all(isinstance(key, str) for key in change) else config() | change), words)


@pytest.mark.parametrize("text", ["{", "[]", '{"a@b": 1}', '{"a@b": {"c": "x"}}', "<<<<<<< ours", '{"a": {}, "a": {}}'])
def test_a_lock_file_that_a_merge_has_spoilt_is_named(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    refused(lambda: pinned(tmp_path / "lock.json", "a", "b", {"config.json": None}), "lock.json")


# ---- model folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A good folder of a small GPT-2 in float32."""
    oracle.save(oracle.random_gpt2(layers=2, heads=2, d=8, vocab=9).float(), tmp_path / "source")
    word_level(["one", "two", "three"]).save(str(tmp_path / "source" / "tokenizer.json"))
    check_contents(tmp_path / "source")
    return tmp_path / "source"


def say(folder, **change):
    """Change what the folder's config.json says."""
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | change))


def keep(folder, change, drop=()):
    """Change the folder's tensors."""
    state = load_file(folder / WEIGHTS)
    save_file({name: t.clone() for name, t in (state | change(state)).items() if name not in drop}, folder / WEIGHTS)


def output(folder):
    """Return the paths of a copy."""
    names = {"config": "config.json", "model": WEIGHTS, "tokenizer": "tokenizer.json"}
    return SimpleNamespace(**{key: str(folder.parent / "cache" / name) for key, name in names.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 0}, "n_head=0; expected a whole number above 0"),
        ({"n_embd": "8"}, "n_embd='8'; expected a whole number above 0"),
        ({"n_layer": 10**400}, "expected a whole number above 0"),
        ({"activation_function": ["gelu"]}, "activation_function '['gelu']'"),
        ({"model_type": ["gpt2"]}, "model_type '['gpt2']' is not known"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon=nan; expected a number above 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'; expected true or false"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False is not supported; expected True"),
        ({"auto_map": {"AutoModel": "modeling.M"}}, "config.json: auto_map names code of the model's own, which is never run"),
        ({"n_layer": 1}, "tensor 'transformer.h.1.attn.c_attn.bias' is not part of the model that config.json describes"),
    ],
)
def test_a_gpt2_configuration_that_fell_over_or_was_believed(folder, change, words):
    say(folder, **change)
    refused(lambda: load(folder, device="meta"), words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_parameters": "default"}, "rotary positions of type ''default'' are not supported"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta=nan; expected a number above 0"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "expected a number above 0"),
        ({"hidden_size": 10**400}, "expected a whole number above 0"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6'; expected a number above 0"),
        ({"attention_bias": "no"}, "attention_bias='no'; expected true or false"),
    ],
)
def test_a_llama_configuration_that_fell_over_or_was_believed(tmp_path, change, words):
    oracle.save(oracle.random_llama(layers=1, heads=2, d=8, vocab=9), tmp_path)
    say(tmp_path, **change)
    refused(lambda: load(tmp_path, device="meta"), words)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": %s}' % ("9" * 5000), '{"n_layer": 2, "n_layer": 3}'])
def test_json_that_python_falls_over_or_reads_at_will(folder, text):
    with pytest.raises(ValueError, match=r"too deep|integer string|says 'n_layer' twice"):
        strict_json(text)
    (folder / "config.json").write_text(text)
    refused(lambda: load(folder), "config.json is not JSON")
    (folder / INDEX).write_text(text)
    refused(lambda: read_index(folder / INDEX), f"{INDEX} is not an index of shards")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":["F32",[1],[0,4]]}',
    ],
)
def test_a_header_that_can_be_read_in_two_ways(tmp_path, text):
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
    refused(lambda: entries(tmp_path / WEIGHTS), f"{WEIGHTS} is not a readable safetensors file: its header is ambiguous")


def test_a_bias_that_the_config_denies_is_not_left_out(tmp_path):
    oracle.save(oracle.random_llama(layers=1, heads=2, d=8, vocab=9, attention_bias=True), tmp_path)
    load(tmp_path)
    say(tmp_path, attention_bias=False)
    refused(lambda: load(tmp_path), ".bias' is not part of the model that config.json describes")


def test_buffers_of_old_files_are_no_lies(folder):
    keep(folder, lambda state: {"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16), "lm_head.weight": torch.ones(9, 8)})
    load(folder)


def test_a_tensor_under_two_names_is_not_chosen_from(folder):
    keep(folder, lambda state: {"wte.weight": state["transformer.wte.weight"] + 1})
    refused(lambda: load(folder), "the weights hold both 'transformer.wte.weight' and 'wte.weight'")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_named(folder, wrong, monkeypatch):
    monkeypatch.setattr("recircuit.core.weights._STEP", 16)

    def change(state):
        spoilt = state["transformer.wpe.weight"].double()
        spoilt[-1, -1] = wrong
        return {"transformer.wpe.weight": spoilt}

    refuse_infinite(folder)
    keep(folder, change)
    refused(lambda: check_contents(folder), WEIGHTS, "tensor 'transformer.wpe.weight' holds a number that is NaN or infinite")


def test_pickled_weights_are_told_of(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refused(lambda: copy_folder(folder, output(folder)), "pytorch_model.bin is pickled and never opened")


def test_a_tokenizer_with_code_is_refused(folder):
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["code.T", null]}}')
    refused(lambda: copy_folder(folder, output(folder)), "tokenizer_config.json: auto_map names code")


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr("shutil.copyfile", denied)
    refused(lambda: copy_folder(folder, output(folder)), "config.json cannot be read or written: permission is denied")


@pytest.mark.parametrize("error", [RuntimeError("no such thing"), ImportError("x"), OSError("y")])
def test_whatever_a_judge_stumbles_over_is_told(folder, monkeypatch, error):
    model, tokens = load(folder), torch.tensor([[1, 2]])

    def fails(*_):
        raise error

    for judge in (fails, lambda *_: fails):
        monkeypatch.setattr(judging, "_transformers", judge)
        refused(lambda: judging.certify(model, folder, None, {"t": tokens}, 1e-4, print), "transformers cannot")


# ---- tokenizers -------------------------------------------------------------------------------------------------------------


def tokenizer(folder, **change):
    """Write the folder's tokenizer with other parts and read it."""
    made = json.loads(word_level(["one", "two", "three"]).to_str())
    (folder / "tokenizer.json").write_text(json.dumps(made | change))
    return Tokenizer.load(folder)


def words(kind="WordLevel", **change):
    """Return the model of a tokenizer; the letters of its words are all that it knows."""
    vocabulary = {"<unk>": 0, "one": 1, "two": 2, "o": 3, "n": 4, "e": 5}
    return {"type": kind, "vocab": vocabulary, "unk_token": "<unk>", **change}


BPE = {"merges": [], "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}


def test_a_text_is_neither_cut_nor_filled(folder):
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    fill = {
        "strategy": {"Fixed": 7},
        "direction": "Right",
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
        "pad_to_multiple_of": None,
    }
    assert tokenizer(folder, truncation=cut, padding=fill).encode("one two three") == [1, 2, 3]
    with pytest.raises(UserError, match="'one two' is 2 tokens"):
        tokenizer(folder, truncation=cut).single("one two")


@pytest.mark.parametrize(
    "model",
    [
        words(),
        words("BPE", **BPE),
        words("BPE", **BPE | {"unk_token": None}),
        words("WordPiece", continuing_subword_prefix="##", max_input_chars_per_word=9),
        {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["one", -1.0]], "byte_fallback": False},
    ],
    ids=lambda model: f"{model['type']} {model.get('unk_token')}",
)
def test_a_word_that_a_vocabulary_lacks_is_no_token(folder, model):
    own = tokenizer(folder, model=model, added_tokens=[])
    assert own.single("one") if model["type"] not in ("BPE",) else own.encode("one")
    refused(lambda: own.single("four"), "four")
    refused(lambda: own.encode("one four one"), "vocabulary of")


def test_words_without_a_splitter_and_with_a_normalizer(folder):
    assert tokenizer(folder, pre_tokenizer=None).encode("one") == [1]
    refused(lambda: tokenizer(folder, pre_tokenizer=None).encode("one two"), "the word 'one two' is not in the vocabulary")
    assert tokenizer(folder, normalizer={"type": "Lowercase"}).encode("ONE Two") == [1, 2]


def test_two_tokens_with_one_id_an_id_far_away_and_dropout_are_refused(folder):
    def vocabulary(**more):
        return {**words(), "vocab": words()["vocab"] | more}

    refused(lambda: tokenizer(folder, model=vocabulary(three=1), added_tokens=[]), "has the id 1 for two tokens")
    refused(lambda: tokenizer(folder, model=vocabulary(three=2**32 - 1), added_tokens=[]), "has the id 4294967295; expected")
    refused(lambda: tokenizer(folder, model=words("BPE", **BPE | {"dropout": 0.5}), added_tokens=[]), "splits words at random")
    tokenizer(folder, model=vocabulary(three=9), added_tokens=[])
    refused(lambda: check_contents(folder), "has 'three' as token 9, but the vocab_size of config.json is 9")


def test_a_tokenizer_that_panics_is_one_sentence(folder):
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    refused(lambda: tokenizer(folder, pre_tokenizer=endless).encode("a" * 40 + "!"), "cannot split 'aaaa")


@pytest.mark.parametrize(("vocab", "merges"), [(b"{", b""), (b"[]", b""), (b'{"a": 0}', b"a b\n"), (b"\xff", b"")])
def test_a_broken_vocabulary_is_named(folder, vocab, merges):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_bytes(vocab)
    (folder / "merges.txt").write_bytes(merges)
    refused(lambda: Tokenizer.load(folder), "vocab.json with merges.txt cannot be read")


# ---- prompts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 9, 10**6])
def test_a_token_that_the_model_lacks_does_not_count_from_the_end(folder, wrong):
    refused(lambda: embed(load(folder), torch.tensor([[1, wrong]])), f"the prompts hold the token {wrong}", "allows 0 to 8")


def test_a_table_with_a_column_twice_is_told():
    column = pa.array(["m"])
    refused(
        lambda: check(pa.table([column, column], names=["model", "model"]), "certificate", "x"), "has the column 'model' twice"
    )


def test_sentences_are_encoded_like_all_prompts():
    source = (ROOT / "workflow_scripts/recircuit/tasks/sentences.py").read_text(encoding="utf-8")
    assert "tokenizer.inner" not in source, "its unknown words would go unseen"
