"""Train the trained and the untrained model on one variable of the disambiguation task, and compare how soon they learn it."""

import pandas as pd

from recircuit.experiments.circuit_probing.training import recipe_of, start_of, train_rows
from recircuit.methods.full_batch import train
from recircuit.study.arithmetic import as_published
from recircuit.study.compute import device_of
from recircuit.study.job import run
from recircuit.study.resume import read_checkpoints


def main(job) -> None:
    device, rows = device_of(job), []
    trained = read_checkpoints(job.input.checkpoints)
    for variable, choice in job.spec["transfer"].items():
        parts = train_rows(job.read("cp_rows", job.input[f"rows_{variable}"]), device)
        recipe = recipe_of(choice)
        for seed in job.spec["seeds"]:
            starts = {"transfer": trained.last(seed), "reinit": start_of(f"transfer_{variable}", seed)}
            for start, model in starts.items():
                job.log(f"{variable}, {start}, seed {seed}")
                done = train(model.to(device=device), *parts, recipe, job.log)
                rows += [(variable, start, seed, *row) for row in done.curves]
    columns = ["variable", "start", "seed", "epoch", "series", "metric", "value"]
    altered = not as_published(job.spec) or 0 not in job.spec["seeds"]
    name = f"transfer-{max(epoch for _, epoch in trained.weights)}" + "-altered" * altered
    job.write("cp_transfer", pd.DataFrame(rows, columns=columns).assign(model=name))


run(main, snakemake)
