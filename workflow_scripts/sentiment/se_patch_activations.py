"""Activation patching of every head, and of every position of every layer, on the toy prompts (spec 3.5: item 2; 3.6)."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.circuit import activation_table
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    patched = activation_table(setting, tokenizer, job.spec["bootstrap_draws"], job.spec["seed"], job.log)
    job.write("se_act_patching", patched.assign(model=job.wildcards.model))


run(main, snakemake)
