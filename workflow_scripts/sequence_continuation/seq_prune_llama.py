"""E11: node pruning of the Llama part, one backward pass per task and draw; circuits, and what their heads are worth."""

from recircuit.experiments.sequence_continuation.llama_pruning import prune_llama
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, prompts = open_model(job), job.read("llama_prompts")
    name, variant = job.wildcards.model, job.wildcards.variant
    chunk = chunk_of(job, model, int(prompts["n_tokens"].max()))
    found = prune_llama(model, prompts, variant, job.spec["threshold"], chunk, job.log)
    for table, rows in zip(("llama_trace", "llama_circuits", "llama_drops"), found, strict=True):
        job.write(table, rows.assign(model=name, variant=variant))


run(main, snakemake)
