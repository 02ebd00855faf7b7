"""Figure 3: patching along directions, and what section 8 of the spec asks beside it."""

from recircuit.figures.sentiment.patching import patching_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name in ("se_patching", "se_patching_best", "se_patching_null")}
    save(patching_item(job.wildcards.patching, tables, heading), job.output, job.passport())


run(main, snakemake)
