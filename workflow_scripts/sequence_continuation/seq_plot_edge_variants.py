"""Edge tests as published against the corrected ones."""

import pandas as pd

from recircuit.figures.edge_plots import edge_variants
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    edges = pd.concat([job.read("edges", path) for path in job.input.edges])
    figure = edge_variants(edges, job.spec["edge_threshold"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
