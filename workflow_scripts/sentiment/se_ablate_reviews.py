"""Directions and means ablated at the commas of reviews and elsewhere, for both ways of asking for the sentiment (3.8)."""

from pathlib import Path

import numpy as np
import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.review_ablation import Ablations
from recircuit.experiments.sentiment.review_baseline import LONGEST, prompts
from recircuit.experiments.sentiment.reviews import tables
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.study.tables import schema

RECIPE = "current"  # of the running text
KEPT = 4


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    directions = pd.concat([job.read("se_directions"), job.read("se_directions", job.input.das)], ignore_index=True)
    # Streams, queries, keys and values of all layers are kept: as much as the widest layer needs for a few times the tokens.
    ablations = Ablations(model, tokenizer, directions, chunk_of(job, model, KEPT * LONGEST))
    text = job.read("se_text").query("recipe == @RECIPE").sort_values("row")["tokens"]
    found = tables(ablations, prompts(job.read("se_reviews"), tokenizer), np.stack(text), job.spec, job.log)
    for name, table in found.items():
        table = table if len(table) else pd.DataFrame(columns=schema(name)[0].names)
        job.write(name, table.assign(model=job.wildcards.model))


run(main, snakemake)
