"""Figure 2, the heatmaps of patched models, and those of the related tasks."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from recircuit.figures.greater_than.maps import Panel, matrix, published_limits, shared_limits, year_maps, year_panel
from recircuit.figures.style import number, plt
from recircuit.tasks.greater_than_names import TASK_TITLES

SLICE = 41
GROUPS = {
    "fg1-success-probs": ((0, 8, 2, 9), "success_probs"),
    "fg3-failure-probs": ((3, 4, 5), "failure_probs"),
    "fg4-bc-probs": ((6, 7), "bc_probs"),
}


def behaviour(heatmap: pd.DataFrame, means: pd.DataFrame, activation: str, title: str, *, published: bool) -> Figure:
    """Figure 2: P(year | YY) of the full model, and the slice at YY = 41."""
    rows = heatmap[(heatmap["kind"] == f"behaviour {activation}") & (heatmap["condition"] == "clean")]
    years = matrix(rows[rows["dataset"] == "D10k"])
    found = means.query("dataset == 'D10k' and condition == 'clean' and subset == 'all' and activation == @activation").iloc[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(1.15, 1))
    note = f"probability difference {number(found['mean_pd'], 3)} ± {number(found['sd_pd'], 3)}, n = {int(found['n'])}"
    image = year_panel(left, Panel(years, note, published_limits("probability_heatmap", published)), "Blues", symmetric=False)
    figure.colorbar(image, ax=left, label="probability")
    left.set(xlabel="predicted year", ylabel="YY")
    yy = SLICE if SLICE in years.index else int(years.index[len(years) // 2])
    right.bar(years.columns, years.loc[yy], width=1.0, color=["#c6c6c6" if y <= yy else "#2c6fbb" for y in years.columns])
    right.axvline(yy + 0.5, color="black", linewidth=0.8, linestyle="--")
    right.set(xlabel="predicted year", ylabel="probability", title=f"YY = {yy}: years beyond it in blue", xlim=(-0.5, 99.5))
    right.title.set_fontsize(10)
    figure.suptitle(title)
    return figure


def patched(heatmap: pd.DataFrame, scores: pd.DataFrame, mode: str, activation: str, title: str, *, published: bool) -> Figure:
    """Return the heatmap of a patched model beside the full model's."""
    here = heatmap[heatmap["dataset"] == "D10k"]
    full = here[(here["kind"] == f"behaviour {activation}") & (here["condition"] == "clean")]
    ours = here[(here["kind"] == f"circuit {activation}") & (here["condition"] == mode)]
    row = scores.query(
        "dataset == 'D10k' and mode == @mode and edge_set == 'code' and qkv == 'ggg' and activation == @activation"
    )
    row = row[~row["pool"].str.contains(",")].iloc[0]
    limits = published_limits("probability_heatmap", published) or shared_limits(matrix(full))
    panels = [
        Panel(matrix(full), f"full model: {number(row['baseline_pd'], 3)}", limits),
        Panel(matrix(ours), f"{_MODES[mode]}: {number(row['mean_pd'], 3)} ({number(100 * row['recovery'], 1)} %)", limits),
    ]
    return year_maps(panels, title, label="probability")


def trained_activation(means: pd.DataFrame) -> str:
    """Return the activation that every data set was run with (the other one is a check on the first alone)."""
    sets = means.groupby("activation")["dataset"].nunique()
    return str(sets.sort_index(ascending=False).idxmax())


_MODES = {"sufficiency": "circuit clean, rest 01", "necessity": "circuit 01, rest clean", "full": "circuit from the input on"}


def tasks(heatmap: pd.DataFrame, table: pd.DataFrame, file: str, title: str, *, published: bool) -> Figure:
    """Return the heatmaps of a group of related tasks; tasks that the tokenizer cannot do are left out."""
    ids, limits = GROUPS[file]
    panels = []
    for task in ids:
        rows = heatmap[heatmap["dataset"] == f"T{task}"]
        found = table[(table["task"] == task) & (table["variant"] == "fixed") & (table["circuit"] == "circuit")]
        if len(rows) and len(found):
            first = found.iloc[0]
            key = "baseline_pd_lt" if task in (3, 6, 7) else "baseline_pd_gt"
            sign = "years below" if task in (3, 6, 7) else "years above"
            name = f"{TASK_TITLES[task]}\n{sign}: {number(first[key], 3)}"
            panels.append(Panel(matrix(rows), name, published_limits(limits, published)))
    return year_maps(panels, title, label="probability")


def heatmap_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return the picture of an item: a heatmap of the model, or of a patched model; with the activation it was trained with."""
    activation = trained_activation(tables["behaviour"])
    if file.startswith("f2-"):
        return behaviour(tables["year_heatmap"], tables["behaviour"], activation, title, published=published)
    mode = {"f5-circuit-heatmap": "sufficiency", "fb3-full-circuit-heatmap": "full", "x1-necessity-heatmap": "necessity"}[file]
    return patched(tables["year_heatmap"], tables["circuit_eval"], mode, activation, title, published=published)
