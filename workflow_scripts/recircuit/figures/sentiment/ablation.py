"""Reviews with directions and means ablated at their commas: tables, intervals, controls, the commas' distance (3.8)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.ablation_rows import COLOURS, ENDS, SCAFFOLDS, collapsed, scaffolds
from recircuit.figures.sentiment.look import NEGATIVE, POSITIVE, SIGNED
from recircuit.figures.style import number, plt
from recircuit.tasks.corpus import word_data

TABLE = ("suffix", "continuation")  # the scaffolds of the table; the third one is in the picture alone
CLASSES = ("positive", "negative")
BY_CLASS = ("nothing ablated", "DAS at commas", "DAS at all tokens", "the other class's mean at commas")
CONTROLS = ("DAS at commas", "random direction at commas", "DAS at periods", "DAS at tokens before commas",
            "DAS at as many other tokens", "DAS at as many words")  # fmt: skip
STEPS = {"relative": "change of the logit difference (%)", "accuracy": "right (%)"}
DISTANCES = {"average": ("mean_comma_dist", "mean distance of commas to the end"),
             "first": ("first_comma_dist", "distance of the first comma to the end")}  # fmt: skip


def nothing(title: str, examples: pd.DataFrame) -> Figure:
    """Return a picture that says that no review was kept."""
    figure, axes = plt.subplots(figsize=(8, 2))
    counts = examples.groupby("scaffold")["kept"].agg(["sum", "size"])
    told = "; ".join(f"{SCAFFOLDS[name]}: {row['sum']} of {row['size']}" for name, row in counts.iterrows())
    axes.text(0.5, 0.5, f"too few reviews pass the filter, nothing is ablated\n{told}", ha="center", va="center")
    axes.set_axis_off()
    figure.suptitle(title)
    return figure


# ---- the table ------------------------------------------------------------------------------------------------------


def _cells(row: pd.Series | None) -> tuple[list[float], list[str]]:
    if row is None:
        return [np.nan] * 4, [""] * 4
    spans = []
    for name, scale, digits in (("mean_ld", 1, 2), ("relative", 100, 1), ("accuracy", 100, 1)):
        low, high = (number(scale * row[end], digits) for end in ENDS[name])
        spans.append(f"{number(scale * row[name], digits)} [{low}, {high}]")
    lost = "" if pd.isna(row["lost"]) else f"{number(100 * row['lost'], 0)} %"
    values = [np.nan, row["relative"], -2 * (1 - row["accuracy"]), np.nan if pd.isna(row["lost"]) else -row["lost"]]
    return values, [spans[0], spans[1], spans[2], lost]


def conditions(summary: pd.DataFrame, title: str) -> Figure:
    """Return the table of conditions: logit difference, its change, accuracy, and the accuracy above chance that is lost."""
    shown = [name for name in TABLE if name in scaffolds(summary)]
    found = {name: collapsed(summary, name).set_index("label") for name in shown}
    labels, rules = list(dict.fromkeys(label for table in found.values() for label in table.index)), []
    rules.append(len(labels) - 1)
    lines = [(label, label, "all") for label in labels]
    parts = {(name, subset): collapsed(summary, name, subset).set_index("label") for name in shown for subset in CLASSES}
    for label in BY_CLASS:
        lines += [(f"{label}, {subset} reviews", label, subset) for subset in CLASSES]
    tables = {(name, "all"): table for name, table in found.items()} | parts
    values, texts = [], []
    for _, label, subset in lines:
        cells = [_cells(tables[name, subset].loc[label] if label in tables[name, subset].index else None) for name in shown]
        values.append([value for part, _ in cells for value in part])
        texts.append([text for _, part in cells for text in part])
    columns = []
    for name in shown:
        n, short = found[name]["n"].iloc[0], {"suffix": "label", "continuation": "adjective\n(substitute)"}[name]
        columns += [f"{short}, n = {n}\nlogit difference", "change (%)", "right (%)", "lost above\nchance"]
    return heat_table(np.array(values, float), texts, [line[0] for line in lines], columns, title=title, cmap=SIGNED,
                      norm=TwoSlopeNorm(0, -1, 1), cell=(1.85, 0.34), rules=rules)  # fmt: skip


# ---- intervals ------------------------------------------------------------------------------------------------------


def _forest(axes: Axes, tables: Mapping[str, pd.DataFrame], labels: Sequence[str], measure: str) -> None:
    """Draw a dot with its interval for each condition, one colour per scaffold; first condition on top."""
    low, high = ENDS[measure]
    for shift, (name, table) in zip(np.linspace(-0.22, 0.22, len(tables)), tables.items(), strict=True):
        own = table[table["label"].isin(labels)]
        y = own["label"].map(list(labels).index) + shift
        middle = 100 * own[measure]
        ends = np.abs(np.stack([100 * own[low] - middle, 100 * own[high] - middle]).astype(float))
        for drawn, marker in ((False, "o"), (True, "d")):
            some = (own["draws"] > 1).to_numpy() == drawn
            axes.errorbar(middle[some], y[some], xerr=ends[:, some], fmt=marker, markersize=4 if drawn else 3.5,
                          color=COLOURS[name], elinewidth=1.0, markerfacecolor="white" if drawn else COLOURS[name],
                          label=None if drawn else f"{SCAFFOLDS[name]}, n = {table['n'].iloc[0]}")  # fmt: skip
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(STEPS[measure], fontsize=9)
    for y in range(0, len(labels), 2):
        axes.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axes.axvline(0 if measure == "relative" else 100, color="black", linewidth=0.7)
    if measure == "accuracy":
        axes.axvline(50, color="black", linewidth=0.7, linestyle=":")
    axes.tick_params(axis="y", length=0)


def intervals(summary: pd.DataFrame, title: str, labels: Sequence[str] | None = None) -> Figure:
    """Return change and accuracy of conditions (all by default) with 95 % intervals, or the range of draws."""
    tables = {name: collapsed(summary, name) for name in scaffolds(summary)}
    every = list(dict.fromkeys(label for table in tables.values() for label in table["label"] if label != "nothing ablated"))
    if labels is not None:
        every = [label for wanted in labels for label in every if label == wanted or label.startswith(f"{wanted} (")]
        tables = {name: table for name, table in tables.items() if name in TABLE}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 0.24 * len(every) * max(1, len(tables) / 2) + 2.2), sharey=True)
    for axes, measure in ((left, "relative"), (right, "accuracy")):
        _forest(axes, tables, every, measure)
    left.set_yticks(range(len(every)), every, fontsize=8)
    low = min(45.0, *(100 * table["ci_lo"].min() for table in tables.values())) if tables else 45.0
    right.set_xlim(max(0.0, low) - 2, 102)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=8)
    figure.suptitle(title)
    return figure


# ---- distance -------------------------------------------------------------------------------------------------------


def _scatter(axes: Axes, x: np.ndarray, drop: np.ndarray, colours: Sequence[str] | str, told: str) -> None:
    axes.scatter(x, drop, s=7, c=colours, alpha=0.55, linewidths=0)
    if np.ptp(x):
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, np.polyval(np.polyfit(x, drop, 1), ends), color="black", linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.6, linestyle=":")
    axes.set_title(told, fontsize=9)


def distance(tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return what the ablation costs each review by the distance of its commas; for the paper's model its points too."""
    examples, ablation, fits = (tables[name] for name in ("se_examples", "se_ablation", "se_comma_distance"))
    shown = [name for name in TABLE if (fits["scaffold"] == name).any()]
    rows = len(shown) + published
    figure, grid = plt.subplots(rows, 2, figsize=(10, 3.3 * rows + 0.5), squeeze=False)
    for line, name in zip(grid, shown, strict=False):
        own = ablation[(ablation["scaffold"] == name) & (ablation["draw"] == 0)].set_index("sentence_index")
        before = own[own["condition"] == "none"]["ld"]
        after = own.query("mask == 'commas' and direction == 'das' and alignment == 'published' and condition == 'direction'")
        some = examples[(examples["scaffold"] == name) & examples["sampled"]].set_index("sentence_index")
        drop = (before - after[~after["frozen"]]["ld"]).loc[some.index].to_numpy(float)
        for axes, (key, (column, words)) in zip(line, DISTANCES.items(), strict=True):
            fit = fits[(fits["scaffold"] == name) & (fits["distance"] == key)].iloc[0]
            colours = [POSITIVE if positive else NEGATIVE for positive in some["label"]]
            _scatter(axes, some[column].to_numpy(float), drop, colours, f"{SCAFFOLDS[name]}\n{_told(fit)}")
            axes.set_xlabel(f"{words} (tokens)", fontsize=9)
        line[0].set_ylabel("logit difference lost", fontsize=9)
    if published:
        points = pd.DataFrame(word_data("sentiment/comma_distance")["points"], columns=[*DISTANCES, "drop"])
        for axes, (key, (_, words)) in zip(grid[-1], DISTANCES.items(), strict=True):
            r = np.corrcoef(points[key], points["drop"])[0, 1]
            told = f"the paper's points\nn = {len(points)}, r = {number(r, 3)}, mean {number(points['drop'].mean(), 3)}"
            _scatter(axes, points[key].to_numpy(float), points["drop"].to_numpy(), "#555555", told)
            axes.set_xlabel(f"{words} (tokens)", fontsize=9)
        grid[-1][0].set_ylabel("logit difference lost", fontsize=9)
    figure.suptitle(title)
    return figure


