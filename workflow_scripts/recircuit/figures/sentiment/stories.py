"""Tables 1a and 1b, the schematic of mood stories with what is attended to, and the heads that read and write commas (3.7)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from recircuit.figures.heat_table import heat_table
from recircuit.figures.sentiment.look import NEGATIVE, POSITIVE, SIGNED
from recircuit.figures.style import number, plt

CONDITIONS = {
    "full_phrase": "full phrase", "pre_comma": "before the comma", "commas_and_periods": "commas and periods",
    "commas": "commas",
}  # fmt: skip
PEOPLE = {2: "two people", 1: "one person (substitute)"}
SPLITS = {"notebook": "notebook", "names": "more names"}
SUBSETS = {"positive": "excited", "negative": "nervous", "first": "asks for the first", "second": "asks for the second"}
SIGNS = {"commas": "commas", "commas_and_periods": "commas and periods"}
QUERIES = {"END": (POSITIVE, "last token"), "Q": ("#e08214", "name asked for")}
KINDS = {"reads": "a head's values at the commas", "writes": "a head's output at the commas"}
ENOUGH = 0.01  # of the logit difference: below it the phrase has no effect to divide by


def percent(value: float, digits: int = 0) -> str:
    """Write a share as a percentage."""
    return f"{number(100 * value, digits)} %"


def interval(row: pd.Series) -> str:
    """Write a relative change with its interval, in percent."""
    digits = 0 if abs(row["relative"]) >= 0.1 else 1
    low, high = (number(100 * row[name], digits) for name in ("ci_lo", "ci_hi"))
    return f"{percent(row['relative'], digits)} [{low}, {high}]"


def _row(part: pd.DataFrame) -> tuple[list[float], list[str]]:
    """Return values and texts of one line: how the model does, then the change in each condition."""
    first, by_condition = part.iloc[0], part.set_index("condition")
    texts = [f"{percent(first['accuracy'])} of {first['n']}", number(first["ld_clean"], 2)]
    if part["relative"].isna().all():
        return [np.nan] * 6, [*texts, first["condition"], "", "", ""]
    shown = [by_condition.loc[name] for name in CONDITIONS]
    return [np.nan, np.nan, *(row["relative"] for row in shown)], [*texts, *(interval(row) for row in shown)]


def changes(summary: pd.DataFrame, title: str) -> Figure:
    """Table 1a: the change of the logit difference in each condition; then by class and query."""
    rows, lines, rules = [], [], []
    plain = summary[summary["variant"] == "paper"]
    for people, who in PEOPLE.items():
        for split, names in SPLITS.items():
            own = plain[(plain["people"] == people) & (plain["split"] == split)]
            # "all" first, which comes before the digits of a range only when it is told so.
            for layers, part in sorted(own[own["subset"] == "all"].groupby("layer_range"), key=lambda item: item[0] != "all"):
                rows.append(f"{who}, {names}" + ("" if layers == "none" else f", {_range(layers)}"))
                lines.append(_row(part))
        rules.append(len(rows) - 1)
        for subset, name in SUBSETS.items():
            part = plain[(plain["people"] == people) & (plain["split"] == "names") & (plain["subset"] == subset)]
            part = part[part["layer_range"] == "all"]
            if len(part):
                rows.append(f"{who}, {SPLITS['names']}, {name}")
                lines.append(_row(part))
        rules.append(len(rows) - 1)
    values, texts = (list(column) for column in zip(*lines, strict=True))
    columns = ["right", "clean logit\ndifference", *CONDITIONS.values()]
    limit = max(1.0, float(np.nanmax(np.abs(values), initial=0)))
    return heat_table(np.array(values), texts, rows, columns, title=title, cmap=SIGNED, norm=TwoSlopeNorm(0, -limit, limit),
                      cell=(1.75, 0.36), rules=rules[:-1])  # fmt: skip


def _range(layers: str) -> str:
    if layers == "all":
        return "all layers"
    first, last = layers.split("-")
    return f"layer {first}" if first == last else f"layers {first}–{last}"


def ratios(table: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Table 1b: the effect of commas over that of the phrases before them, by the number of irrelevant tokens."""
    lengths = sorted(set(summary["variant"].str.extract(r"^k(\d+)_", expand=False).dropna().astype(int)) | {0})
    rows, values, texts = [], [], []
    for people, who in PEOPLE.items():
        own = table[table["people"] == people]
        if own.empty:
            rows.append(who)
            values.append([np.nan] * len(lengths))
            texts.append(["task not solved", *[""] * (len(lengths) - 1)])
        ranges = sorted(own["layer_range"].unique(), key=lambda layers: layers != "all")
        for layers in ranges:
            for signs, name in SIGNS.items():
                part = own[(own["layer_range"] == layers) & (own["numerator"] == signs)].set_index("k").reindex(lengths)
                rows.append(f"{who}, {name}, {_range(layers)}")
                values.append([row["mean"] if _told(row) else np.nan for _, row in part.iterrows()])
                texts.append([_ratio(row) for _, row in part.iterrows()])
    columns = [f"{k} tokens" if k else "none" for k in lengths]
    return heat_table(np.array(values, float), texts, rows, columns, title=title, cmap="Blues", norm=Normalize(0, 2),
                      column_label="irrelevant tokens before the question", cell=(2.3, 0.5))  # fmt: skip


