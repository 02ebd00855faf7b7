"""Every figure and table of every paper, read from ``inventory.yaml``: what ``all`` builds, and what ``list`` shows.

Imported by the Snakefile: the standard library and YAML only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import yaml

VARIANTS = ("published", "fixed")
SEQ_TASKS = ("numerals", "numwords", "months")
PUBLISHED_LISTS = ("llama-2-7b-chat",)  # models of which published circuits are compared without being run
# The tables of sequence continuation, under cache/sequence_continuation/.
SEQ_TABLES = (
    "prompts/{model}/prompts",
    "baseline/{model}/baseline",
    "ablations/{model}/single_ablation",
    "pruning/{model}/{variant}/{task}/trace",
    "pruning/{model}/{variant}/{task}/circuit",
    "circuits/{model}/{variant}/scores",
    "circuits/{model}/{variant}/head_drop",
    "circuits/{model}/{variant}/overlaps",
)


@dataclass(frozen=True)
class Item:
    """One figure or table. ``models`` are those that the paper used; ``only`` those it can be built for, all if empty."""

    paper: str
    id: str
    file: str
    number: str
    title: str
    caption: str
    rule: str
    models: tuple[str, ...]
    only: tuple[str, ...] = ()

    def target(self, model: str) -> str:
        """Return the path of the item's picture for a model."""
        return f"figures/{self.paper}/{model}/{self.file}.png"

    def models_in(self, config: Mapping) -> list[str]:
        """Return the models that a configuration builds the item for."""
        return list(self.only or config.get(self.paper, {}).get("models", ()))


@cache
def items() -> tuple[Item, ...]:
    """Return the inventory in the order of its file."""
    text = Path(__file__).with_name("inventory.yaml").read_text(encoding="utf-8")
    return tuple(
        Item(paper, **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
        for paper, entries in yaml.safe_load(text).items()
        for entry in entries
    )


def item(paper: str, id: str) -> Item:
    """Return one item of a paper, by its id or by the name of its file."""
    return next(found for found in items() if found.paper == paper and id in (found.id, found.file))


def targets(config: Mapping) -> Iterator[tuple[Item, str, str]]:
    """Yield (item, model, path) of everything that a configuration builds."""
    for entry in items():
        for model in entry.models_in(config):
            yield entry, model, entry.target(model)


def tables(config: Mapping) -> list[str]:
    """Return the tables that the scorecard and the manifest look at: of every model of every paper, and published lists."""
    models = config.get("sequence_continuation", {}).get("models", ())
    names = {
        table.format(model=model, variant=variant, task=task): None  # a dict, to drop repeats and keep the order
        for model, table, variant, task in product(models, SEQ_TABLES, VARIANTS, SEQ_TASKS)
    }
    lists = [f"circuits/{model}/published/overlaps" for model in PUBLISHED_LISTS]
    return [f"cache/sequence_continuation/{name}.parquet" for name in (*names, *lists)]
