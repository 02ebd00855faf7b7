"""Weights in shards: read like one file, made into one file, refused when they lie, and never twice in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.model import map_tensors
from recircuit.core.shards import INDEX, WEIGHTS, entries, merge_shards, read_index
from workflow import SCRIPTS

NAMES = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
MIXED = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.arange(5, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
    "one": torch.tensor(2.5, dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
    "größe": torch.arange(3, dtype=torch.float16),
}


def tensors(model):
    found = []
    map_tensors(model, lambda tensor: found.append(tensor) or tensor)
    return found


def pieces(folder, parts, **index):
    """Write shards and their index; ``index`` overrules where the index says a tensor is."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(NAMES, parts, strict=True):
        save_file(part, folder / name)
    where = {tensor: name for name, part in zip(NAMES, parts, strict=True) for tensor in part} | index
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def raw(path, header, body=b""):
    """Write a safetensors file whose header says what one likes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


# ---- what works -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [oracle.random_gpt2, oracle.random_neox, oracle.random_llama])
def test_shards_are_read_like_one_file(family, tmp_path):
    slow = family()
    slow.save_pretrained(tmp_path / "whole")
    slow.save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    assert len(set(read_index(tmp_path / "shards" / INDEX).values())) > 2
    assert not (tmp_path / "shards" / WEIGHTS).exists()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        whole, shards = (tensors(load(tmp_path / name, dtype=dtype)) for name in ("whole", "shards"))
        assert all(torch.equal(a, b) for a, b in zip(whole, shards, strict=True))
    merge_shards(tmp_path / "shards" / INDEX, tmp_path / "merged" / WEIGHTS)
    assert (tmp_path / "merged" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_merged_tensors_are_the_same_bit_for_bit(tmp_path):
    order = list(MIXED)
    folder = pieces(tmp_path, [{k: MIXED[k] for k in order[:2]}, {k: MIXED[k] for k in order[2:]}])
    merge_shards(folder / INDEX, tmp_path / WEIGHTS)
    merged = load_file(tmp_path / WEIGHTS)
    assert merged.keys() == MIXED.keys()
    assert all(torch.equal(merged[k], MIXED[k]) and merged[k].dtype == MIXED[k].dtype for k in MIXED)
    for name, entry in entries(tmp_path / WEIGHTS).items():
        assert entry.start % MIXED[name].element_size() == 0


def test_pieces_smaller_than_a_tensor_are_put_together(tmp_path, monkeypatch):
    from recircuit.core import shards

    monkeypatch.setattr(shards, "PIECE", 7)
    folder = pieces(tmp_path, [{"a": torch.randn(9, 9)}, {"b": torch.randn(40)}])
    merge_shards(folder / INDEX, tmp_path / WEIGHTS)
    assert torch.equal(load_file(tmp_path / WEIGHTS)["a"], load_file(folder / NAMES[0])["a"])


def test_a_tensor_is_taken_from_where_the_index_says(tmp_path):
    folder = pieces(tmp_path, [{"a": torch.zeros(3)}, {"a": torch.ones(3), "b": torch.ones(1)}], a=NAMES[0])
    merge_shards(folder / INDEX, tmp_path / WEIGHTS)
    assert load_file(tmp_path / WEIGHTS)["a"].tolist() == [0, 0, 0]


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../model-1-of-2.safetensors", "/tmp/model-1-of-2.safetensors", "model.bin", "", 7, None])
def test_an_index_names_files_beside_it(tmp_path, name):
    folder = pieces(tmp_path / "inner", [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], a=name)
    with pytest.raises(UserError, match=r"names the shard|is not an index of shards"):
        merge_shards(folder / INDEX, folder / WEIGHTS)
    assert not (folder / WEIGHTS).exists()


def test_a_tensor_that_is_elsewhere_is_named(tmp_path):
    folder = pieces(tmp_path, [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], b=NAMES[0])
    with pytest.raises(UserError, match=rf"says that {NAMES[0]} holds the tensor 'b', but it does not"):
        merge_shards(folder / INDEX, folder / WEIGHTS)


def test_a_shard_that_is_missing_or_cut_is_named(tmp_path):
    folder = pieces(tmp_path, [{"a": torch.zeros(100)}, {"b": torch.zeros(1)}])
    whole = (folder / NAMES[0]).read_bytes()
    (folder / NAMES[0]).write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"{NAMES[0]} is not a readable safetensors file"):
        merge_shards(folder / INDEX, folder / WEIGHTS)
    (folder / NAMES[0]).unlink()
    with pytest.raises(UserError, match=rf"{NAMES[0]} is missing"):
        merge_shards(folder / INDEX, folder / WEIGHTS)
    assert sorted(path.name for path in folder.iterdir()) == [NAMES[1], INDEX]  # and no half of a file


def said(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": said([2], 0, 8)}, b"\0" * 4),  # bytes that are not there
        ({"a": said([2], 0, 4)}, b"\0" * 4),  # a shape that does not fit its bytes
        ({"a": said([1], 0, 4), "b": said([1], 0, 4)}, b"\0" * 4),  # an overlap
        ({"a": said([1], 4, 8)}, b"\0" * 8),  # a hole
        ({"a": said([1], 0, 4)}, b"\0" * 8),  # bytes of nobody
        ({"a": said([1], -4, 0)}, b"\0" * 4),
        ({"a": said([1 << 62, 4], 0, 0)}, b""),  # a size that overflows
        ({"a": said([1], 0, 4, "F33")}, b"\0" * 4),
        (b"{", b""),
        (b"[]", b""),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, header, body):
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        entries(raw(tmp_path / WEIGHTS, header, body))


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    for content in (b"", b"\0" * 7, (1 << 40).to_bytes(8, "little") + b"{}", b"\x80\x02}q\x00."):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match="is not a readable safetensors file"):
            entries(tmp_path / WEIGHTS)


def test_numbers_that_are_not_floating_point_are_refused(tmp_path):
    folder = oracle.save(oracle.random_llama(), tmp_path)
    state = load_file(folder / WEIGHTS)
    save_file(state | {"model.norm.weight": torch.ones(32, dtype=torch.int8)}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"tensor 'norm\.weight' has the type I8; expected one of: F64, F32, F16, BF16"):
        load(folder)


# ---- memory -----------------------------------------------------------------------------------------------------------------

PROBE = """
import sys, torch
from pathlib import Path
from recircuit.core.families import load
from recircuit.core.model import map_tensors
from recircuit.core.shards import INDEX, WEIGHTS, merge_shards

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder, what = Path(sys.argv[1]), sys.argv[2]
load(folder.parent / "small", dtype=torch.float64)  # what is loaded once and for all: numpy, the kernels of torch
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before, seen = status("VmRSS:"), {}
if what == "merge":
    merge_shards(folder / INDEX, folder / "merged" / WEIGHTS)
