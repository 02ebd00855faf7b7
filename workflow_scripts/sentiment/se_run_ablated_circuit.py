"""The circuit with the direction set to its mean behind the first block: attribution and noising (spec 3.5: 8)."""

import pandas as pd

from recircuit.experiments.sentiment.ablated_circuit import ablated_circuit
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    directions = [job.read("se_directions"), job.read("se_directions", job.input.das_directions)]
    choices = job.spec["random_directions"], job.spec["bootstrap_draws"], job.spec["seed"]
    table = ablated_circuit(setting, Axes.of(model, pd.concat(directions)), *choices, job.log)
    job.write("se_ablated_circuit", table.assign(model=job.wildcards.model))


run(main, snakemake)
