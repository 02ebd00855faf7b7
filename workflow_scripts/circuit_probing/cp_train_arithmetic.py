"""Train the one-layer model of an arithmetic experiment, once per seed; goes on where it was killed."""

import pandas as pd

from recircuit.experiments.circuit_probing.training import recipe_of, start_of, train_rows
from recircuit.methods.full_batch import train
from recircuit.study.arithmetic import named
from recircuit.study.compute import device_of
from recircuit.study.job import run
from recircuit.study.resume import key_of, load_progress, partial_path, save_progress, write_checkpoints


def main(job) -> None:
    device, name, curves, kept, partials = device_of(job), job.wildcards.experiment, [], {}, []
    recipe = recipe_of(job.spec["experiment"])
    parts = train_rows(job.read("cp_rows"), device)
    for seed in job.spec["seeds"]:
        path, key = partial_path(job.output.checkpoints, seed), key_of(job.passport(), seed)
        start = start_of(name, seed).to(device=device)
        resume = load_progress(path, key)
        done = train(start, *parts, recipe, job.log, resume=resume, save=lambda p, k=key, f=path: save_progress(f, k, p))
        save_progress(path, key, done)  # a job killed while it trains the next seed does not train this one again
        partials.append(path)
        curves += [(seed, *row) for row in done.curves]
        kept |= {(seed, epoch): weights for epoch, weights in done.checkpoints.items()}
    table = pd.DataFrame(curves, columns=["seed", "epoch", "series", "metric", "value"])
    job.write("cp_curves", named(job, table))
    write_checkpoints(job.output.checkpoints, start_of(name, 0), kept, job.passport())
    for path in partials:
        path.unlink(missing_ok=True)


run(main, snakemake)
