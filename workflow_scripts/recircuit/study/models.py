"""Model folders: how the three sources (trained, hub, local) come to the one shape that everything else reads.

``cache/models/<model>/`` holds config.json, model.safetensors, tokenizer.json and manifest.json (what came from where).
"""

import fcntl
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file

from recircuit.core.errors import UserError
from recircuit.core.families import load, save_state
from recircuit.core.files import atomic, sha256
from recircuit.core.model import Model
from recircuit.core.shards import INDEX, SHARD, WEIGHTS, merge_shards
from recircuit.core.tokenizer import Tokenizer


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


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
    with atomic(str(output.model)) as part:
        save_file(state, part, metadata={"format": "pt"})
    with atomic(str(output.tokenizer)) as part:
        tokenizer.inner.save(str(part))
    write_json(Path(str(output.config)), config)


def pinned(lock: Path, repo: str, revision: str, files: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the expected SHA-256 of each file: of the config, else of the lock file, else None.

    Shards, which a config need not name, are demanded as they were recorded when their index is asked for.
    """
    recorded = json.loads(lock.read_text(encoding="utf-8")).get(f"{repo}@{revision}", {}) if lock.is_file() else {}
    pieces = {name: digest for name, digest in recorded.items() if INDEX in files and SHARD.fullmatch(name)}
    return pieces | {name: digest or recorded.get(name) for name, digest in files.items()}


def record_pins(
    lock: Path, guard: Path, repo: str, revision: str, digests: Mapping[str, str], files: Mapping, log: Callable[[str], None]
) -> None:
    """Add the digests that the config does not have to the lock file, which the user commits.

    ``guard`` is a file that fetch jobs lock in turn, since several may come here at once.
    """
    new = {name: digest for name, digest in digests.items() if not files.get(name)}
    if not new:
        return
    with guard.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        known = json.loads(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
        known.setdefault(f"{repo}@{revision}", {}).update(new)
        write_json(lock, known)
    log(f"{lock} now has the digests of {', '.join(sorted(new))}; commit it")


def copy_folder(folder: Path, output) -> None:
    """Copy config, weights and tokenizer of a local folder: shards, or vocab.json and merges.txt, become one file."""
    if not folder.is_dir():
        raise UserError(f"the model folder {folder} is not there; expected a folder in Hugging Face format")
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


def check_shape(name: str, folder: Path, choice: Mapping) -> None:
    """Raise UserError when the config's layers, heads or width are not the model's, or its weights cannot be read.

    Reads headers alone: names, shapes and the file's length, not the weights, which a small machine may not hold.
    """
    spec = load(folder, device="meta").spec
    found = {"layers": spec.n_layers, "heads": spec.n_heads, "width": spec.d_model}
    for key, value in found.items():
        if choice[key] != value:
            raise UserError(f"config: models.{name}.{key} is {choice[key]}, but the model's config.json says {value}")
