"""Exp. 4: how the columns of one layer's attention divide between the circuits of agreement and of reflexives."""

from recircuit.figures.circuit_probing.tables import overlaps
from recircuit.figures.style import save, title
from recircuit.study.job import run

PUBLISHED_LAYER = {"gpt2-small": 6}


def main(job) -> None:
    rows, model = job.read("cp_lm_overlaps"), job.wildcards.model
    blocks = rows[rows["level"] == "block"]
    layer = PUBLISHED_LAYER.get(model, int(blocks.loc[blocks["iou"].idxmax(), "layer"]))  # elsewhere where they share most
    level = "head" if job.wildcards.overlap.endswith("heads") else "matrix"
    heading = f"{title(job.params.item, model)}, layer {layer}"
    figure = overlaps(rows[rows["layer"] == layer], level, ("agreement", "reflexives"), heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
