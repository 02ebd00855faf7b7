"""E1, E3, E6: the full model and its circuits on the large data sets, with both activations and both pools."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.discovery import circuits_of
from recircuit.experiments.greater_than.evaluation import evaluate_all
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST), job.log)
    circuits = circuits_of(job.read("gt_circuit"), job.read("ipp"), job.spec["choose_share"])
    names = [name for name in setting.datasets if name.startswith("D10k")]
    draws = job.spec["bootstrap_draws"]
    tables = evaluate_all(setting, names, circuits, seed=job.spec["seed"], draws=draws, log=job.log)
    for table, rows in tables.items():
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
