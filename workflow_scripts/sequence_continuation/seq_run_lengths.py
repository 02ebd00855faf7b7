"""E10: probability of the next numeral against the length of the sequence."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.length import next_probability
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    probes = job.read("probe_prompts")
    rows = next_probability(model, tokenizer, probes, chunk_of(job, model, int(probes["n_tokens"].max())), job.log)
    job.write("seq_len", rows.assign(model=job.wildcards.model))


run(main, snakemake)
