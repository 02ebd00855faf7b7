"""Exp. 4: what the circuits of agreement and of reflexives have in common, in every layer's attention."""

import pandas as pd

from recircuit.experiments.circuit_probing.overlaps import mask_overlaps
from recircuit.study.job import run


def main(job) -> None:
    masks, rows, heads = job.read("cp_lm_masks"), [], job.spec["model"]["heads"]
    masks = masks[(masks["component"] == "attn") & masks["task"].isin(["agreement", "reflexives"])]
    for layer, found in masks.groupby("layer"):
        pair = [found[found["task"] == task] for task in ("agreement", "reflexives")]
        rows.append(mask_overlaps(*pair, heads).assign(layer=layer, pair="agreement and reflexives"))
    job.write("cp_lm_overlaps", pd.concat(rows).assign(model=job.wildcards.model))


run(main, snakemake)
