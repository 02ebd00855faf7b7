"""From a folder in Hugging Face format to a Model and back: one reader per architecture, safetensors only."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import strict_json
from recircuit.core.gpt2 import gpt2, gpt2_config, gpt2_state
from recircuit.core.llama import llama, llama_config, llama_state
from recircuit.core.model import Model
from recircuit.core.neox import neox
from recircuit.core.weights import Read, Weights

__all__ = ["DTYPES", "FAMILIES", "Family", "gpt2_state", "load", "read_config", "save_state"]


class Family(NamedTuple):
    """An architecture: its reader, and what transformers puts in front of the names of all weights but the unembedding."""

    read: Callable[[dict, Read], Model]
    prefix: str


FAMILIES = {  # by config.json's model_type
    "gpt2": Family(gpt2, "transformer."),
    "gpt_neox": Family(neox, "gpt_neox."),
    "llama": Family(llama, "model."),
    "mistral": Family(llama, "model."),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_WRITERS = {"gpt2": (gpt2_state, gpt2_config), "llama": (llama_state, llama_config)}


def load(folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Load ``config.json`` and the weights of a folder: ``model.safetensors``, or the shards that its index names.

    The weights go straight to ``device`` in ``dtype`` (float32, bfloat16 or float64), one tensor at a time, so that loading
    needs the memory of the model and of its largest tensor. With device ``meta`` names and shapes are checked against the
    config, but nothing else of the weights is read.

    Raises UserError for a missing file, an architecture we do not know, or weights that do not fit the config.
    """
    folder = Path(folder)
    if dtype not in DTYPES.values():
        raise UserError(f"{folder}: {dtype} is not a type that models run in; choose one of: {', '.join(DTYPES)}")
    config = read_config(folder / "config.json")
    family = str(config.get("model_type", "none"))
    if family not in FAMILIES:
        raise UserError(f"{folder}/config.json: model_type '{family}' is not known{nearest(family, FAMILIES)}")
    if config.get("auto_map"):
        raise UserError(f"{folder}/config.json: auto_map names code of the model's own, which is never run; expected none")
    if config.get("quantization_config"):
        raise UserError(f"{folder}/config.json: the weights are quantized; expected them in full, 16 bits or more")
    weights = Weights(folder, FAMILIES[family].prefix, device, dtype)
    model = FAMILIES[family].read(config, weights.read)
    weights.refuse_rest()
    return model


def read_config(path: Path) -> dict:
    """Read a ``config.json``; UserError when it is missing or not JSON."""
    try:
        config = strict_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a model folder in Hugging Face format") from None
    except ValueError as error:  # text that is not UTF-8, too
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a configuration; expected a JSON object")
    return config


def save_state(model: Model) -> tuple[dict[str, Tensor], dict]:
    """Return a model's weights under transformers' names, and its ``config.json`` but for what a tokenizer tells.

    Raises UserError for a family that is only read.
    """
    if model.spec.family not in _WRITERS:
        raise UserError(f"models of the family '{model.spec.family}' are read, not written; expected one of: gpt2, llama")
    state, config = _WRITERS[model.spec.family]
    return state(model), config(model)
