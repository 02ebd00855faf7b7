"""Figure 9: principal components, each point a YY."""

from recircuit.figures.greater_than.lenses import pca
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = pca(job.read("gt_pca"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
