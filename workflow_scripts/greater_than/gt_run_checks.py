"""E12 and E13: the most likely tokens, and random lists of years."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.checks import random_years, top_tokens
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST))
    top = top_tokens(setting, setting.data("D400"), tokenizer, job.log)
    years = random_years(setting, setting.data("R200"), job.log)
    for table, rows in (("gt_topk", top), ("gt_random_years", years)):
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
