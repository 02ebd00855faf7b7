"""Distributed alignment search at every layer, with its losses and how well its directions tell words apart (spec 3.1)."""

from recircuit.experiments.sentiment.das import searches
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    for name, rows in searches(setting, job.spec["das_seeds"], job.spec["das_epochs"], job.log).items():
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
