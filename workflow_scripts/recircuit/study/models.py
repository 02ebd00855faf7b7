"""Model folders: how the three sources (trained, hub, local) come to the one shape that everything else reads.

``cache/models/<model>/`` holds config.json, model.safetensors, tokenizer.json and manifest.json (what came from where).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.families import load, read_config, save_state
from recircuit.core.files import atomic, sha256
from recircuit.core.model import Model
from recircuit.core.shards import INDEX, WEIGHTS, merge_shards
from recircuit.core.tokenizer import Tokenizer
from recircuit.core.weights import refuse_infinite, save_tensors
from recircuit.study.pins import write_json

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")  # weights that run code when they are opened


def write_manifest(path: Path, passport: dict, output, **facts) -> None:
    """Write what the model's files are (SHA-256) and where they came from."""
    files = {Path(str(file)).name: sha256(str(file)) for file in output if str(file) != str(path)}
    write_json(path, {"files": files, "passport": passport, **facts})


def failed_gates(name: str, scores: Mapping, gates: Mapping) -> None:
    """Raise UserError naming every gate that a trained model missed, with both numbers."""
    missed = [
        f"{kind} {metric} {scores[kind][metric]:.3f} < {limit}"
        for kind, limits in gates.items()
        for metric, limit in limits.items()
        if scores[kind][metric] < limit
    ]
    if missed:
        raise UserError(f"model '{name}' missed its gates on held-out prompts ({'; '.join(missed)}); raise its steps")


def save_trained(model: Model, tokenizer: Tokenizer, output) -> None:
    """Write a model of ours, a GPT-2 or a Llama, in Hugging Face format."""
    state, config = save_state(model)
    config |= {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.bos, "dtype": str(model.dtype).removeprefix("torch.")}
    save_tensors(str(output.model), state, {"format": "pt"})
    with atomic(str(output.tokenizer)) as part:
        tokenizer.inner.save(str(part))
    write_json(Path(str(output.config)), config)


def copy_folder(folder: Path, output) -> None:
    """Copy config, weights and tokenizer of a local folder: shards, or vocab.json and merges.txt, become one file.

    Raises UserError for what is missing or cannot be read, and for a folder whose weights or tokenizer are code.
    """
    try:
        if not folder.is_dir():
            raise UserError(f"the model folder {folder} is not there; expected a folder in Hugging Face format")
        _refuse_code(folder)
        sharded = (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()
        for name, target in (("config.json", output.config), (WEIGHTS, output.model))[: 1 if sharded else 2]:
            if not (folder / name).is_file():
                raise UserError(f"{folder / name} is missing; expected config.json, model.safetensors and a tokenizer")
            with atomic(str(target)) as part:
                shutil.copyfile(folder / name, part)
        if sharded:
            merge_shards(folder / INDEX, Path(str(output.model)))
        with atomic(str(output.tokenizer)) as part:
            Tokenizer.load(folder).inner.save(str(part))
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be copied: {error.strerror or error}") from error


def _refuse_code(folder: Path) -> None:
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        if pickled:
            raise UserError(f"{folder / pickled[0]} is pickled and never opened; expected the weights as {WEIGHTS}")
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and read_config(settings).get("auto_map"):
        raise UserError(f"{settings}: auto_map names code of the tokenizer's own, which is never run; expected none")


def check_shape(name: str, folder: Path, choice: Mapping) -> None:
    """Raise UserError when the config's layers, heads or width are not the model's, or its weights cannot be read.

    Reads headers alone: names, shapes and the file's length, not the weights, which a small machine may not hold.
    """
    spec = load(folder, device="meta").spec
    found = {"layers": spec.n_layers, "heads": spec.n_heads, "width": spec.d_model}
    for key, value in found.items():
        if choice[key] != value:
            raise UserError(f"config: models.{name}.{key} is {choice[key]}, but the model's config.json says {value}")


def check_contents(folder: Path) -> None:
    """Raise UserError for a token beyond the embedding, and for weights that are not finite numbers.

    Reads all weights once, a few megabytes at a time.
    """
    size = load(folder, device="meta").spec.n_vocab
    vocabulary = Tokenizer.load(folder).inner.get_vocab()
    last = max(vocabulary, key=lambda token: vocabulary[token], default=None)
    if last is None or vocabulary[last] >= size:
        told = "no token" if last is None else f"'{last}' as token {vocabulary[last]}"
        raise UserError(f"{folder}: the tokenizer has {told}, but the vocab_size of config.json is {size}")
    refuse_infinite(folder)
