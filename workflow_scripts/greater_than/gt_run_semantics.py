"""E7: attention of the circuit's heads, lenses of its nodes, direct and indirect shares of its MLPs."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.circuits import YearCircuit
from recircuit.experiments.greater_than.semantics import semantics
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST), job.log)
    tables = semantics(setting, setting.data("D490"), YearCircuit.of(job.read("gt_circuit")), tokenizer, job.log)
    for table, rows in tables.items():
        job.write(table, rows.assign(model=job.wildcards.model))


run(main, snakemake)
