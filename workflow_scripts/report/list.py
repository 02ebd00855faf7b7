"""Print every item of the inventory: paper, id, title, model, target, built or not."""

from recircuit.study.job import run
from recircuit.study.lineage import inventory_text


def main(job) -> None:
    print(inventory_text(job.params.entries), flush=True)


run(main, snakemake)
