"""Tables 1 to 6 and the random circuits."""

from recircuit.figures.greater_than.tables import table_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    tables = {name: job.read(name) for name, _ in job.input.items()}
    figure = table_item(job.wildcards.table, tables, heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