else:
    model = load(folder, dtype=getattr(torch, what))
    map_tensors(model, lambda t: seen.setdefault(t.data_ptr(), t))
print(status("VmHWM:") - before, sum(t.nbytes for t in seen.values()))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Llama in shards, 16-bit weights as most are published: 170 MB in float32, its largest tensor 8 MB on disk."""
    d, f, layers, vocab = 512, 1536, 10, 8192
    folder = tmp_path_factory.mktemp("memory") / "large"
    oracle.save(oracle.random_llama(), folder.parent / "small")
    folder.mkdir()
    config = {
        "model_type": "llama", "vocab_size": vocab, "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers,
        "num_attention_heads": 8, "max_position_embeddings": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocab, d), "lm_head": (vocab, d), "model.norm": (d,)}
    for layer in range(layers):
        attn, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        shapes |= {f"{attn}{part}_proj": (d, d) for part in "qkvo"}
        shapes |= {f"{mlp}gate_proj": (f, d), f"{mlp}up_proj": (f, d), f"{mlp}down_proj": (d, f)}
        shapes |= {f"model.layers.{layer}.{name}_layernorm": (d,) for name in ("input", "post_attention")}
    ones = {f"{name}.weight": torch.ones(shape, dtype=torch.float16) for name, shape in shapes.items()}
    return pieces(folder, [dict(list(ones.items())[:40]), dict(list(ones.items())[40:])])


def measured(folder: Path, what: str) -> tuple[int, int]:
    """Return the growth of the peak of resident memory, and the model's size, in bytes."""
    env = {"PYTHONPATH": str(SCRIPTS), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROBE, str(folder), what], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, size = map(int, done.stdout.split())
    return peak, size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory as Linux does")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_the_model_and_one_tensor(large, dtype):
    peak, size = measured(large, dtype)
    largest, slack = 2 * 8192 * 512, 4 * 2**20  # slack: Python itself
    assert size > 80e6
    assert peak < size + largest + slack


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts memory as Linux does")
def test_merging_needs_a_few_megabytes(large):
    peak, _ = measured(large, "merge")
    assert peak < 20e6
