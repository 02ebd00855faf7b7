"""E9: random, shifted, reduced and leave-one-out circuits."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.circuits import YearCircuit
from recircuit.experiments.greater_than.random_circuits import candidates, random_circuits
from recircuit.experiments.greater_than.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.greater_than import LONGEST, year_ids


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("gt_prompts"), year_ids(tokenizer), chunk_of(job, model, LONGEST), job.log)
    circuit, shape = YearCircuit.of(job.read("gt_circuit")), (model.spec.n_layers, model.spec.n_heads)
    published = job.wildcards.model == "gpt2-small"
    tried = list(candidates(circuit, *shape, job.spec["seed"], job.spec["random_circuits"], published=published))
    rows = random_circuits(setting, setting.data("D200"), tried, circuit)
    job.log(f"{len(tried)} circuits; ours recovers {rows['recovery'].iloc[0]:.3f}, p = {rows['p_value'].iloc[0]:.4f}")
    job.write("gt_random_circuits", rows.assign(model=job.wildcards.model))


run(main, snakemake)
