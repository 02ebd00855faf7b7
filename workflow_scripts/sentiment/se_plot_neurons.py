"""Neurons whose output weights lie along the direction, and one-sided directions."""

from recircuit.figures.sentiment.neurons import neuron_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    tables = {name: job.read(name) for name in ("se_neurons", "se_one_sided")}
    save(neuron_item(job.wildcards.neurons, tables, heading, published=published), job.output, job.passport())


run(main, snakemake)
