"""Figure 2a, DAS across layers, and directions of different training sets: tables of cosines."""

from recircuit.figures.sentiment.directions import cosine_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    figure = cosine_item(job.wildcards.cosines, job.read("se_cosines"), heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
