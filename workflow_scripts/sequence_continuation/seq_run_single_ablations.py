"""E4: the full model's score when one head or MLP is mean-ablated, for every head and MLP."""

from recircuit.experiments.sequence_continuation.ablations import single_ablations
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    rows = single_ablations(setting, job.spec["seed"], job.spec["bootstrap_draws"], job.log)
    job.write("single_ablation", rows.assign(model=job.wildcards.model))


run(main, snakemake)
