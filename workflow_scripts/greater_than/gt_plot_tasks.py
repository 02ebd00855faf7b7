"""Heatmaps and stages of the related tasks."""

from recircuit.figures.greater_than.heatmaps import tasks
from recircuit.figures.greater_than.stages import task_stages
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    file = job.wildcards.tasks
    if file.endswith("-probs"):
        figure = tasks(job.read("year_heatmap"), job.read("gt_tasks"), file, heading, published=published)
    else:
        figure = task_stages(job.read("ipp"), file, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
