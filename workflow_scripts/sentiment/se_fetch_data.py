"""Fetch what models that can read are given: the treebank of reviews, and running text (spec 2.4, 2.5)."""

from pathlib import Path

from recircuit.study.job import run
from recircuit.study.sources import fetch_source


def main(job) -> None:
    for name, choice in job.spec["sources"].items():
        fetch_source(choice, job.output[name], Path(job.params.lock), Path(job.params.guard), job.log)


run(main, snakemake)
