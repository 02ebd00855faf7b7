"""Figure 8 and its appendix: single neurons, and sums of them."""

from recircuit.figures.greater_than.lenses import neuron_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    tables = {name: job.read(name) for name in ("gt_neuron_lens", "gt_neurons", "gt_neuron_curve")}
    figure = neuron_item(job.wildcards.neurons, tables, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
