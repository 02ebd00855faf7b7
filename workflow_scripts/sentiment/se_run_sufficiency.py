"""The circuit alone, the other heads alone, random circuits: clean in a corrupted run, the rest at its mean (spec 3.5: 7)."""

import pandas as pd

from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.setting import Setting
from recircuit.experiments.sentiment.sufficiency import TRIED, sufficiency
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    directions = [job.read("se_directions"), job.read("se_directions", job.input.das_directions)]
    axes, circuit = Axes.of(model, pd.concat(directions)), job.read("se_circuit")
    choices = job.spec["bootstrap_draws"], job.spec["seed"]
    tables = [sufficiency(setting, dataset, circuit, axes, *choices, job.log) for dataset in TRIED]
    job.write("se_sufficiency", pd.concat(tables).assign(model=job.wildcards.model))


run(main, snakemake)
