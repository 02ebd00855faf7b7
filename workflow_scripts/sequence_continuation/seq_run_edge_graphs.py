"""The circuits' edges evaluated together: faithfulness, completeness and minimality of kept, attributed and random edges."""

import pandas as pd

from recircuit.experiments.sequence_continuation.edges import evaluate_graphs
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import LENGTH


def main(job) -> None:
    model, name, variant = open_model(job), job.wildcards.model, job.wildcards.variant
    setting = Setting(model, job.read("prompts"), job.input.means, chunk_of(job, model, LENGTH))
    trace = pd.concat([job.read("node_trace", path) for path in job.input.node_trace])
    choice = {key: job.spec[key] for key in ("seed", "threshold", "edge_random_graphs")}
    graphs, minimality = evaluate_graphs(setting, trace, job.read("edges"), variant, **choice, log=job.log)
    for table, rows in (("edge_graphs", graphs), ("edge_minimality", minimality)):
        job.write(table, rows.assign(model=name, variant=variant))


run(main, snakemake)
