"""Edge attribution: estimated effects of all edges, exact ones of some."""

import pandas as pd

from recircuit.experiments.sequence_continuation.edges import attribute_edges
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model = open_model(job)
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    choice = {key: job.spec[key] for key in ("seed", "threshold", "edge_top")}
    job.write("edge_attribution", attribute_edges(setting, trace, **choice, log=job.log).assign(model=job.wildcards.model))


run(main, snakemake)
