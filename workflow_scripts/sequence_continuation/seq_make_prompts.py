"""The prompts of the three tasks, clean and corrupted, in the tokens of one model."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import prompts_table


def main(job) -> None:
    tokenizer = Tokenizer.load(Path(job.input.tokenizer).parent)
    released = job.spec["prompts"] == "released"
    job.write("prompts", prompts_table(tokenizer, job.spec["prompts_per_template"], job.spec["seed"], released=released))


run(main, snakemake)
