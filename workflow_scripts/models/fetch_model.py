"""Fetch a pinned model from the hub; digests that the config lacks are recorded in the lock file."""

from pathlib import Path

from recircuit.core.hub import fetch_model
from recircuit.study.job import run
from recircuit.study.models import check_contents, check_shape, write_manifest
from recircuit.study.pins import pinned, record_pins


def main(job) -> None:
    choice, lock = job.spec["model"], Path(job.params.lock)
    repo, revision = choice["repo"], choice["revision"]
    files = pinned(lock, repo, revision, choice["files"])
    folder = Path(job.output.model).parent
    digests = fetch_model(repo, revision, files, folder, log=job.log)
    record_pins(lock, Path(job.params.guard), repo, revision, digests, choice["files"], job.log)
    check_shape(job.wildcards.model, folder, choice)
    check_contents(folder)
    write_manifest(Path(job.output.manifest), job.passport(), job.output, repo=repo, revision=revision)


run(main, snakemake)
