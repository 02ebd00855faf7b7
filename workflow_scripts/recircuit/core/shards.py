"""Weight files as bytes: what a safetensors file says it holds, an index of shards, and shards made into one file.

Nothing here interprets a number: tensors are copied as bytes, a few megabytes at a time.
"""

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from recircuit.core.errors import UserError
from recircuit.core.files import atomic, strict_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\w+-of-\w+\.safetensors", re.ASCII)
PIECE = 8 * 2**20  # bytes copied at once


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type in safetensors' words, its shape, and which bytes of the file are its own."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def entries(path: Path) -> dict[str, Entry]:
    """Return the tensors of a safetensors file, from its header alone.

    Raises UserError for a file that is missing, or whose header does not describe its bytes: lengths, types and shapes that
    do not fit, offsets outside the file, tensors that overlap, bytes that belong to none.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; only safetensors are read, never pickled weights")
    try:
        with safe_open(path, framework="np"):  # the format's own library checks the header
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text, first = file.read(length), 8 + length
    try:
        header = strict_json(text.decode())
        header.pop("__metadata__", None)
        return {
            name: Entry(path, said["dtype"], tuple(said["shape"]), *(first + offset for offset in said["data_offsets"]))
            for name, said in header.items()
        }
    except (ValueError, TypeError) as error:  # the library takes a tensor twice, and one told as a list
        raise UserError(f"{path} is not a readable safetensors file: its header is ambiguous ({error})") from error


def read_index(path: str | Path) -> dict[str, str]:
    """Return which file holds each tensor, by an index of shards.

    Raises UserError for anything but an index, and for a name that is not a shard in the same folder.
    """
    path = Path(path)
    try:
        files = dict(strict_json(path.read_text(encoding="utf-8"))["weight_map"])
        names = sorted(set(files.values()))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected an index of shards") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        names = []
    if not names:
        raise UserError(f"{path} is not an index of shards; expected JSON with 'weight_map', from tensors to files")
    for name in names:
        if name != WEIGHTS and not SHARD.fullmatch(str(name)):
            raise UserError(f"{path} names the shard {name!r}; expected names like model-00001-of-00002.safetensors")
    return files


def sharded_entries(index: Path) -> dict[str, Entry]:
    """Return the tensors that an index names, each from the file beside it that holds it.

    Raises UserError as ``read_index`` and ``entries`` do, and for a tensor that is not where the index says.
    """
    files = read_index(index)
    held = {name: entries(index.with_name(name)) for name in sorted(set(files.values()))}
    for tensor, name in files.items():
        if tensor not in held[name]:
            raise UserError(f"{index} says that {name} holds the tensor '{tensor}', but it does not")
    return {tensor: held[name][tensor] for tensor, name in files.items()}


def folder_entries(folder: Path) -> dict[str, Entry]:
    """Return the tensors of a model folder: of ``model.safetensors``, or else of the shards that its index names."""
    whole, index = folder / WEIGHTS, folder / INDEX
    return sharded_entries(index) if index.is_file() and not whole.is_file() else entries(whole)


def merge_shards(index: Path, target: Path) -> None:
    """Write the tensors of an index's shards into one file, whole or not at all, in safetensors' own order.

    Holds a few megabytes, however large the model is; needs the disk for both forms until the shards are removed.
    """
    found = sharded_entries(index)
    # Wide types first, as the format's own writer has them, so that every tensor begins where its type may.
    order = sorted(found, key=lambda name: (-_width(found[name]), name))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        entry, begin = found[name], offset
        offset += entry.stop - entry.start
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [begin, offset]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic(target) as part, ExitStack() as stack:
        out = stack.enter_context(part.open("wb"))
        sources = {path: stack.enter_context(path.open("rb")) for path in {entry.path for entry in found.values()}}
        out.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _copy(sources[found[name].path], found[name], out)
        out.flush()


def _width(entry: Entry) -> int:
    """Return how many bits one number of a tensor has, by its type's name: F32, BF16, F8_E4M3; BOOL has 8."""
    digits = re.search(r"\d+", entry.dtype)
    return int(digits[0]) if digits else 8


def _copy(source: BinaryIO, entry: Entry, target: BinaryIO) -> None:
    source.seek(entry.start)
    left = entry.stop - entry.start
    while left:
        piece = source.read(min(PIECE, left))
        if not piece:
            raise UserError(f"{entry.path} became shorter while it was read; expected it to stay as it was")
        target.write(piece)
        left -= len(piece)
