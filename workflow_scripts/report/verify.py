"""List the files whose bytes are not those that were written; with --config yes=true, remove them."""

from functools import partial

from recircuit.study.job import run
from recircuit.study.verify import verify


def main(job) -> None:
    verify(partial(print, flush=True), sure=job.params.yes == "true")


run(main, snakemake)
