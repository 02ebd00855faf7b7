"""The path of iterative pruning: score against components left."""

import pandas as pd

from recircuit.figures.sequence_continuation import pruning_path
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    figure = pruning_path(trace, job.spec["threshold"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
