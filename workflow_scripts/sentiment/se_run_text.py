"""Activations of the directions on running text: histograms, samples, tokens, accuracy, AUC (spec 3.9)."""

from pathlib import Path

import pandas as pd

from recircuit.core.files import file_or_folder
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.running_text import Text, read_text, vectors_of
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_probes import token_texts


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    directions = pd.concat([job.read("se_directions", path) for path in (job.input.directions, job.input.das)])
    treebank = file_or_folder(job.input.treebank) if job.input.get("treebank") else None
    text = Text.of(job.read("se_text"), tokenizer, job.read("se_prompts"), treebank, job.log)
    chunk, draws = chunk_of(job, model, length=text.tokens.shape[1]), job.spec["bootstrap_draws"]
    for name, table in read_text(model, text, vectors_of(model, directions), draws, job.spec["seed"], chunk).items():
        if name in ("se_text_samples", "se_token_stats"):
            table["token"] = token_texts(tokenizer, table["token_id"])
        if name in ("se_text_samples", "se_text_accuracy", "se_text_auc"):
            table["label_source"] = text.source
        job.write(name, table.assign(model=job.wildcards.model))


run(main, snakemake)
