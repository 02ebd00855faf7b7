"""Heat-maps of activation and path patching, and bars of the heads that matter most (spec 3.5, 3.6)."""

from recircuit.figures.sentiment.circuit_patching import circuit_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    tables = {name: job.read(name) for name in ("se_act_patching", "se_path_patching", "se_circuit", "se_positions")}
    figure = circuit_item(job.wildcards.map, tables, title(job.params.item, job.wildcards.model))
    save(figure, job.output, job.passport())


run(main, snakemake)
