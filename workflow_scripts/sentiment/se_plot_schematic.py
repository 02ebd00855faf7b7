"""Figure 5: the circuit as a schematic."""

from recircuit.figures.sentiment.schematic import schematic
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    save(schematic(job.read("se_circuit"), job.read("se_path_patching"), heading), job.output, job.passport())


run(main, snakemake)
