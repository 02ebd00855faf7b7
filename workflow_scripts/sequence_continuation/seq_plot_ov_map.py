"""Next and copy scores of every head."""

from recircuit.figures.lens_tables import ov_map
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = ov_map(job.read("ov_score"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
