"""Attention of the heads that matter: Figures 2 and 3, and the appendix."""

import pandas as pd

from recircuit.experiments.overlaps import circuit_sets
from recircuit.figures.attention_maps import attention_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading, spec = title(job.params.item, job.wildcards.model), job.spec
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    sets = circuit_sets(trace, spec["threshold"], spec["layers"], spec["heads"])
    shared = {(n.layer, n.head) for n in set.intersection(*(parts["head"] for parts in sets.values()))}
    published = job.wildcards.model == "gpt2-small"
    figure = attention_item(job.read("attention"), shared, job.wildcards.attention, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
