"""The part of a job that needs torch: the device, exact arithmetic, the model, and chunks within the memory it asked for."""

from pathlib import Path

import torch

from recircuit.core.errors import UserError
from recircuit.core.families import load
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
    """Load the job's model (``input.model``, its weights) in fp32 where the job runs."""
    return load(Path(str(job.input.model)).parent, device=device_of(job))


def chunk_of(job: Job, model: Model, length: int) -> int:
    """Return how many prompts to run at once: within a quarter of the job's memory, or of the GPU's free memory."""
    if model.device.type == "cuda":
        return chunk_size(model.spec, length, torch.cuda.mem_get_info()[0] / 4)
    # Beyond some 128 prompts a CPU gains nothing (the caches are full), so memory is not spent on it.
    return chunk_size(model.spec, length, job.resources.mem_mb * 2**20 / 4, most=128)
