"""Model folders with mistakes: good ones of each family in memory, and what a user or a stranger might do to them.

A mistake changes a folder in memory, with the choices that hypothesis draws for it, and says what must become of it:
``refused``; ``fine``; or ``either``, where what was drawn may be harmless.
"""

import json
import pickle
import struct
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

import torch
from badinput import NESTS, TEXT
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers.utils import logging as hub_logging

import oracle
from recircuit.core.shards import INDEX, WEIGHTS
from recircuit.core.tokenizer import word_level

VOCAB, LAYERS, HEADS, WIDTH = 24, 2, 2, 8
WORDS = ["one", "two", "three", "four", "five"]
CHOICE = {"layers": LAYERS, "heads": HEADS, "width": WIDTH}
FAMILIES = {
    "gpt2": lambda: oracle.random_gpt2(layers=LAYERS, heads=HEADS, d=WIDTH, vocab=VOCAB),
    "neox": lambda: oracle.random_neox(layers=LAYERS, heads=HEADS, d=WIDTH, vocab=VOCAB),
    "llama": lambda: oracle.random_llama(layers=LAYERS, heads=HEADS, d=WIDTH, vocab=VOCAB),
    "mistral": lambda: oracle.random_llama(layers=LAYERS, heads=HEADS, d=WIDTH, vocab=VOCAB, mistral=True, sliding_window=9),
}
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
SHAPE_KEYS = {
    "gpt2": ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"],
    "gpt_neox": ["num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size",
                 "max_position_embeddings"],
}  # fmt: skip
SHAPE_KEYS["llama"] = SHAPE_KEYS["mistral"] = [*SHAPE_KEYS["gpt_neox"], "num_key_value_heads"]
REFUSED, FINE, EITHER = "refused", "fine", "either"


@dataclass
class Folder:
    """A model folder before it is written: its config, its tensors (type, shape, bytes), and other files by name."""

    config: dict
    tensors: dict[str, tuple[str, list[int], bytes]]
    tokenizer: dict
    files: dict[str, bytes | None] = field(default_factory=dict)  # instead of what follows from the above; None: no file
    links: dict[str, str] = field(default_factory=dict)
    choice: dict = field(default_factory=lambda: dict(CHOICE))

    def write(self, folder):
        """Write the folder."""
        made = {
            "config.json": json.dumps(self.config).encode(), WEIGHTS: packed(self.tensors),
            "tokenizer.json": json.dumps(self.tokenizer).encode(),
        }  # fmt: skip
        folder.mkdir(parents=True)
        for name, content in (made | self.files).items():
            if content is not None and name not in self.links:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)


