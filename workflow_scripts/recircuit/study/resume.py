"""Where a long training job goes on after it was killed: its progress, whole, in a file beside its output.

The file is no output of the rule, so that Snakemake leaves it; it bears a digest of all that the result depends on, so that
nothing goes on from another recipe, and it is removed when the output is written. Safetensors, no pickles.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.gpt2 import gpt2_config
from recircuit.core.model import Model
from recircuit.core.weights import save_tensors
from recircuit.methods.full_batch import Progress, model_of


def key_of(passport: Mapping, seed: int) -> str:
    """Return a digest of what a training run depends on."""
    return hashlib.sha256(json.dumps([passport, seed], sort_keys=True).encode()).hexdigest()


def partial_path(output: str, seed: int) -> Path:
    """Return the file that keeps the progress of an output's training run."""
    path = Path(output)
    return path.with_name(f".{path.stem}.seed{seed}.partial.safetensors")


def save_progress(path: Path, key: str, progress: Progress) -> None:
    """Write a progress, whole or not at all."""
    tensors = {f"weights/{name}": tensor for name, tensor in progress.weights.items()}
    tensors |= {f"moments/{name}": tensor for name, tensor in progress.moments.items()}
    tensors |= {f"{epoch}/{name}": t for epoch, weights in progress.checkpoints.items() for name, t in weights.items()}
    metadata = {"key": key, "epoch": str(progress.epoch), "curves": json.dumps(progress.curves)}
    save_tensors(path, tensors, metadata)


def load_progress(path: Path, key: str) -> Progress | None:
    """Return the progress of a run with this key, or None where there is none (or a damaged one)."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            progress = Progress(int(metadata["epoch"]), {}, curves=[tuple(row) for row in json.loads(metadata["curves"])])
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                group, _, rest = name.partition("/")
                known = {"weights": progress.weights, "moments": progress.moments}
                target = known[group] if group in known else progress.checkpoints.setdefault(int(group), {})
                target[rest] = file.get_tensor(name)
            return progress
    except (FileNotFoundError, SafetensorError, OSError):
        return None


@dataclass(frozen=True)
class Checkpoints:
    """The kept weights of a training run, by seed and epoch, and the shape of the model."""

    config: Mapping
    weights: Mapping[tuple[int, int], Mapping[str, Tensor]]

    def model(self, seed: int, epoch: int) -> Model:
        """Return the model of a checkpoint."""
        return model_of(self.weights[seed, epoch], self.config)

    def last(self, seed: int) -> Model:
        """Return the model of a seed's last checkpoint."""
        return self.model(seed, max(epoch for found, epoch in self.weights if found == seed))


def write_checkpoints(path: str, start: Model, kept: Mapping[tuple[int, int], Mapping[str, Tensor]], passport: Mapping) -> None:
    """Write checkpoints to one file, whole or not at all; its header has the passport and the model's ``config.json``."""
    tensors = {f"{seed}/{epoch}/{name}": t for (seed, epoch), weights in sorted(kept.items()) for name, t in weights.items()}
    # One key: safetensors writes several in any order.
    metadata = {"recircuit": json.dumps({**passport, "config": gpt2_config(start)}, sort_keys=True)}
    save_tensors(path, tensors, metadata)


def read_checkpoints(path: str) -> Checkpoints:
    """Read what ``write_checkpoints`` wrote; UserError when the file is damaged."""
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            config = json.loads(file.metadata()["recircuit"])["config"]
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                seed, epoch, rest = name.split("/")
                found.setdefault((int(seed), int(epoch)), {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and let Snakemake build it again") from None
    return Checkpoints(config, found)
