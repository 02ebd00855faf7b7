"""Table 4: circuits on each other's tasks, beside random ones."""

from recircuit.figures.sequence_continuation import cross_task
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = cross_task(job.read("circuit_scores"), job.spec["threshold"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
