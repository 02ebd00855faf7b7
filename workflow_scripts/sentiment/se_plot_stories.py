"""Tables 1a and 1b, the schematic of mood stories, and the heads that read and write their commas."""

from recircuit.figures.sentiment.stories import story_item
from recircuit.figures.style import save, title
from recircuit.study.job import run


def main(job) -> None:
    heading = title(job.params.item, job.wildcards.model)
    names = ("se_mood_summary", "se_mood_ratios", "se_mood_paths", "se_mood_attention")
    figure = story_item(job.wildcards.story, {name: job.read(name) for name in names}, heading)
    save(figure, job.output, job.passport())


run(main, snakemake)
