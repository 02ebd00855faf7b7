"""Exp. 2: what the circuits of the two tasks' free (and shared) variables have in common, column by column."""

import pandas as pd

from recircuit.experiments.circuit_probing.overlaps import N_HEADS, mask_overlaps
from recircuit.study.arithmetic import named
from recircuit.study.job import run


def main(job) -> None:
    masks, rows = job.read("cp_masks"), []
    masks = masks[masks["component"] == "attn"]
    for (seed, epoch), found in masks.groupby(["seed", "epoch"]):
        for variable in sorted(found["variable"].unique()):
            pair = [found[(found["variable"] == variable) & (found["task"] == task)] for task in (1, 2)]
            rows.append(mask_overlaps(*pair, N_HEADS).assign(seed=seed, epoch=epoch, pair=f"{variable}: task 1 and task 2"))
    job.write("cp_overlaps", named(job, pd.concat(rows)))


run(main, snakemake)
