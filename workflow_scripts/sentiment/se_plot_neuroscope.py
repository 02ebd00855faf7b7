"""Figures 1 and 4 and their appendix: texts in colour, as pictures and as pages to point at."""

from recircuit.figures.sentiment.coloured_text import draw, page, save_page
from recircuit.figures.sentiment.neuroscope import text_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    passages, words = text_item(job.wildcards.texts, job.read("se_neuroscope"))
    save(draw(passages, heading, **words), job.output, job.passport())
    save_page(page(passages, heading, passport=job.passport(), **words), job.output.html)


run(main, snakemake)
