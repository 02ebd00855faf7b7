"""Weights from disk to where they are used, one tensor at a time: never twice in memory, never pickled."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import atomic
from recircuit.core.model import Norm
from recircuit.core.shards import Entry, folder_entries

_LAYER = re.compile(r"(?:h|layers)\.\d+\.(.+)")
# What older versions of transformers kept beside the weights of a layer, and nothing reads.
_BUFFER = re.compile(r"(attn|attention)\.(masked_)?bias|(.+\.)?inv_freq")
_STEP = 2**22  # bytes of a tensor looked at together
Read = Callable[..., Tensor]  # read(name, *shape): a tensor that must have this shape
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights:
    """The tensors of a model folder, in one file or in shards; ``read`` brings one to ``device`` in ``dtype``.

    Beside what was returned before, the bytes of one tensor are held. On device ``meta`` nothing but the headers is
    read: names and shapes are checked, and the tensors have no numbers.
    """

    def __init__(self, folder: Path, prefix: str, device: str | torch.device, dtype: torch.dtype) -> None:
        self.folder, self.prefix, self.device, self.dtype = folder, prefix, torch.device(device), dtype
        self.entries = folder_entries(folder)
        self.read_names: set[str] = set()
        self._room = torch.empty(0, dtype=torch.uint8)

    def read(self, name: str, *shape: int) -> Tensor:
        """Return a tensor by its name, with or without the prefix; UserError when it is missing or of another shape."""
        # The hub's gpt2 has bare names, models saved by transformers have the prefix.
        named = [known for known in (self.prefix + name, name) if known in self.entries]
        if not named:
            raise UserError(f"{self.folder}: tensor '{name}' is missing{nearest(name, self.entries)}")
        if len(named) > 1:
            raise UserError(f"{self.folder}: the weights hold both '{named[0]}' and '{name}'; expected one of them")
        self.read_names.add(named[0])
        entry = self.entries[named[0]]
        if entry.shape != shape:
            raise UserError(f"{entry.path.name}: {name} has shape {entry.shape}, config.json says {shape}")
        if entry.dtype not in FLOATS:
            expected = ", ".join(FLOATS)
            raise UserError(f"{entry.path}: tensor '{name}' has the type {entry.dtype}; expected one of: {expected}")
        if self.device.type == "meta":
            return torch.empty(shape, dtype=self.dtype, device="meta")
        return self._numbers(entry)

    def refuse_rest(self) -> None:
        """Raise UserError for a tensor of a layer that was not read: config.json then tells of another model."""
        for name, entry in self.entries.items():
            inside = _LAYER.fullmatch(name.removeprefix(self.prefix))
            if inside and name not in self.read_names and not _BUFFER.fullmatch(inside[1]):
                raise UserError(f"{entry.path}: tensor '{name}' is not part of the model that config.json describes")

    def _numbers(self, entry: Entry) -> Tensor:
        kind, size = FLOATS[entry.dtype], entry.stop - entry.start
        if kind == self.dtype and self.device.type == "cpu":  # the bytes are the tensor
            raw = torch.empty(size, dtype=torch.uint8)
        else:  # one room for all: what is freed between tensors does not always go back to the system
            if len(self._room) < size:
                self._room = torch.empty(max(e.stop - e.start for e in self.entries.values()), dtype=torch.uint8)
            raw = self._room[:size]
        _fill(raw, entry)
        return raw.view(kind).view(entry.shape).to(device=self.device, dtype=self.dtype)


def _fill(raw: Tensor, entry: Entry) -> None:
    # Read, not mapped: pages of a mapped file stay in memory beside the converted copy until the last tensor is done.
    with entry.path.open("rb", buffering=0) as file:
        file.seek(entry.start)
        view, done = memoryview(raw.numpy()), 0
        while done < len(view):  # a system call reads 2 GB at most
            count = file.readinto(view[done:])
            if not count:
                raise UserError(f"{entry.path} became shorter while it was read; expected it to stay as it was")
            done += count


def linear(read: Read, name: str, out: int, into: int) -> Tensor:
    """Read the matrix of a torch ``Linear``, kept as [out, in], as [in, out]: a view, not a copy."""
    return read(f"{name}.weight", out, into).T


def norm(read: Read, name: str, width: int, *, shift: bool = True) -> Norm:
    """Read LayerNorm's scale and shift, or RMSNorm's scale."""
    return Norm(read(f"{name}.weight", width), read(f"{name}.bias", width) if shift else None)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file, whole or not at all; holds them twice.

    The library's own ``save_file`` writes under a name of its own beside the file, which a killed process leaves there.
    """
    with atomic(path) as part:
        part.write_bytes(save(dict(tensors), dict(metadata)))


def refuse_infinite(folder: Path) -> None:
    """Raise UserError for a tensor of a folder with a number that is NaN, infinite, or infinite once it is a float32.

    Reads all weights, a few megabytes at a time.
    """
    raw = torch.empty(_STEP, dtype=torch.uint8)
    for name, entry in folder_entries(folder).items():
        for start in range(entry.start, entry.stop if entry.dtype in FLOATS else entry.start, _STEP):
            part = raw[: min(_STEP, entry.stop - start)]
            _fill(part, replace(entry, start=start))
            if not part.view(FLOATS[entry.dtype]).float().isfinite().all():
                raise UserError(f"{entry.path}: tensor '{name}' holds a number that is NaN or infinite in float32")
