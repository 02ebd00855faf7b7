"""The thousand fixed prompts of which a value was printed: whether this is the model of the paper, before all else."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.checks import regression, require_difference
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST))
    rows = regression(setting, job.log, published=job.wildcards.model == "gpt2-small")
    require_difference(rows, job.wildcards.model, job.spec["min_difference"])
    job.write("gt_regression", rows.assign(model=job.wildcards.model))


run(main, snakemake)
