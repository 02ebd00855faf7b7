"""What every cached file is and what it cost: SHA-256, rule, digests, commit, seconds, peak memory."""

from recircuit.core.files import atomic
from recircuit.study.job import run
from recircuit.study.lineage import manifest


def main(job) -> None:
    with atomic(job.output.manifest) as part:
        manifest().to_csv(part, sep="\t", index=False, lineterminator="\n")


run(main, snakemake)
