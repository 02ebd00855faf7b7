"""E13: attention of the five leading heads of a Llama model's circuits on the paper's prompts."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.attention import attention_table
from recircuit.experiments.sequence_continuation.llama_heads import found_sets, published_sets, refuse_beyond
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.inventory import PUBLISHED_LISTS
from recircuit.study.job import run
from recircuit.tasks.llama_questions import readings


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    published = job.wildcards.model in PUBLISHED_LISTS
    sets = published_sets() if published else found_sets(job.read("llama_circuits"), job.read("llama_drops"))
    refuse_beyond(sets, (model.spec.n_layers, model.spec.n_heads))
    found = readings(tokenizer, job.log)
    chunk = chunk_of(job, model, max(len(data.roles) for data in found))
    rows = attention_table(model, tokenizer, found, chunk, job.log, sorted(sets["big5"]))
    job.write("attention", rows.assign(model=job.wildcards.model))


run(main, snakemake)
