"""E2, E4, E5: iterative path patching, and the circuit's nodes: the published ones, or by the rule."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.discovery import discover
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST), job.log)
    known = job.wildcards.model == "gpt2-small"
    ipp, nodes = discover(setting, setting.data("D490"), job.spec["choose_share"], job.log, known=known)
    for table, rows in (("ipp", ipp), ("gt_circuit", nodes)):
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
