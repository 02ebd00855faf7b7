"""Exp. 1 to 3: boundless DAS for every variable of every checkpoint."""

from recircuit.experiments.circuit_probing.alignments import align_all
from recircuit.methods.alignment import Recipe
from recircuit.study.arithmetic import named, open_runs
from recircuit.study.job import run


def main(job) -> None:
    recipe = Recipe(epochs=job.spec["alignment_epochs"])
    table = align_all(open_runs(job), recipe, job.spec["seed"], job.log, without=("other",))
    job.write("cp_alignments", named(job, table))


run(main, snakemake)
