"""What heads write and read: cosines between them, what lies on the direction, gradients along it (spec 3.5: 9)."""

import pandas as pd

from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.head_outputs import class_means, gradients, head_cosines, localised
from recircuit.experiments.sentiment.setting import TRAIN, Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run

DATASET = "movie"


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    directions = [job.read("se_directions"), job.read("se_directions", job.input.das_directions)]
    axes, circuit, toy = Axes.of(model, pd.concat(directions)), job.read("se_circuit"), setting.toy(*TRAIN)
    means = class_means(setting, toy)
    tables = {
        "se_head_cosines": head_cosines(means, circuit, DATASET),
        "se_localised": localised(means, axes, DATASET, len(toy)),
        "se_gradients": gradients(setting, toy, circuit, axes, DATASET),
    }
    for name, rows in tables.items():
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
