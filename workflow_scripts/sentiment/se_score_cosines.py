"""Cosines of directions with each other: of methods, layers and training sets (spec 3.2)."""

import pandas as pd

from recircuit.experiments.sentiment.cosines import direction_cosines
from recircuit.study.job import run


def main(job) -> None:
    found = pd.concat([job.read("se_directions", path) for path in (job.input.se_directions, job.input.das_directions)])
    job.write("se_cosines", direction_cosines(found).assign(model=job.wildcards.model))


run(main, snakemake)
