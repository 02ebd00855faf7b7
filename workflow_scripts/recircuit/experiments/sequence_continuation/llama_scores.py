"""E12: accuracies of knock-outs with intervals, and tests against random heads of the same number. No model needed."""

import pandas as pd

from recircuit.core.stats import paired_test, wilson
from recircuit.experiments.sequence_continuation.llama_heads import LIKE

GROUP = ["experiment", "subset"]


def knockout_scores(knockouts: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of knockout_scores of the table knockouts, all but what is only to be read.

    ``accuracy_pct`` is a mean over prompts and draws, with Wilson's 95 % interval for that many prompts; ``able_pct`` counts
    only the ``n_able`` prompts that the unablated model gets right. ``p_value``: McNemar's exact test over the prompts, a set
    against random heads of its size, each prompt beside a draw of its own (as the paper draws them anew for each prompt):
    against the majority or the mean of the draws, a set like any of them would seem to differ.
    """
    rows = []
    for key, part in knockouts[knockouts["experiment"] != "qualitative"].groupby(GROUP, sort=False):
        plain = part[part["ablated"] == "none"].set_index("prompt")["correct"]
        able = set(plain.index[plain])
        for ablation, kind in part.groupby("ablation", sort=False):
            for name, found in kind.groupby("ablated", sort=False):
                score = {**dict(zip(GROUP, key, strict=True)), "ablated": name, "ablation": ablation}
                control = kind[kind["ablated"] == LIKE + name]
                rows.append({**score, **_score(found, able), "p_value": _p_value(found, control)})
    columns = {"able_pct": "Float64", "p_value": "Float64"}
    return pd.DataFrame(rows).astype(columns)


def _score(found: pd.DataFrame, able: set[int]) -> dict:
    share = found.groupby("prompt")["correct"].mean()
    low, high = wilson(min(float(share.sum()), len(share)), len(share))
    among = share[share.index.isin(able)]
    return {
        "n_heads": int(found["n_heads"].max()), "n_draws": found["draw"].nunique(), "n": len(share),
        "accuracy_pct": 100 * share.mean(), "ci_lo": 100 * low, "ci_hi": 100 * high,
        "able_pct": 100 * among.mean() if len(among) else None, "n_able": len(able),
    }  # fmt: skip


def _p_value(found: pd.DataFrame, control: pd.DataFrame) -> float | None:
    if control.empty:
        return None
    ours = found.sort_values("prompt")["correct"].to_numpy()
    draws = control.pivot(index="prompt", columns="draw", values="correct").to_numpy()
    theirs = [row[i % len(row)] for i, row in enumerate(draws)]
    pairs = list(zip(ours, theirs, strict=True))
    return paired_test(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
