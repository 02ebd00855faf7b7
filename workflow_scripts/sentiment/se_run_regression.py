"""The logit differences of the circuit notebook's fifty prompts: the first thing that is run with a model (spec 3.5)."""

from recircuit.experiments.sentiment.regression import regression
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    job.write("se_regression", regression(setting, job.log).assign(model=job.wildcards.model))


run(main, snakemake)
