"""Edge attribution against the exact effects of edges."""

from recircuit.figures.edge_plots import attribution
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = attribution(job.read("edge_attribution"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
