"""How well directions tell words apart, by layer."""

import pandas as pd

from recircuit.figures.sentiment.fits import accuracies
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    found = pd.concat([job.read("se_fit_accuracy", path) for path in (job.input.se_fit_accuracy, job.input.das_accuracy)])
    save(accuracies(found, heading), job.output, job.passport())


run(main, snakemake)
