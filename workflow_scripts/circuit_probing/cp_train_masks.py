"""Exp. 1 to 3: a mask for every variable and component of every checkpoint, its read-out and its ablation."""

from recircuit.experiments.circuit_probing.masks import probe_all
from recircuit.methods.masks import Recipe
from recircuit.study.arithmetic import named, open_runs
from recircuit.study.job import run


def main(job) -> None:
    last = job.spec["experiment"]["epochs"]
    recipe = Recipe(1e-6, epochs=job.spec["mask_epochs"])
    tables = probe_all(open_runs(job), recipe, job.spec["seed"], job.log, draws=job.spec["random_masks"], pictured=last)
    for attribute, table in (
        ("runs", "cp_runs"),
        ("masks", "cp_masks"),
        ("ablations", "cp_ablations"),
        ("frames", "cp_frames"),
    ):
        job.write(table, named(job, tables.frame(attribute)))


run(main, snakemake)
