"""Mistakes in the weights and shards of a model folder; each is in the list of ``hostile`` once this module is imported."""

import json
import struct

import torch
from hostile import BOMB, BOMB_PICKLE, EITHER, FINE, REFUSED, TYPES, mistake, packed, raw_bytes
from hypothesis import strategies as st

from recircuit.core.shards import INDEX, WEIGHTS


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
        where[name] = next(file for file in sorted(set(where.values())) if file != where[name])
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
