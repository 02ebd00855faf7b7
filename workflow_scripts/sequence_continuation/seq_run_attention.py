"""E7: mean attention of every head between the roles of a prompt, with an end-of-text token in front."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.attention import attention_table, datasets
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    per_template = job.spec["attention_per_template"]
    found = datasets(job.read("prompts"), job.read("probe_prompts"), tokenizer.bos, per_template)
    rows = attention_table(model, tokenizer, found, chunk_of(job, model, LENGTH + 1), job.log)
    job.write("attention", rows.assign(model=job.wildcards.model))


run(main, snakemake)