def _told(row: pd.Series) -> bool:
    return bool(abs(row["phrase"]) >= ENOUGH)  # false where nothing was solved, too


def _ratio(row: pd.Series) -> str:
    if np.isnan(row["phrase"]):
        return "task not solved"
    effects = f"{number(100 * row['signs'], 1)} / {number(100 * row['phrase'], 1)} %"
    if not _told(row):
        return f"no effect\n{effects}"
    spread = "" if np.isnan(row["sd"]) else f" ± {number(row['sd'], 2)}"
    texts = f", {int(row['n_texts'])} texts" if row["n_texts"] > 1 else ""
    return f"{number(row['mean'], 2)}{spread}{texts}\n{effects}"


# ---- attention ------------------------------------------------------------------------------------------------------


def solved_people(summary: pd.DataFrame) -> int:
    """Return 2 where the model can do the published stories, else 1 where it can do the substitute, else 2."""
    fine = summary[(summary["split"] == "notebook") & (summary["variant"] == "paper") & summary["relative"].notna()]
    found = set(fine["people"])
    return 2 if 2 in found or not found else 1


def schematic(attention: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Figure 6: a story, and where its last token and the name asked for look: all heads' mean above, by layer below."""
    people = solved_people(summary)
    own = attention[(attention["people"] == people) & (attention["k"] > 0)]  # the first token takes what no one needs
    tokens = own.drop_duplicates("k").sort_values("k")
    n_layers, width = own["layer"].nunique(), max(9.0, 0.36 * len(tokens))
    figure, (top, *below) = plt.subplots(3, 1, figsize=(width, 4.4 + 2 * (0.6 + 0.13 * n_layers)), sharex=True,
                                         height_ratios=(3.6, *[0.6 + 0.13 * n_layers] * 2))  # fmt: skip
    signs = _signs(tokens)
    for query, (colour, name) in QUERIES.items():
        _arcs(top, own[own["query"] == query], colour, name, signs, above=query == "END")
    _words(top, tokens, signs)
    limit = float(own["prob"].max())
    for axes, (query, (_, name)) in zip(below, QUERIES.items(), strict=True):
        wide = own[own["query"] == query].pivot(index="layer", columns="k", values="prob").reindex(columns=tokens["k"])
        image = axes.imshow(wide.to_numpy(float), cmap="inferno", vmin=0, vmax=limit, aspect="auto", interpolation="nearest",
                            extent=(0.5, tokens["k"].max() + 0.5, n_layers - 0.5, -0.5))  # fmt: skip
        axes.set_ylabel(f"layer,\nfrom the {name}" if query == "END" else "layer, from\nthe name", fontsize=8)
        axes.set_facecolor("#eeeeee")
        axes.set_yticks(range(0, n_layers, 1 if n_layers <= 6 else 4))
        axes.spines[:].set_visible(False)
    below[1].set_xticks(tokens["k"], [token.strip() for token in tokens["token"]], rotation=90, fontsize=8)
    for label, sign in zip(below[1].get_xticklabels(), signs, strict=True):
        label.set(color=NEGATIVE if sign else "black", weight="bold" if sign else "normal", fontsize=13 if sign else 8,
                  rotation=0 if sign else 90)  # fmt: skip
    figure.colorbar(image, ax=below, label="attention, mean of heads", shrink=0.9)
    row = summary[(summary["people"] == people) & (summary["split"] == "notebook") & (summary["variant"] == "paper")].iloc[0]
    solved = "" if pd.notna(row["relative"]) else ", " + row["condition"]
    figure.suptitle(f"{title}\n{PEOPLE[people]}: {percent(row['accuracy'])} right{solved}", fontsize=11)
    return figure


def _signs(tokens: pd.DataFrame) -> np.ndarray:
    return tokens["name"].str.startswith(("COMMA", "PERIOD")).to_numpy()


def _arcs(axes: Axes, rows: pd.DataFrame, colour: str, name: str, signs: np.ndarray, *, above: bool) -> None:
    """Draw an arc from the query to every token before it, as wide as the mean attention of all heads and layers is large."""
    mean = rows.groupby("k")["prob"].mean()
    query, side = int(mean.index.max()), 1 if above else -1
    for place, weight in mean.drop(query).items():
        # The same height for all lengths: a curvature falls with the distance.
        bend = side * min(0.9, 9.0 / (query - place) * 0.35)
        axes.add_patch(FancyArrowPatch((query, 0.7 * side), (place, 0.7 * side), connectionstyle=f"arc3,rad={bend}",
                                       linewidth=30 * weight, color=colour, alpha=0.65, arrowstyle="-"))  # fmt: skip
    shown = mean.drop(query)
    own = signs[: len(shown)]
    share = percent(shown[own].sum() / shown.sum())
    told = f"from the {name}: {share} of its attention to earlier tokens is on commas and periods"
    axes.text(0.5, 2.45 * side, f"{told} ({percent(own.mean())} of them are)", color=colour, fontsize=9,
              va="top" if above else "bottom")  # fmt: skip


def _words(axes: Axes, tokens: pd.DataFrame, signs: np.ndarray) -> None:
    for (place, token), sign in zip(tokens[["k", "token"]].to_numpy(), signs, strict=True):
        axes.text(place, 0, token.strip(), ha="center", va="center", fontsize=13 if sign else 8, rotation=0 if sign else 90,
                  color=NEGATIVE if sign else "black", weight="bold" if sign else "normal", parse_math=False)  # fmt: skip
    axes.set(xlim=(0.3, tokens["k"].max() + 0.7), ylim=(-2.5, 2.5))
    axes.set_axis_off()


# ---- heads ----------------------------------------------------------------------------------------------------------


def head_maps(paths: pd.DataFrame, title: str) -> Figure:
    """Return the change of the logit difference when one head reads, or writes, the commas as in the corrupted run."""
    panels = [(people, kind) for people in PEOPLE for kind in KINDS if (paths["people"] == people).any()]
    if not panels:
        figure, axes = plt.subplots(figsize=(7, 2))
        axes.text(0.5, 0.5, "task not solved, with two people or with one", ha="center", va="center")
        axes.set_axis_off()
        figure.suptitle(title)
        return figure
    n_layers, n_heads = (paths[name].max() + 1 for name in ("layer", "head"))
    rows = -(-len(panels) // 2)
    size = (2 * max(4.2, 0.3 * n_heads + 1.6), rows * max(3.0, 0.24 * n_layers + 1.6) + 0.5)
    figure, grid = plt.subplots(rows, 2, figsize=size, squeeze=False)
    for axes, (people, kind) in zip(grid.flat, panels, strict=True):
        own = paths[(paths["people"] == people) & (paths["kind"] == kind)]
        values = 100 * own.pivot(index="layer", columns="head", values="value").to_numpy(float)
        limit = max(1.0, float(np.abs(values).max()))  # a hundredth of a percent is no colour
        image = axes.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        worst = own.loc[own["value"].idxmin()]
        axes.set_title(f"{PEOPLE[people]}\n{KINDS[kind]}\nmost: {worst['layer']}.{worst['head']}, {percent(worst['value'], 2)}",
                       fontsize=9)  # fmt: skip
        axes.set(xlabel="head", ylabel="layer")
        axes.set_xticks(range(0, n_heads, 1 if n_heads <= 16 else 4))
        axes.set_yticks(range(0, n_layers, 1 if n_layers <= 16 else 4))
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, shrink=0.9).set_label("change of the\nlogit difference (%)", fontsize=8)
    figure.suptitle(title)
    return figure


def story_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return the picture of an item."""
    if file.startswith("f6-"):
        return schematic(tables["se_mood_attention"], tables["se_mood_summary"], title)
    if file.startswith("t1a-"):
        return changes(tables["se_mood_summary"], title)
    if file.startswith("t1b-"):
        return ratios(tables["se_mood_ratios"], tables["se_mood_summary"], title)
    return head_maps(tables["se_mood_paths"], title)
