"""TL3: what the published circuits of Llama-2 share, from the lists alone."""

from recircuit.experiments.overlaps import overlaps, published_sets
from recircuit.study.job import run
from recircuit.tasks.sequence_continuation import TASKS


def main(job) -> None:
    sets = published_sets("sequence_continuation/circuits_llama2_7b_chat")
    groups = {"all": TASKS, "all5": list(sets), "numwords+months+spanish_numwords": ["numwords", "months", "spanish_numwords"]}
    rows = overlaps(sets, job.spec["layers"], job.spec["heads"], groups)
    job.write("overlaps", rows.assign(model=job.wildcards.model, variant="published"))


run(main, snakemake)
