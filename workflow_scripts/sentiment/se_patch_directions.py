"""Patching along fitted directions on toy prompts and reviews, at every layer, beside random directions (spec 3.4)."""

from itertools import chain

import pandas as pd

from recircuit.experiments.sentiment.patching import Directions, review_tests, toy_tests
from recircuit.experiments.sentiment.patching_summary import tables
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, reviews, choices = open_model(job), job.read("se_reviews"), job.spec
    chunk = chunk_of(job, model, length=int(reviews["n_tokens"].max()))
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk)
    fitted = pd.concat([job.read("se_directions", job.input[name]) for name in ("se_directions", "das_directions")])
    directions, seed = Directions(fitted, model.spec.n_layers), choices["seed"]
    tests = chain(
        toy_tests(setting, directions, choices["null_draws"], seed),
        review_tests(setting, directions, reviews, choices["review_pairs"], choices["random_directions"], seed),
    )
    for name, rows in tables(tests, model.spec.n_layers, seed, choices["bootstrap_draws"], job.log).items():
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
