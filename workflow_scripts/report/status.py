"""Print which pictures are built, stale (and why), missing, failed or being built."""

from recircuit.study.job import run
from recircuit.study.status import status_text


def main(job) -> None:
    print(status_text(job.params.shown, job.params.jobs, job.params.wanted), flush=True)


run(main, snakemake)
