"""Coloured texts, negated words, neurons beside the direction, one-sided directions (spec 3.10, 3.11, 3.14, 3.15)."""

from pathlib import Path

import numpy as np
import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.axes import FIRST
from recircuit.experiments.sentiment.negation import negation
from recircuit.experiments.sentiment.neurons import neurons
from recircuit.experiments.sentiment.running_text import vectors_of
from recircuit.experiments.sentiment.setting import Setting
from recircuit.experiments.sentiment.words import METHOD, neuroscope, one_sided, whole_texts, windows
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.running_text import RECIPES
from recircuit.tasks.sentiment import negation_table


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    found = pd.concat([job.read("se_directions", path) for path in (job.input.directions, job.input.das)])
    directions = vectors_of(model, found)
    text = {recipe: rows.set_index("row")["tokens"] for recipe, rows in job.read("se_text").groupby("recipe")}
    rows = np.stack(text[RECIPES[0]])
    chunk = chunk_of(job, model, length=rows.shape[1])
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk)
    texts = windows(model, tokenizer, text, directions, chunk, job.log) + whole_texts(setting, tokenizer, job.log)
    sentences = {kind == "negation": negation_table(tokenizer, job.log, kind) for kind in ("negation", "plain")}
    tables = {
        "se_neuroscope": neuroscope(model, tokenizer, texts, directions),
        "se_negation": negation(model, sentences, directions, job.read("se_text_stats")),
        "se_neurons": neurons(model, directions[METHOD][FIRST]),
        "se_one_sided": one_sided(setting, rows, directions),
    }
    for name, table in tables.items():
        job.write(name, table.assign(model=job.wildcards.model))


run(main, snakemake)
