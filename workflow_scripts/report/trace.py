"""Print where a figure, a table or a row of the scorecard came from: the tree of files with digests and logs."""

from recircuit.study.job import run
from recircuit.study.lineage import trace_text


def main(job) -> None:
    print(trace_text(job.params.item, job.params.known), flush=True)


run(main, snakemake)
