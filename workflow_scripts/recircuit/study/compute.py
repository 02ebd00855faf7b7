"""The part of a job that needs torch: the device, exact arithmetic, the model, and chunks within the memory it asked for."""

from pathlib import Path

import torch

from recircuit.core.errors import UserError, nearest
from recircuit.core.families import DTYPES, load
from recircuit.core.model import Model
from recircuit.runs.budget import chunk_size
from recircuit.study.job import Job


def device_of(job: Job) -> str:
    """Set threads and exact fp32, and return ``cuda`` when the job was given a GPU, else ``cpu``."""
    torch.set_num_threads(job.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if int(getattr(job.resources, "gpu", 0) or 0) else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("config: device is cuda, but torch sees no GPU here; set device: cpu or run where one is")
    job.facts |= {"device": device, "dtype": "float32"}
    return device


def open_model(job: Job) -> Model:
    """Load the job's model (``input.model``, its weights) where the job runs, in the spec's ``dtype`` or else in float32."""
    dtype = job.spec.get("dtype", "float32")
    if dtype not in DTYPES:
        raise UserError(f"config: dtype is '{dtype}'{nearest(dtype, DTYPES)}")
    model = load(Path(str(job.input.model)).parent, device=device_of(job), dtype=DTYPES[dtype])
    job.facts |= {"dtype": dtype}
    return model


def chunk_of(job: Job, model: Model, length: int) -> int:
    """Return how many prompts to run at once: within a quarter of the job's memory, or of the GPU's free memory."""
    size = model.dtype.itemsize
    if model.device.type == "cuda":
        return chunk_size(model.spec, length, torch.cuda.mem_get_info()[0] / 4, size)
    # Beyond some 128 prompts a CPU gains nothing (the caches are full), so memory is not spent on it.
    return chunk_size(model.spec, length, job.resources.mem_mb * 2**20 / 4, size, most=128)