def _told(fit: pd.Series) -> str:
    found = f"n = {fit['n']}, mean {number(fit['mean_drop'], 3)}"
    if pd.isna(fit["r"]):
        return f"{found}, all at one distance"
    return f"{found}, r = {number(fit['r'], 2)} [{number(fit['r_lo'], 2)}, {number(fit['r_hi'], 2)}]"


# ---- the filter -----------------------------------------------------------------------------------------------------


def kept(examples: pd.DataFrame, title: str) -> Figure:
    """Return how many reviews pass each step of the filter, by class."""
    rows, values, texts = [], [], []
    for scaffold, name in SCAFFOLDS.items():
        own = examples[examples["scaffold"] == scaffold]
        if own.empty:
            continue
        right = own["ld_centred" if scaffold == "continuation" else "ld"] > 0
        top = pd.Series(True, own.index) if scaffold == "continuation" else own["rank"] < 10
        steps = [
            own["ld"] > 0,
            own["ld_centred"] > 0,
            right & (own["rank_anywhere"] < 10),
            right & top,
            own["kept"],
            own["sampled"],
        ]
        for subset, belongs in (("all", own["label"] >= 0), ("positive", own["label"] == 1), ("negative", own["label"] == 0)):
            rows.append(f"{name}, {subset}")
            counts = [int(belongs.sum()), *(int((step & belongs).sum()) for step in steps)]
            values.append([np.nan, *(count / max(1, counts[0]) for count in counts[1:])])
            texts.append([str(counts[0]), *(f"{n} ({number(100 * n / max(1, counts[0]), 1)} %)" for n in counts[1:])])
    columns = ["reviews", "right", "right, centred", "top 10 anywhere\n(published slip)", "zero-shot filter", "and a comma",
               "balanced sample"]  # fmt: skip
    return heat_table(np.array(values, float), texts, rows, columns, title=title, cmap="Blues", norm=Normalize(0, 1.5),
                      cell=(1.5, 0.36), rules=list(range(2, len(rows) - 1, 3)))  # fmt: skip


def ablation_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return the picture of an item; ``published`` for the paper's own model."""
    summary, examples = tables["se_ablation_summary"], tables["se_examples"]
    if file.startswith("x43-"):
        return kept(examples, title)
    if summary.empty:
        return nothing(title, examples)
    if file.startswith("t2-"):
        return conditions(summary, title)
    if file.startswith("a40-"):
        return distance(tables, title, published=published)
    return intervals(summary, title, CONTROLS if file.startswith("x42-") else None)
