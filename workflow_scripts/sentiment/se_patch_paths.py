"""Path patching from every head to the final stream and to heads' values, and the circuit's roles (spec 3.5: 3, 4, 6)."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.circuit_paths import path_tables
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    choices = job.spec["bootstrap_draws"], job.spec["seed"]
    tables = path_tables(setting, tokenizer, job.wildcards.model, *choices, job.log)
    for name, rows in zip(("se_path_patching", "se_circuit"), tables, strict=True):
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
