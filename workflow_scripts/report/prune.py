"""List the files of cache/ and figures/ that nothing needs; with --config yes=true, remove them."""

from recircuit.study.job import run
from recircuit.study.prune import prune_text


def main(job) -> None:
    print(prune_text(job.params.needed, job.params.models, sure=job.params.yes == "true"), flush=True)


run(main, snakemake)
