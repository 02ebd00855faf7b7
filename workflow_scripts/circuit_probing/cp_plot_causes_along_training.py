"""Exp. 3: a causal measure of both variables at each checkpoint."""

from recircuit.figures.circuit_probing.probes import causal_curves
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading, component = title(job.params.item, "grokking"), "attn" if "attention" in job.wildcards.cause else "mlp"
    column, text = "accuracy", "test accuracy without it"
    if "amnesic" in job.wildcards.cause:
        rows = job.read("cp_amnesic").query("split == 'test' and method == 'leace'")
    elif "ablation" in job.wildcards.cause:
        rows = job.read("cp_ablations").query("condition == 'circuit' and matrices == 'all'")
    else:
        rows, column, text = job.read("cp_alignments"), "iia", "interchange-intervention accuracy"
        rows = rows[rows["step"] == rows["step"].max()]
    save(causal_curves(rows[rows["component"] == component], column, text, heading), job.output, job.passport())


run(main, snakemake)
