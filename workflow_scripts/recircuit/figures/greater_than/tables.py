"""Tables T1 to T7 and the random circuits as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from recircuit.figures.heat_table import heat_table
from recircuit.figures.style import number, plt
from recircuit.tasks.greater_than_names import TASK_TITLES

WHITE = Normalize(0, 10)  # a scale on which everything is nearly white
FAMILIES = {
    "any_layer": "random heads and MLPs",
    "same_layers": "random heads, same layers",
    "mlp_subset": "subsets of its MLPs",
    "without": "one node left out",
    "script": "the authors' two",
}


def plain(
    texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], title: str, *, width: float = 1.5
) -> Figure:
    """Draw a table of texts without colours."""
    values = np.zeros((len(rows), len(columns)))
    return heat_table(values, texts, rows, columns, title=title, cmap="Greys", norm=WHITE, cell=(width, 0.36))


def _interval(row: pd.Series) -> str:
    return f"{number(row['mean_pd'], 3)} [{number(row['ci_lo'], 3)}, {number(row['ci_hi'], 3)}]"


def behaviour(means: pd.DataFrame, title: str) -> Figure:
    """T1: the full model, by pool, activation and draw."""
    means = means.sort_values(["dataset", "activation", "subset", "condition"])
    rows = [
        f"{r.dataset}, {r.activation}, {r.condition}" + ("" if r.subset == "all" else f",\n{r.subset}")
        for r in means.itertuples()
    ]
    texts = [
        [
            _interval(r),
            number(r["sd_pd"], 3),
            number(r["mean_cs"], 3),
            number(r["sd_cs"], 3),
            f"{number(100 * r['top1_valid'], 1)} %",
            str(r["n"]),
        ]
        for _, r in means.iterrows()
    ]
    columns = ["probability difference [95 %]", "SD", "sharpness", "SD", "top token valid", "n"]
    return plain(texts, rows, columns, title, width=2.1)


def circuits(scores: pd.DataFrame, title: str) -> Figure:
    """T2: sufficiency, necessity, the full circuit, the inputs' variants, other circuits."""
    scores = scores[~scores["pool"].str.contains(",")]
    order = ["dataset", "activation", "circuit", "experiment", "mode", "edge_set", "qkv"]
    scores = scores.sort_values(order, ascending=[True, True, False, True, False, True, False])
    rows = [f"{r.dataset}, {r.activation}: {r.circuit}, {_mode(r)}" for r in scores.itertuples()]
    values = np.array([[np.nan, np.nan, r.recovery, r.norm_faithfulness] for r in scores.itertuples()])
    texts = [
        [
            _interval(r),
            number(r["mean_cs"], 3),
            f"{number(100 * r['recovery'], 1)} %",
            f"{number(100 * r['norm_faithfulness'], 1)} %",
        ]
        for _, r in scores.iterrows()
    ]
    columns = ["probability difference [95 %]", "sharpness", "of the full model", "of full minus 01"]
    return heat_table(values, texts, rows, columns, title=title, cmap="RdBu", norm=TwoSlopeNorm(0, -1.5, 1.5), cell=(2.1, 0.36))


def _mode(row) -> str:
    if row.qkv != "ggg":
        return "q, k, v " + ", ".join({"g": "clean", "b": "01"}[c] for c in row.qkv)
    return f"{row.mode}, edges as in {row.edge_set}" if row.experiment == "E3" else "from the input on"


def split(table: pd.DataFrame, title: str) -> Figure:
    """T3: how much of the probability difference is lost with an MLP's direct and indirect paths."""
    table = table.sort_values("layer", ascending=False)
    values = table[["direct", "indirect", "total"]].to_numpy()
    texts = [[f"{number(100 * v, 1)} %" for v in row] for row in values]
    rows, limit = [f"MLP {l}" for l in table["layer"]], max(0.01, float(np.abs(values).max()))
    columns = ["to the logits directly", "through later MLPs alone", "both"]
    return heat_table(values, texts, rows, columns, title=title, cmap="Blues", norm=Normalize(0, 1.4 * limit), cell=(2.0, 0.36))


def tasks(table: pd.DataFrame, title: str) -> Figure:
    """T4: the related tasks."""
    table = table.sort_values(["task", "variant", "circuit"], ascending=[True, False, True])
    rows = [f"{r.task}: {TASK_TITLES[r.task]}" + _variant(r) for r in table.itertuples()]
    values = np.array([[np.nan, np.nan, np.nan, np.nan, r.recovery] for r in table.itertuples()])
    texts = [
        [
            number(r.baseline_pd_gt, 3),
            number(r.baseline_pd_lt, 3),
            f"{number(100 * r.top1_valid, 1)} %",
            number(r.circuit_pd, 3),
            f"{number(100 * r.recovery, 1)} %",
        ]
        for r in table.itertuples()
    ]
    columns = ["years above", "years below", "top token valid", "circuit", "recovered"]
    return heat_table(values, texts, rows, columns, title=title, cmap="RdBu", norm=TwoSlopeNorm(0, -1.5, 1.5), cell=(1.5, 0.36))


