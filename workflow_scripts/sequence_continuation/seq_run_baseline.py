"""E0: what the full model says on every clean prompt, with and without an end-of-text token in front."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.baseline import baseline, require_accuracy
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, bos = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent).bos
    rows = baseline(model, job.read("prompts"), bos, chunk_of(job, model, LENGTH + 1), job.log)
    require_accuracy(rows, job.wildcards.model, job.spec["min_accuracy"])
    job.write("baseline", rows.assign(model=job.wildcards.model))


run(main, snakemake)
