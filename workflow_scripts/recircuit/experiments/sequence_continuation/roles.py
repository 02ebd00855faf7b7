"""How much each head attends from a member to the one before it, and from the last token to the members: one number a head.

Sequence continuation, section 3 (E7); needs the table ``attention`` only, no model. Members are S1..S4, or the months m1..m4
where they stand among numerals.
"""

import pandas as pd

HEAD = ["dataset", "layer", "head"]
LAST = ("end", "last")
STEPS = {f"{kind}{i + 1}": f"{kind}{i}" for kind in ("S", "m") for i in range(1, 4)}  # query role -> key role
LATE_MEMBERS = tuple(f"{kind}{i}" for kind in ("S", "m") for i in (2, 3, 4))


def similar_member(attention: pd.DataFrame) -> pd.DataFrame:
    """Return each head's mean attention from a member to the member before it: dataset, layer, head, score (0 to 1)."""
    chosen = attention[attention["q_role"].map(STEPS) == attention["k_role"]]
    return _scores(chosen.groupby(HEAD)["mean"].mean())


def last_to_members(attention: pd.DataFrame) -> pd.DataFrame:
    """Return each head's attention from the last token to the second to fourth member, summed: dataset, layer, head, score."""
    chosen = attention[attention["q_role"].isin(LAST) & attention["k_role"].isin(LATE_MEMBERS)]
    return _scores(chosen.groupby(HEAD)["mean"].sum())


def best_heads(scores: pd.DataFrame, n: int) -> list[tuple[int, int]]:
    """Return the ``n`` heads (layer, head) with the largest mean score over the data sets, best first."""
    mean = scores.groupby(["layer", "head"])["score"].mean().sort_values(ascending=False, kind="stable")
    return [(int(layer), int(head)) for layer, head in mean.index[:n]]


def _scores(means: pd.Series) -> pd.DataFrame:
    return means.rename("score").astype(float).reset_index().sort_values(HEAD, ignore_index=True)
