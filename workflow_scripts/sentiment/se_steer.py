"""Texts written with a multiple of the sentiment direction added to the stream, and their labels (spec 3.12)."""

from pathlib import Path

import pandas as pd

from recircuit.core.files import file_or_folder
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.running_text import vectors_of
from recircuit.experiments.sentiment.steering import METHODS, Steering
from recircuit.experiments.sentiment.text_labels import lexicon
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    directions = pd.concat([job.read("se_directions", path) for path in (job.input.directions, job.input.das)])
    words, source = lexicon(file_or_folder(job.input.treebank) if job.input.get("treebank") else None, job.log)
    published = job.spec["model"]["source"] != "trained"
    steering = Steering(words, published, job.spec["steering_samples"], job.spec["seed"])
    chunk = chunk_of(job, model, length=64)
    table = steering.table(model, tokenizer, vectors_of(model, directions, METHODS), chunk, job.log)
    job.write("se_steering", table.assign(model=job.wildcards.model, label_source=source))


run(main, snakemake)
