"""E11: the prompts of the Llama part's node search in a model's own tokens, with the released corrupted draw and new ones."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.llama_prompts import llama_prompts


def main(job) -> None:
    tokenizer = Tokenizer.load(Path(job.input.tokenizer).parent)
    rows = llama_prompts(tokenizer, job.spec["llama_redraws"], job.spec["seed"], job.log)
    job.write("llama_prompts", rows.assign(model=job.wildcards.model))


run(main, snakemake)
