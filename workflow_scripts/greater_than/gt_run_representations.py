"""E7: principal components of four sites, and the task with YY erased from the circuit's inputs."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.representations import ERASED, components, erasure
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST), job.log)
    nodes = job.read("gt_circuit")
    pca = components(setting, setting.data("D97"), nodes)
    erased = erasure(setting, setting.data("D10k", ERASED), nodes, job.log)
    for table, rows in (("gt_pca", pca), ("gt_erasure", erased)):
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
