"""Take over a model folder in Hugging Face format: config.json, model.safetensors and a tokenizer, nothing else."""

from pathlib import Path

from recircuit.study.job import run
from recircuit.study.models import check_contents, check_shape, copy_folder, write_manifest


def main(job) -> None:
    choice = job.spec["model"]
    copy_folder(Path(choice["path"]), job.output)
    check_shape(job.wildcards.model, Path(job.output.model).parent, choice)
    check_contents(Path(job.output.model).parent)
    write_manifest(Path(job.output.manifest), job.passport(), job.output)


run(main, snakemake)
