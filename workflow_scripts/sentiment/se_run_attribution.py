"""Direct logit attribution, mean attention, and what heads that attend to the adjective write (spec 3.5: items 1 and 5)."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.circuit import attention_table, attribution_table, scatter_table
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run


def main(job) -> None:
    model, tokenizer, name = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent), job.wildcards.model
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, length=64))
    tables = {
        "se_dla": attribution_table(setting, job.log),
        "se_attention": attention_table(setting, tokenizer, name, job.read("se_act_patching")),
        "se_head_scatter": scatter_table(setting, name, job.read("se_circuit")),
    }
    for table, rows in tables.items():
        job.write(table, rows.assign(model=name))


run(main, snakemake)
