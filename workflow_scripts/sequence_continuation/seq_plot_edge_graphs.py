"""Scores of whole edge graphs against their number of edges."""

from recircuit.figures.edge_plots import edge_graphs
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = edge_graphs(job.read("edge_graphs"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