def packed(tensors, header=None, extra=()):
    """Return a safetensors file, written by hand; ``header`` changes what it says, ``extra`` are pairs that come twice."""
    said, offset = {}, 0
    for name, (kind, shape, raw) in tensors.items():
        said[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    (header or (lambda known: None))(said)
    text = json.dumps(said)
    for name, value in extra:
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"
    content = text.encode()
    return struct.pack("<Q", len(content)) + content + b"".join(raw for _, _, raw in tensors.values())


def raw_bytes(tensor):
    """Return a tensor's numbers as they lie in a file."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@cache
def _base(family, folder):
    hub_logging.disable_progress_bar()
    slow = FAMILIES[family]().float()
    slow.save_pretrained(folder / family)
    state = load_file(folder / family / WEIGHTS)
    tensors = {name: (TYPES[t.dtype], list(t.shape), raw_bytes(t)) for name, t in state.items()}
    config = json.loads((folder / family / "config.json").read_text())
    return Folder(config, tensors, json.loads(word_level(WORDS).to_str()))


def base(family, folder):
    """Return a good folder of a family."""
    return deepcopy(_base(family, folder))


MISTAKES = []
BOMB = b"import pathlib\npathlib.Path('owned').touch()\n"


class _Bomb:
    def __reduce__(self):
        return exec, (BOMB.decode(),)


BOMB_PICKLE = pickle.dumps(_Bomb())


def mistake(change):
    """Add a mistake to the list of them."""
    MISTAKES.append(change)
    return change


# ---- the config -------------------------------------------------------------------------------------------------------------


@mistake
def key_gone(data, it):
    keys = [key for key in SHAPE_KEYS[it.config["model_type"]] if key != "num_key_value_heads"]
    del it.config[data.draw(st.sampled_from(keys))]
    return REFUSED


@mistake
def size_of_no_size(data, it):
    key = data.draw(st.sampled_from(SHAPE_KEYS[it.config["model_type"]]))
    wrong = ["2", 0, -1, 2.0, True, [2], {}, float("nan"), float("inf"), 10**400, *([] if "key_value" in key else [None])]
    it.config[key] = data.draw(st.sampled_from(wrong))
    return REFUSED


@mistake
def size_that_lies(data, it):
    keys = [key for key in SHAPE_KEYS[it.config["model_type"]] if key != "max_position_embeddings"]
    key = data.draw(st.sampled_from(keys))
    it.config[key] += data.draw(st.sampled_from([-1, 1, 3, 8, 10**6]))
    return REFUSED


@mistake
def another_family(data, it):
    kinds = ["gpt2", "gpt_neox", "bert", "gpt", "", None, 7, ["gpt2"], {"a": 1}]
    others = [kind for kind in kinds if kind != it.config["model_type"]]
    it.config["model_type"] = data.draw(st.sampled_from(others))
    return REFUSED


@mistake
def code_of_its_own(data, it):
    if data.draw(st.booleans()):
        it.config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
        it.files["modeling_mine.py"] = BOMB
    else:
        it.files["tokenizer_config.json"] = json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_mine.T", None]}}).encode()
        it.files["tokenization_mine.py"] = BOMB
    return REFUSED


@mistake
def quantized(data, it):
    it.config["quantization_config"] = data.draw(st.sampled_from([{"bits": 4}, {"quant_method": "gptq"}, "yes", [1]]))
    return REFUSED


@mistake
def strange_activation(data, it):
    key = "activation_function" if it.config["model_type"] == "gpt2" else "hidden_act"
    it.config[key] = data.draw(st.sampled_from(["gelu_now", "", None, ["gelu"], {"gelu": 1}, 3, "GELU", "exec"]))
    return REFUSED


@mistake
def other_activation(data, it):
    key = "activation_function" if it.config["model_type"] == "gpt2" else "hidden_act"
    it.config[key] = data.draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"]))
    return FINE


@mistake
def strange_eps(data, it):
    key = {"gpt2": "layer_norm_epsilon", "gpt_neox": "layer_norm_eps"}.get(it.config["model_type"], "rms_norm_eps")
    wrong = [float("nan"), 0, -1e-5, "1e-5", True, None, [1e-5], float("inf"), 10**400]
    it.config[key] = data.draw(st.sampled_from(wrong))
    return REFUSED


@mistake
def strange_flag(data, it):
    keys = {"gpt2": ["tie_word_embeddings", "scale_attn_weights"], "gpt_neox": ["use_parallel_residual", "attention_bias"]}
    key = data.draw(st.sampled_from(keys.get(it.config["model_type"], ["attention_bias", "tie_word_embeddings", "mlp_bias"])))
    it.config[key] = data.draw(st.sampled_from(["no", "false", 0, 1, None, [], {}, "true"]))
    return REFUSED


@mistake
def turned_flag(data, it):
    keys = {
        "gpt2": ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"], "gpt_neox": ["attention_bias"],
    }.get(it.config["model_type"], ["attention_bias", "mlp_bias"])  # fmt: skip
    defaults = {"scale_attn_weights": True, "attention_bias": it.config["model_type"] == "gpt_neox"}
    key = data.draw(st.sampled_from(keys))
    it.config[key] = not defaults.get(key, False)
    return REFUSED


@mistake
def strange_rotation(data, it):
    if it.config["model_type"] == "gpt2":
        return strange_eps(data, it)
    rope = data.draw(st.sampled_from([
        "default", ["default"], 7, {"rope_type": "linear", "factor": 2.0}, {"rope_type": ["x"]}, {"rope_theta": float("nan")},
        {"rope_theta": -1}, {"rope_theta": "1e4"}, {"rope_theta": 10**400}, {"rope_theta": 100.0, "partial_rotary_factor": 0.3},
        {"partial_rotary_factor": float("nan")}, {"partial_rotary_factor": 10**400}, {"partial_rotary_factor": 7},
    ]))  # fmt: skip
    it.config[data.draw(st.sampled_from(["rope_parameters", "rope_scaling"]))] = rope
    return REFUSED


@mistake
def config_is_not_json(data, it):
    text = json.dumps(it.config)
    it.files["config.json"] = data.draw(
        st.sampled_from([
            b"", b"[]", b"null", b"7", b"{", text.encode()[:-1], text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(),
            b"\x80\x04N.", b"[" * 100_000, text.replace("{", '{"n_layer": 2, "n_layer": 2, ', 1).encode(),
            text.replace("{", f'{{"n": {"9" * 5000}, ', 1).encode(), text.replace('"', "'").encode(), b'{"a": \xff}',
        ]) | st.integers(0, len(text) - 1).map(lambda stop: text[:stop].encode())
    )  # fmt: skip
    return REFUSED


@mistake
def any_value(data, it):
    it.config[data.draw(st.sampled_from(sorted(it.config)) | TEXT)] = data.draw(NESTS)
    return EITHER


@mistake
def choice_of_another_shape(data, it):
    it.choice[data.draw(st.sampled_from(sorted(it.choice)))] += data.draw(st.sampled_from([-1, 1, 100]))
    return REFUSED


# ---- the weights ------------------------------------------------------------------------------------------------------------


def _name(data, it):
    return data.draw(st.sampled_from(sorted(it.tensors)))


@mistake
def tensor_gone(data, it):
    del it.tensors[_name(data, it)]
    return REFUSED


@mistake
def tensor_renamed(data, it):
    name = _name(data, it)
    it.tensors[name + data.draw(st.sampled_from(["_", ".bias", "\0", "x" * 5000]))] = it.tensors.pop(name)
    return REFUSED


@mistake
def tensor_of_another_shape(data, it):
    name = _name(data, it)
    kind, shape, raw = it.tensors[name]
    others = [[*shape, 1], [1, *shape], shape[::-1], [len(raw) // 4], [0], [], [2, len(raw) // 8]]
    other = data.draw(st.sampled_from([other for other in others if other != shape]))
    it.tensors[name] = (kind, other, raw)
    return REFUSED


@mistake
def tensor_more(data, it):
    layer = next(name for name in sorted(it.tensors) if ".1." in name)
    other = data.draw(st.sampled_from([".2.", ".1.more_"]))
    it.tensors[layer.replace(".1.", other, 1)] = it.tensors[layer]
    return REFUSED


@mistake
def tensor_under_both_names(data, it):
    prefix = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}.get(it.config["model_type"], "model.")
    name = data.draw(st.sampled_from([name for name in sorted(it.tensors) if name.startswith(prefix)]))
    it.tensors[name.removeprefix(prefix)] = it.tensors[name]
    return REFUSED


@mistake
def not_a_number(data, it):
    name = _name(data, it)
    _, shape, raw = it.tensors[name]
    wrong = data.draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300]))
    at = data.draw(st.integers(0, len(raw) // 4 - 1))
    values = torch.frombuffer(bytearray(raw), dtype=torch.float32).double()
    values[at] = wrong
    other = data.draw(st.sampled_from([torch.float64] if wrong == 1e300 else [torch.float32, torch.float64, torch.bfloat16]))
    it.tensors[name] = (TYPES[other], shape, raw_bytes(values.to(other)))
    return REFUSED


@mistake
def numbers_of_another_type(data, it):
    for name, (_, shape, raw) in it.tensors.items():
        other = data.draw(st.sampled_from(sorted(TYPES, key=str)))
        it.tensors[name] = (TYPES[other], shape, raw_bytes(torch.frombuffer(bytearray(raw), dtype=torch.float32).to(other)))
    return EITHER  # transformers casts as we do


@mistake
def type_that_lies(data, it):
    name = _name(data, it)
    _, shape, raw = it.tensors[name]
    it.tensors[name] = (
        data.draw(st.sampled_from(["I32", "U32", "F16", "BOOL", "F8_E4M3", "F33", "", "f32", "C64", "I64"])),
        shape,
        raw,
    )
    return REFUSED


@mistake
def no_safetensors(data, it):
    whole = packed(it.tensors)
    it.files[WEIGHTS] = data.draw(
        st.sampled_from([
            b"", b"\0" * 7, BOMB_PICKLE, b"PK\x03\x04" + b"\0" * 60, struct.pack("<Q", 2**63) + whole[8:], whole + b"\0",
            struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 0), struct.pack("<Q", 100_001) + b"[" * 100_001, b"{}" * 40,
        ])
        | st.integers(0, len(whole) - 1).map(lambda stop: whole[:stop])
        | st.integers(0, 2**64 - 1).filter(lambda n: n != len(whole)).map(lambda n: struct.pack("<Q", n) + whole[8:])
    )  # fmt: skip
    size = int.from_bytes(whole[:8], "little")
    return EITHER if it.files[WEIGHTS][:8] == struct.pack("<Q", size) and len(it.files[WEIGHTS]) == len(whole) else REFUSED


@mistake
def offsets_that_lie(data, it):
    names = sorted(it.tensors)
    a, b = data.draw(st.permutations(names))[:2]
    kind = data.draw(st.sampled_from(["overlap", "negative", "beyond", "hole", "swapped", "huge", "fraction", "three", "text"]))

    def change(said):
        begin, end = said[a]["data_offsets"]
        said[a]["data_offsets"] = {
            "overlap": [said[b]["data_offsets"][0], said[b]["data_offsets"][0] + end - begin], "negative": [begin - 8, begin],
            "beyond": [begin + 10**6, end + 10**6], "hole": [begin + 4, end], "swapped": [end, begin],
            "huge": [2**64, 2**64 + 1], "fraction": [begin, end + 0.5], "three": [begin, end, end],
            "text": [str(begin), str(end)],
        }[kind]  # fmt: skip

    it.files[WEIGHTS] = packed(it.tensors, change)
    return REFUSED


@mistake
def header_that_lies(data, it):
    name = _name(data, it)
    kind, shape, _ = it.tensors[name]
    what = data.draw(
        st.sampled_from(["twice", "list", "metadata", "nothing", "null", "number", "deep", "same name as metadata"])
    )
    change, extra = None, []
    if what == "twice":
        said = json.loads(packed(it.tensors)[8:].split(b"]}}")[0] + b"]}}")
        extra = [(name, said[name])]
    else:
        change = {
            "list": lambda said: said.update({name: [kind, shape, said[name]["data_offsets"]]}),
            "metadata": lambda said: said.update(__metadata__={"a": 1}),
            "nothing": lambda said: said.pop(name),
            "null": lambda said: said.update({name: None}),
            "number": lambda said: said.update({name: 7}),
            "deep": lambda said: said[name].update(shape=[[[[]]]]),
            "same name as metadata": lambda said: said.update(__metadata__=said.pop(name)),
        }[what]
    it.files[WEIGHTS] = packed(it.tensors, change, extra)
    return REFUSED


@mistake
def bytes_of_the_weights(data, it):
    content = bytearray(packed(it.tensors))
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    it.files[WEIGHTS] = bytes(content)
    return EITHER


@mistake
def pickled_weights(data, it):
    it.files[WEIGHTS] = None
    it.files[data.draw(st.sampled_from(["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt"]))] = BOMB_PICKLE
    return REFUSED


@mistake
def pickled_weights_beside(data, it):
    it.files["pytorch_model.bin"] = it.files["optimizer.pt"] = BOMB_PICKLE
    it.files["setup.py"] = it.files["conftest.py"] = BOMB
    return FINE


@mistake
def a_file_gone(data, it):
    it.files[data.draw(st.sampled_from(["config.json", WEIGHTS, "tokenizer.json"]))] = None
    return REFUSED


@mistake
def a_folder_for_a_file(data, it):
    name = data.draw(st.sampled_from(["config.json", WEIGHTS, "tokenizer.json"]))
    it.files[name] = None
    it.files[f"{name}/inside"] = b"x"
    return REFUSED


@mistake
def a_link_for_a_file(data, it):
    name = data.draw(st.sampled_from(["config.json", WEIGHTS, "tokenizer.json"]))
    it.links[name] = data.draw(
        st.sampled_from([name, "nowhere", "/dev/zero", "..", "/proc/self/mem", "../outside/secret.txt", "/dev/null"])
    )
    return REFUSED


@mistake
def links_as_in_the_hubs_own_cache(data, it):
    for name, content in (("config.json", json.dumps(it.config).encode()), (WEIGHTS, packed(it.tensors))):
        it.files[f"blobs/{name}.blob"] = content
        it.links[name] = f"blobs/{name}.blob"
    return FINE


# ---- shards -----------------------------------------------------------------------------------------------------------------


def _in_shards(data, it, **change):
    names = sorted(it.tensors)
    cut = data.draw(st.integers(1, len(names) - 1))
    where = {}
    for number, part in ((1, names[:cut]), (2, names[cut:])):
        file = f"model-0000{number}-of-00002.safetensors"
        it.files[file] = packed({name: it.tensors[name] for name in part})
        where |= dict.fromkeys(part, file)
    it.files[WEIGHTS] = None
    it.files[INDEX] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return where


@mistake
def good_shards(data, it):
    _in_shards(data, it)
    return FINE


@mistake
def index_that_leads_elsewhere(data, it):
    where = _in_shards(data, it)
    name = data.draw(st.sampled_from(sorted(where)))
    where[name] = data.draw(st.sampled_from([
        "../outside/model-00001-of-00002.safetensors", "/etc/passwd", "./model-00001-of-00002.safetensors", "",
        ".", "..", None, 7,
        "model-00001-of-00002.bin", "pytorch_model.bin", "model-00001-of-00002.safetensors\0", ["a"], {"a": 1},
        "model-1/../2-of-3.safetensors",
        "model-00003-of-00002.safetensors", "\u202emodel-00001-of-00002.safetensors",
        "model-00001-of-00002.safetensors\n", INDEX, "config.json",
    ]))  # fmt: skip
    it.files[INDEX] = json.dumps({"weight_map": where}).encode()
    return REFUSED


@mistake
def index_that_is_none(data, it):
    where = _in_shards(data, it)
    text = json.dumps({"weight_map": where})
    it.files[INDEX] = data.draw(st.sampled_from([
        b"", b"[]", b"{}", b"null", b'{"weight_map": null}', b'{"weight_map": []}', b'{"weight_map": 7}', b'{"weight_map": {}}',
        b"\xff",
        b'{"weight_map": "model-00001-of-00002.safetensors"}', text[:-2].encode(), b"[" * 100_000, BOMB_PICKLE,
        text.encode("utf-16"),
        b'{"weight_map": {"a": %s}}' % (b"[" * 5000 + b"]" * 5000), f'{{"n": {"9" * 5000}, "weight_map": {{}}}}'.encode(),
        (text[:-2] + f", {json.dumps(next(iter(where)))}: \"model-00002-of-00002.safetensors\"}}}}").encode(),
    ]))  # fmt: skip
    return REFUSED


@mistake
def shards_that_lie(data, it):
    where = _in_shards(data, it)
    names, kind = sorted(where), data.draw(st.sampled_from(["elsewhere", "gone", "cut", "none", "link", "unnamed", "more"]))
    first = "model-00001-of-00002.safetensors"
    if kind == "elsewhere":
        name = data.draw(st.sampled_from(names))
        where[name] = next(file for file in set(where.values()) if file != where[name])
    elif kind == "gone":
        it.files[first] = None
    elif kind == "cut":
        it.files[first] = it.files[first][: data.draw(st.integers(0, len(it.files[first]) - 1))]
    elif kind == "none":
        it.files[first] = BOMB_PICKLE
    elif kind == "link":
        it.files[first] = None
        it.links[first] = data.draw(st.sampled_from([first, "/dev/zero", "nowhere", "..", "../outside/secret.txt"]))
    elif kind == "unnamed":
        del where[data.draw(st.sampled_from(names))]
    else:
        where["more"] = first
    it.files[INDEX] = json.dumps({"weight_map": where}).encode()
    return REFUSED


# ---- the tokenizer ----------------------------------------------------------------------------------------------------------

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
