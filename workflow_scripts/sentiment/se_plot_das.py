"""The appendix's losses of DAS by the number of dimensions."""

from recircuit.figures.sentiment.fits import dimensions
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = dimensions(job.read("se_das_history"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
