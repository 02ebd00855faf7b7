"""Values patched at phrases, commas and periods of mood stories, near and far from the question; who reads the commas (3.7)."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment import stories
from recircuit.experiments.sentiment.setting import Setting
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.job import run

LONGEST = 64  # tokens of a story with irrelevant sentences, with some to spare


def main(job) -> None:
    model, tokenizer = open_model(job), Tokenizer.load(Path(job.input.tokenizer).parent)
    setting = Setting(model, job.read("se_prompts"), job.read("se_positions"), chunk_of(job, model, LONGEST))
    mood = stories.mood(setting, job.log)
    summary = stories.summary(mood, job.spec["seed"], job.spec["bootstrap_draws"])
    tables = {"se_mood": mood, "se_mood_summary": summary, "se_mood_ratios": stories.ratios(summary)}
    tables |= {"se_mood_paths": stories.paths(setting, mood), "se_mood_attention": stories.attention(setting, tokenizer)}
    for name, table in tables.items():
        job.write(name, table.assign(model=job.wildcards.model))


run(main, snakemake)
