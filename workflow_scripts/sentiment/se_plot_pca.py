"""The appendix's principal components: words at the embedding, and at later layers."""

from recircuit.figures.sentiment.pca import pca_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = pca_item(job.wildcards.pca, job.read("se_pca_points"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
