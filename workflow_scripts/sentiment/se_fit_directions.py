"""Directions in closed form at every layer, how well they tell words apart, and principal components (spec 3.1, 3.3)."""

from recircuit.experiments.sentiment.fits import accuracies, directions, pca_points
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    tables = {
        "se_directions": directions(setting, job.log),
        "se_fit_accuracy": accuracies(setting, job.log),
        "se_pca_points": pca_points(setting),
    }
    for name, rows in tables.items():
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
