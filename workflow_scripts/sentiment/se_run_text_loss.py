"""The loss on running text with the projection on a direction taken from another row (spec 3.13)."""

from pathlib import Path

import pandas as pd

from recircuit.core.files import file_or_folder
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.running_text import Text
from recircuit.experiments.sentiment.text_loss import loss_table, losses, stacks, token_table
from recircuit.study.compute import open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_probes import token_texts


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    axes = Axes.of(model, pd.concat([job.read("se_directions", path) for path in (job.input.directions, job.input.das)]))
    treebank = file_or_folder(job.input.treebank) if job.input.get("treebank") else None
    text = Text.of(job.read("se_text"), tokenizer, job.read("se_prompts"), treebank, job.log)
    tokens, codes = (part[: job.spec["loss_rows"]] for part in (text.tokens, text.codes))
    found = losses(model, tokens, stacks(model, axes), job.spec["seed"], job.log)
    ranked = token_table(found, tokens)
    ranked["token"] = token_texts(tokenizer, ranked["token_id"])
    table = loss_table(found, codes).assign(label_source=text.source)
    for name, rows in (("se_text_loss", table), ("se_text_loss_tokens", ranked)):
        job.write(name, rows.assign(model=job.wildcards.model))


run(main, snakemake)
