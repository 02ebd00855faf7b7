"""TA2: next and copy scores of the best heads, and means over all heads."""

from recircuit.figures.lens_tables import ov_scores
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    figure = ov_scores(job.read("ov_score"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
