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
from safetensors.torch import load_file
from transformers.utils import logging as hub_logging

import oracle
from recircuit.core.shards import WEIGHTS
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
