"""Figure 4 and its appendix: what each stage of path patching hears."""

from recircuit.figures.greater_than.stages import main_stages
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    published = job.wildcards.model == "gpt2-small"
    figure = main_stages(job.read("ipp"), job.wildcards.stage, heading, published=published)
    save(figure, job.output, job.passport())


run(main, snakemake)
