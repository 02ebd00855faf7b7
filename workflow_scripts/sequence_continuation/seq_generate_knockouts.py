"""E12: what a Llama model writes after the paper's prompts with heads knocked out, greedily, prompts and draws batched."""

from functools import partial
from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.llama_heads import (
    controls,
    found_sets,
    knockouts_of,
    published_sets,
    refuse_beyond,
)
from recircuit.experiments.sequence_continuation.llama_knockouts import generate_knockouts, mean_heads
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.inventory import PUBLISHED_LISTS
from recircuit.study.job import run
from recircuit.tasks.llama_questions import questions


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    published, shape = job.wildcards.model in PUBLISHED_LISTS, (model.spec.n_layers, model.spec.n_heads)
    sets = published_sets() if published else found_sets(job.read("llama_circuits"), job.read("llama_drops"))
    refuse_beyond(sets, shape)
    job.log("heads knocked out: " + ", ".join(f"{name} {len(heads)}" for name, heads in sets.items()))
    random = controls(sets, shape, job.spec["seed"], job.spec["knockout_draws"], published=published)
    asked = questions(tokenizer, model.spec.n_positions, job.log)
    chunk = chunk_of(job, model, max(len(question.tokens) for question in asked))
    means = mean_heads(model, job.read("llama_prompts"), chunk)
    chosen = partial(knockouts_of, sets=sets, random=random)
    rows = generate_knockouts(model, tokenizer, asked, chosen, means, chunk, job.log)
    job.write("knockouts", rows.assign(model=job.wildcards.model))


run(main, snakemake)
