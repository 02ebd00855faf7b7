"""Toy prompts of all sets, and mood stories, with their named positions (spec 2.1 to 2.3)."""

from pathlib import Path

import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.sentiment import toy_tables
from recircuit.tasks.sentiment_stories import story_tables


def main(job) -> None:
    tokenizer = Tokenizer.load(Path(job.input.tokenizer).parent)
    parts = zip(toy_tables(tokenizer, job.log), story_tables(tokenizer, job.log), strict=True)
    for name, tables in zip(("se_prompts", "se_positions"), parts, strict=True):
        job.write(name, pd.concat(tables).assign(model=job.wildcards.model))


run(main, snakemake)
