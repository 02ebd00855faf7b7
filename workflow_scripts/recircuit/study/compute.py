"""The part of a job that needs torch: the device, exact arithmetic, the model, and chunks within the memory it asked for."""

import math
import re
from pathlib import Path

import torch

from recircuit.core.errors import UserError, nearest
from recircuit.core.families import DTYPES, load
from recircuit.core.model import Model
from recircuit.core.shards import folder_entries
from recircuit.core.weights import FLOATS
from recircuit.runs.budget import chunk_size
from recircuit.study.job import Job

SPARE = 1.1  # of a model's weights: what there must be to hold them and to run a few prompts
GROUPS = Path("/sys/fs/cgroup")


def device_of(job: Job) -> str:
    """Set threads and exact fp32, and return ``cuda`` when the job was given a GPU, else ``cpu``."""
    torch.set_num_threads(job.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if int(getattr(job.resources, "gpu", 0) or 0) else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("config: device is cuda, but torch sees no GPU here; set device: cpu or run where one is")
    job.facts |= {"device": device, "dtype": "float32"}
    return device


def open_model(job: Job, copies: int = 1) -> Model:
    """Load the job's model (``input.model``, its weights) where the job runs, in the spec's ``dtype`` or else in float32.

    ``copies``: how often the job will hold the weights at once. Raises UserError before anything is loaded when they would not
    fit there.
    """
    dtype = job.spec.get("dtype", "float32")
    if dtype not in DTYPES:
        raise UserError(f"config: dtype is '{dtype}'{nearest(dtype, DTYPES)}")
    folder, device = Path(str(job.input.model)).parent, device_of(job)
    check_room(folder, device, DTYPES[dtype], copies)
    model = load(folder, device=device, dtype=DTYPES[dtype])
    job.facts |= {"dtype": dtype}
    return model


def check_room(folder: Path, device: str, dtype: torch.dtype, copies: int = 1) -> None:
    """Raise UserError when copies of a folder's weights, in a type, with SPARE, are more than what is free on a device."""
    numbers = sum(math.prod(entry.shape) for entry in folder_entries(folder).values() if entry.dtype in FLOATS)
    needed, free = SPARE * copies * numbers * dtype.itemsize, free_bytes(device)
    if needed > free:
        where = "the GPU" if device == "cuda" else "this machine"
        kind, held = str(dtype).removeprefix("torch."), f" for {copies} copies of its weights" if copies > 1 else ""
        raise UserError(
            f"model '{folder.name}' needs {needed / 1e9:.3g} GB in {kind}{held}, but {where} has {free / 1e9:.3g} GB free; "
            "run where there is more, or leave it out of the paper's models"
        )


def free_bytes(device: str) -> float:
    """Return the free bytes of the GPU, or of this machine as far as its system grants them; infinite if it does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        group = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return math.inf
    group = GROUPS / (group[1] if group else "")
    limits = [folder / "memory.max" for folder in (group, *group.parents) if (folder / "memory.max").is_file()]
    granted = [int(text) for limit in limits if (text := limit.read_text(encoding="ascii").strip()).isdecimal()]
    return min(1024 * int(facts["MemAvailable"].split()[0]), *granted, math.inf)


def chunk_of(job: Job, model: Model, length: int) -> int:
    """Return how many prompts to run at once: within a quarter of the job's memory, or of the GPU's free memory."""
    size = model.dtype.itemsize
    if model.device.type == "cuda":
        return chunk_size(model.spec, length, torch.cuda.mem_get_info()[0] / 4, size)
    # Beyond some 128 prompts a CPU gains nothing (the caches are full), so memory is not spent on it.
    return chunk_size(model.spec, length, job.resources.mem_mb * 2**20 / 4, size, most=128)
