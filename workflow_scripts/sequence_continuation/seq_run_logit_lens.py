"""E9: the logit lens on three bare sequences and on every clean prompt."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.lens import lens_answers, lens_tokens
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    tokens = lens_tokens(model, tokenizer, job.read("probe_prompts"))
    counts, blocks = lens_answers(model, tokenizer, job.read("prompts"), chunk_of(job, model, LENGTH), job.log)
    for table, rows in (("logit_lens", tokens), ("logit_lens_count", counts), ("logit_lens_blocks", blocks)):
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
