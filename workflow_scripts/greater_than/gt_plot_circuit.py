"""Figure 1: the circuit."""

from recircuit.figures.greater_than.diagram import diagram
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = diagram(job.read("gt_circuit"), job.read("ipp"), job.spec["choose_share"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
