"""E8: next and copy scores of every head's OV circuit."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.ov import ov_scores
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    probes = job.read("probe_prompts")
    found = ov_scores(model, tokenizer, probes, chunk_of(job, model, int(probes["n_tokens"].max())), job.log)
    for table, rows in zip(("ov_score", "ov_detail"), found, strict=True):
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
