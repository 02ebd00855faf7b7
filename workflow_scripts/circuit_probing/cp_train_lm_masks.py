"""Exp. 4: masks for every layer and component of a language model on each task, their read-out and their ablation."""

from pathlib import Path

import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.circuit_probing.language import parts_of, price_of, probe_layers, top_tokens
from recircuit.methods.masks import Recipe
from recircuit.study.compute import open_model
from recircuit.study.job import run


def main(job) -> None:
    model, sentences, name = open_model(job), job.read("cp_sentences"), job.wildcards.model
    tokenizer = Tokenizer.load(Path(job.input.tokenizer).parent)
    recipe = Recipe(price_of(model.spec.d_model), epochs=job.spec["mask_epochs"])
    tables: dict[str, list] = {"cp_lm_runs": [], "cp_lm_masks": [], "cp_lm_ablations": [], "cp_lm_tokens": []}
    for task, rows in sentences.groupby("task", sort=False):
        parts, draws = parts_of(rows, model.device), job.spec["random_masks"]
        found = probe_layers(model, parts, recipe, job.spec["seed"], job.log, draws=draws)
        tops = top_tokens(model, rows, found, tokenizer, job.spec["shown_sentences"])
        for table, part in zip(tables, (found.runs, pd.concat(found.masks), found.ablations, tops), strict=True):
            tables[table].append(pd.DataFrame(part).assign(task=task))
    for table, frames in tables.items():
        job.write(table, pd.concat(frames, ignore_index=True).assign(model=name))


run(main, snakemake)