def _variant(row) -> str:
    parts = [] if row.variant == "fixed" else ["as coded"]
    parts += [] if row.circuit == "circuit" else [f"{row.circuit} circuit"]
    return f" ({', '.join(parts)})" if parts else ""


def random_circuits(table: pd.DataFrame, title: str) -> Figure:
    """T5: recovery of each family of circuits."""
    ours = table[table["family"] == "circuit"].iloc[0]
    rows, texts = ["the circuit"], [["1", f"{number(100 * ours['recovery'], 1)} %", "–", f"p = {ours['p_value']:.4f}"]]
    for family, name in FAMILIES.items():
        part = table.loc[table["family"] == family, "recovery"]
        if len(part):
            span = f"{number(100 * part.min(), 1)} to {number(100 * part.max(), 1)} %"
            rows.append(name)
            texts.append(
                [str(len(part)), f"{number(100 * part.mean(), 1)} %", span, f"{(part >= ours['recovery']).sum()} as good"]
            )
    return plain(texts, rows, ["circuits", "mean recovery", "range", "against the circuit"], title, width=1.9)


def random_histogram(table: pd.DataFrame, title: str) -> Figure:
    """Ours: recovery of random circuits beside the circuit's."""
    ours = float(table.loc[table["family"] == "circuit", "recovery"].iloc[0])
    figure, axes = plt.subplots(figsize=(9.4, 3.8))
    shown = table[table["family"].isin(["any_layer", "same_layers"])]
    low, high = min(0.0, shown["recovery"].min()), max(1.0, ours, shown["recovery"].max())
    bins = np.linspace(100 * low, 100 * high, 41)
    for family, colour in (("any_layer", "#7f7f7f"), ("same_layers", "#8fb8de")):
        part = 100 * table.loc[table["family"] == family, "recovery"]
        axes.hist(part, bins=bins, alpha=0.7, color=colour, label=f"{FAMILIES[family]} ({len(part)})")
    axes.axvline(100 * ours, color="#c0392b", linewidth=1.6, label=f"the circuit, {number(100 * ours, 1)} %")
    axes.set(xlabel="recovered probability difference (% of the full model)", ylabel="circuits", title=title)
    axes.title.set_fontsize(11)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def checks(topk: pd.DataFrame, years: pd.DataFrame, erasure: pd.DataFrame, title: str) -> Figure:
    """T6: the reviewers' checks (E12, E13) and the erasures of YY."""
    rows, texts = [], []
    for r in topk.sort_values(["position", "rule"]).itertuples():
        rule = "strict rule" if r.rule == "strict" else "the authors' rule"
        what = "not below XX" if r.position == "XX" else "beyond YY" if r.rule == "strict" else "not below YY"
        rows.append(f"top {r.k} tokens at {r.position}, {rule}")
        texts.append([f"mass of years {what}", number(r.valid_mass, 3), f"of {number(r.total_mass, 3)}"])
    rows.append("random lists of years")
    texts.append(
        ["mass beyond the last year", number(years["mass_gt"].mean(), 3), f"not beyond: {number(years['mass_le'].mean(), 3)}"]
    )
    for r in erasure.sort_values(["site", "method"]).itertuples():
        method = "LEACE" if r.method == "leace" else "first two components"
        rows.append(f"YY erased at {r.site}, {method}")
        texts.append(["probability difference", number(r.pd, 3), f"of {number(r.baseline_pd, 3)}"])
    return plain(texts, rows, ["what", "ours", ""], title, width=2.2)


def scorecard(card: pd.DataFrame, title: str) -> Figure:
    """T7: published numbers beside ours."""
    rows = [_wrapped(r.quantity) for r in card.itertuples()]
    texts = [[r.published[:28], r.ours if isinstance(r.ours, str) else "–", r.verdict] for r in card.itertuples()]
    return plain(texts, rows, ["published", "ours", "verdict"], title, width=1.7)


def _wrapped(text: str, width: int = 70) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def table_item(file: str, tables: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Return one of the tables T1 to T6."""
    if file == "t6-checks":
        return checks(tables["gt_topk"], tables["gt_random_years"], tables["gt_erasure"], title)
    draw = {
        "t1-behaviour": (behaviour, "behaviour"),
        "t2-circuit": (circuits, "circuit_eval"),
        "t3-mlp-split": (split, "mlp_split"),
        "t4-tasks": (tasks, "gt_tasks"),
        "t5-random-circuits": (random_circuits, "gt_random_circuits"),
        "x3-random-circuits": (random_histogram, "gt_random_circuits"),
    }
    function, table = draw[file]
    return function(tables[table], title)
