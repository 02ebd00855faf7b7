"""Exp. 1 and 2: what ablation, counterfactual embeddings, erasure and alignment do, by variable and component."""

from recircuit.figures.circuit_probing.tables import KINDS, causal
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    kind = next(kind for kind in KINDS if job.wildcards.table.endswith(kind))
    tables = {name: job.read(name) for name, _ in job.input.items()}
    save(causal(kind, tables, title(job.params.item, job.wildcards.experiment)), job.output, job.passport())


run(main, snakemake)
