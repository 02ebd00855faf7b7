"""Updates of ten classes in the plane of their first components while masks are trained, as a picture and as an animation."""

from recircuit.figures.circuit_probing.animation import animate
from recircuit.figures.circuit_probing.probes import frames
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    table, heading = job.read("cp_frames"), title(job.params.item, job.wildcards.experiment)
    table = table[(table["seed"] == table["seed"].min()) & ~table["variable"].isin(["a_plus_b", "a_minus_b"])]
    save(frames(table, heading), job.output, job.passport())
    animate(table, heading, job.output.gif)


run(main, snakemake)
