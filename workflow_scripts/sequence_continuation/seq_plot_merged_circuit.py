"""Figure 1: the circuits of the three tasks in one graph, with the edges of one variant."""

import pandas as pd

from recircuit.experiments.overlaps import circuit_sets
from recircuit.figures.circuit_graph import merged_circuit
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading, spec = title(job.params.item, job.wildcards.model), job.spec
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    sets = circuit_sets(trace, spec["threshold"], spec["layers"], spec["heads"])
    members = {task: {str(node) for nodes in parts.values() for node in nodes} for task, parts in sets.items()}
    edges = pd.concat([job.read("edges", path) for path in job.input.edges])
    edges = edges[edges["variant"] == ("fixed" if job.wildcards.merged.endswith("fixed") else "published")]
    published = job.wildcards.model == "gpt2-small"
    figure = merged_circuit(edges, members, job.read("head_drop"), heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
