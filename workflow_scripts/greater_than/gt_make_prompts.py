"""Every data set of the paper as prompts and their 01 twins, for one tokenizer."""

from pathlib import Path

import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.greater_than import POOLS, prompts_table
from recircuit.tasks.greater_than_tasks import tasks_table


def main(job) -> None:
    tokenizer, spec = Tokenizer.load(Path(job.input.tokenizer).parent), job.spec
    sizes = {key: spec[key] for key in ("discovery", "population", "seeds")}
    spans = prompts_table(tokenizer, sizes, spec["seed"], job.log)
    related = tasks_table(tokenizer, POOLS["code768"], spec["seed"], job.log)
    job.write("gt_prompts", pd.concat([spans, related]).assign(model=job.wildcards.model))


run(main, snakemake)
