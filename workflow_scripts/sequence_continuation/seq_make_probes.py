"""Bare sequences and months among numerals, in the tokens of one model (E7 to E10)."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.sequence_probes import probe_prompts


def main(job) -> None:
    tokenizer = Tokenizer.load(Path(job.input.tokenizer).parent)
    job.write("probe_prompts", probe_prompts(tokenizer, job.spec["seed"]).assign(model=job.wildcards.model))


run(main, snakemake)
