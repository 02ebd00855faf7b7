"""E3 and E5: circuits on every task, without each of their heads, and beside random circuits of the same size."""

import pandas as pd

from recircuit.experiments.sequence_continuation.circuits import circuit_scores, head_drops
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, name, variant = open_model(job), job.wildcards.model, job.wildcards.variant
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    choice = {key: job.spec[key] for key in ("seed", "threshold", "random_circuits", "bootstrap_draws")}
    scores = circuit_scores(setting, trace, variant, **choice, ioi=name == "gpt2-small", log=job.log)
    drops = head_drops(setting, trace, variant, choice["seed"], choice["threshold"], choice["bootstrap_draws"])
    for table, rows in (("circuit_scores", scores), ("head_drop", drops)):
        job.write(table, rows.assign(model=name, variant=variant))


run(main, snakemake)
