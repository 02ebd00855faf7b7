"""Table 7: published numbers beside ours."""

from recircuit.figures.greater_than.tables import scorecard
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    card = job.read("scorecard")
    figure = scorecard(card[card["paper"] == "greater_than"], heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
