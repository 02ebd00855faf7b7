"""The reviews of every scaffold from the filter to the tables: what section 3.8 reports, published and fixed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from recircuit.experiments.sentiment.review_ablation import Ablations
from recircuit.experiments.sentiment.review_baseline import LONGEST, SUBSTITUTE, baseline, cut, enough, preference
from recircuit.experiments.sentiment.review_summary import Samples, comma_distance, summary
from recircuit.experiments.sentiment.setting import Log
from recircuit.tasks.sst import EXAMPLES

EXAMPLE_COLUMNS = [
    *(column for column in EXAMPLES if column not in ("pair", "text_start", "text_end")),
    "ld", "ld_centred", "rank", "rank_anywhere", "kept", "reason", "sampled",
]  # fmt: skip
NAMES = ("se_examples", "se_ablation", "se_ablation_summary", "se_comma_distance")
Tables = dict[str, pd.DataFrame]


def ablate(
    ablations: Ablations, scaffold: str, examples: pd.DataFrame, text: Tensor | None, choices: dict, log: Log
) -> tuple[pd.DataFrame, Tables]:
    """Ablate in the reviews of one scaffold that are kept; return the examples, first sample marked, and the other tables."""
    substitute, kept = scaffold == SUBSTITUTE, examples[examples["kept"]]
    cut_kept = kept if substitute else cut(kept, LONGEST)
    if long := int((kept["n_tokens"] > LONGEST).sum()):
        log(
            f"{scaffold}: {long} of {len(kept)} prompts are longer than {LONGEST} tokens"
            + ("" if substitute else " and are cut")
        )
    means = ablations.means(cut_kept, text)
    seeds: Sequence[int] = choices["ablation_seeds"]
    found = ablations.run(cut_kept, ablations.conditions(scaffold, means, choices["random_directions"], seeds))
    samples = Samples.of(examples, seeds)
    chosen = samples.examples["sentence_index"][samples.drawn[0]]
    less = preference(examples) if substitute else 0.0
    whole = summary(found, samples, less, choices["seed"], choices["bootstrap_draws"])
    log(f"{scaffold}: {len(chosen)} of {len(kept)} reviews in a balanced sample; " + _says(whole))
    parts = (found.drop(columns="strict"), whole.assign(substitute=substitute), comma_distance(found, samples))
    tables = {name: part.assign(scaffold=scaffold) for name, part in zip(NAMES[1:], parts, strict=True)}
    return examples.assign(sampled=examples["sentence_index"].isin(chosen)), tables


def _says(summary: pd.DataFrame) -> str:
    rows = summary.query("condition == 'direction' and direction == 'das' and alignment == 'published' and not frozen")
    return "; ".join(
        f"without the direction at {r.mask} {100 * r.accuracy:.1f} % right, logit difference {100 * r.relative:+.1f} %"
        for r in rows[(rows["subset"] == "all") & rows["mask"].isin(["commas", "all"])].itertuples()
    )


def tables(ablations: Ablations, prompts_of: dict[str, pd.DataFrame], text: np.ndarray, choices: dict, log: Log) -> Tables:
    """Return the four tables; of a scaffold of which too few reviews are kept there are examples alone."""
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in NAMES}
    mean = ablations.text_mean(text, log)
    for scaffold, reviews in prompts_of.items():
        examples = baseline(ablations.model, reviews, scaffold, ablations.chunk, log)
        if enough(examples, scaffold, log):
            examples, others = ablate(ablations, scaffold, examples, mean, choices, log)
            for name, table in others.items():
                found[name].append(table)
        found["se_examples"].append(examples[EXAMPLE_COLUMNS])
    return {name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for name, parts in found.items()}
