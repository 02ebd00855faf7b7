"""Figures 6 to 9 and their appendix: attention, lenses of heads, MLPs and neurons, principal components."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from recircuit.core.nodes import Node
from recircuit.figures.greater_than.maps import Panel, matrix, published_limits, year_maps
from recircuit.figures.style import number, plt
from recircuit.tasks.corpus import word_data

PUBLISHED_HEADS = ("a7.h10", "a8.h11")
NEURON_ITEMS = {
    "f8-neurons": (["rank 1", "rank 2", "rank 3", "top 10"], "lens", 2),
    "fn1-neurons": ([f"rank {i}" for i in range(4, 12)], "lens", 4),
    "fn2-neuron-sums": (["top 100", "top 200"], "lens", 2),
    "fe1-neuron-direct-effects": (["rank 1", "rank 2", "rank 3"], "direct", 3),
    "fe2-top10-direct-effects": (["top 10 summed", "top 10"], "direct", 2),
}


def shown_heads(circuit: pd.DataFrame, published: bool) -> list[str]:
    """Return the two heads that are shown: the paper's, else those with the largest effect."""
    if published:
        return list(PUBLISHED_HEADS)
    heads = circuit[circuit["role"] == "late_head"].sort_values(["score", "node"])
    return list(heads["node"].head(2))


def attention(table: pd.DataFrame, circuit: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Figure 6, left: mean attention of two heads, query down, key across."""
    heads = shown_heads(circuit, published)
    figure, grid = plt.subplots(1, len(heads), figsize=(5.2 * len(heads), 4.8), squeeze=False)
    for axes, name in zip(grid.flat, heads, strict=True):
        rows = table[table["head"] == name]
        wide = rows.pivot(index="query_pos", columns="key_pos", values="mean")
        tokens = rows.drop_duplicates("query_pos").sort_values("query_pos")["q_token"]
        labels = [_label(t, i) for i, t in enumerate(tokens)]
        image = axes.imshow(wide.to_numpy(float), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set(title=name, xlabel="key", ylabel="query")
        figure.colorbar(image, ax=axes, shrink=0.8, label="mean attention")
    figure.suptitle(title)
    return figure


def _label(token: str, position: int) -> str:
    names = {0: "BOS", 2: "NOUN", 7: "XX", 8: "YY", 12: "XX (end)"}
    return names.get(position, token.replace("Ġ", "").replace("▁", ""))


def attention_by_year(table: pd.DataFrame, circuit: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Appendix B: attention from the end to YY, against YY; 01 is the twin's."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    for name in shown_heads(circuit, published):
        rows = table[table["head"] == name].sort_values("yy")
        axes.plot(rows["yy"], rows["mean"], marker=".", markersize=4, linewidth=1, label=name)
    axes.set(xlabel="YY", ylabel="mean attention from the end to YY", ylim=(0, 1.02), title=title)
    axes.title.set_fontsize(11)
    axes.legend(loc="best")
    return figure


def lens_panels(
    rows: pd.DataFrame, components: Sequence[str], names: Sequence[str | None], *, less: int | None, published: bool
):
    """Return panels of a lens; ``less`` subtracts one predicted year's column."""
    panels = []
    for component, limit in zip(components, names, strict=True):
        wide = matrix(rows[rows["component"] == component], "value")
        if less is not None:
            wide = wide.sub(wide[less], axis=0)
        node = Node.parse(component)
        label = f"MLP {node.layer}" if node.kind == "mlp" else component
        panels.append(Panel(wide, label, published_limits(limit, published) if limit else None))
    return panels


def head_lens(table: pd.DataFrame, circuit: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Figure 6, right: what two heads write, read through the final norm and the unembedding."""
    rows = table[(table["kind"] == "lens") & (table["lens"] == "own_ln")]
    heads = shown_heads(circuit, published)
    panels = lens_panels(rows, heads, [None] * len(heads), less=None, published=published)
    return year_maps(panels, title, cmap="RdBu", symmetric=True, label="logit")


def mlp_lens(table: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Figure 7: what the late MLPs write, minus the column of year 00."""
    rows = table[(table["kind"] == "lens") & (table["lens"] == "own_ln")]
    mlps = late_mlps(rows)
    panels = lens_panels(rows, mlps, [f"logit_lens_{m}" if published else None for m in mlps], less=0, published=published)
    return year_maps(panels, title, cmap="RdBu", symmetric=True, label="logit minus that of 00")


def late_mlps(rows: pd.DataFrame) -> list[str]:
    """Return the MLPs of a lens table, the highest first, four at most."""
    found = [c for c in rows["component"].unique() if c.startswith("m")]
    return sorted(found, key=lambda c: -int(c[1:]))[:4]


def direct_effects(table: pd.DataFrame, circuit: pd.DataFrame, title: str, *, published: bool) -> Figure:
    """Appendix E: what the logits lose when a node's 01 write goes to them directly, minus the column of year 00."""
    rows = table[table["kind"] == "direct"]
    components = [*shown_heads(circuit, published), *late_mlps(rows)]
    panels = lens_panels(rows, components, [None] * len(components), less=0, published=published)
    return year_maps(panels, title, cmap="RdBu", symmetric=True, columns=3, label="logit minus that of 00")


def neurons(table: pd.DataFrame, ranking: pd.DataFrame, file: str, title: str, *, published: bool) -> Figure:
    """Figure 8 and its appendix: what single neurons and sums of them write, or what is lost without them.

    As in the authors' code, sums are shown minus the row of the first YY, direct effects minus the column of year 00.
    """
    sets, value, columns = NEURON_ITEMS[file]
    ids = ranking.set_index("rank")["neuron"]
    layer = int(ranking["layer"].iloc[0])
    limits = {"top 10": "top10_sum", "top 100": "top100_200", "top 200": "top100_200"} if value == "lens" else {}
    if file == "fe2-top10-direct-effects":
        limits = dict.fromkeys(sets, "top10_direct")
    panels = []
    for name in sets:
        wide = matrix(table[table["set"] == name], value) if (table["set"] == name).any() else None
        if wide is None:
            continue
        if value == "direct":
            wide = wide.sub(wide[0], axis=0)
        elif name.startswith("top"):
            wide = wide - wide.iloc[0]
        shown = f"neuron m{layer}.n{ids[int(name[5:])]} ({name})" if name.startswith("rank") else _sum_name(name, value)
        limit = "neurons_appendix" if file == "fn1-neurons" else limits.get(name)
        panels.append(Panel(wide, shown, published_limits(limit, published) if limit else None))
    return year_maps(panels, title, cmap="RdBu", symmetric=True, columns=columns, label="logit")


def _sum_name(name: str, value: str) -> str:
    if value == "lens":
        return f"sum of the {name}"
    return "ten direct effects, summed" if name.endswith("summed") else "ten neurons, patched together"


def neuron_curve(curve: pd.DataFrame, ranking: pd.DataFrame, title: str) -> Figure:
    """Ours: how many neurons of the MLP's direct path are needed."""
    names = {"top_corrupt": "first k neurons 01, others clean", "only_top_clean": "first k neurons clean, others 01"}
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for mode, label in names.items():
        rows = curve[curve["mode"] == mode].sort_values("k")
        axes.plot(rows["k"] + 1, rows["pd"], marker="o", markersize=4, label=label)
    axes.set_xscale("log")
    ticks = [k for k in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if k <= curve["k"].max()]
    axes.set_xticks([k + 1 for k in ticks], [str(k) for k in ticks])
    axes.minorticks_off()
    axes.set(
        xlabel=f"k, neurons of MLP {int(ranking['layer'].iloc[0])} by their effect",
        ylabel="probability difference",
        title=title,
    )
    axes.title.set_fontsize(11)
    axes.legend(loc="best")
    return figure


def year_colours() -> LinearSegmentedColormap:
    """Return the paper's colours of the years: piecewise linear between ten base colours."""
    base = np.array(word_data("greater_than/plot_style")["pca_base_palette_rgb"]) / 255
    return LinearSegmentedColormap.from_list("years", base, N=100)


def pca(table: pd.DataFrame, title: str) -> Figure:
    """Figure 9: first two principal components of four sites, standardised, each point a YY."""
    sites = list(dict.fromkeys(table["site"]))
    order = sorted(sites, key=lambda s: (s.startswith("embedding"), "control" in s, not s.endswith("input"), s))
    figure, grid = plt.subplots(1, len(order), figsize=(4.1 * len(order), 4.3), squeeze=False)
    colours = year_colours()
    for axes, site in zip(grid.flat, order, strict=True):
        rows = table[table["site"] == site]
        x, y = ((rows[c] - rows[c].mean()) / rows[c].std(ddof=0) for c in ("pc1", "pc2"))
        axes.scatter(x, y, s=0)
        for a, b, yy in zip(x, y, rows["yy"], strict=True):
            axes.text(a, b, f"{yy:02d}", color=colours(yy / 99), fontsize=7, ha="center", va="center")
        axes.margins(0.08)
        shares = [f"{number(100 * rows[c].iloc[0], 1)} %" for c in ("evr1", "evr2")]
        axes.set(xlabel=f"PC 1 ({shares[0]})", ylabel=f"PC 2 ({shares[1]})", title=site)
    figure.suptitle(title)
    return figure


def attention_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return one of the two attention pictures."""
    if file == "f6-attention":
        return attention(tables["gt_attention"], tables["gt_circuit"], title, published=published)
    return attention_by_year(tables["gt_attention_yy"], tables["gt_circuit"], title, published=published)


def lens_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return one of the lens pictures."""
    lens, circuit = tables["gt_lens"], tables["gt_circuit"]
    if file == "f7-mlp-lens":
        return mlp_lens(lens, title, published=published)
    draw = head_lens if file == "f6b-head-lens" else direct_effects
    return draw(lens, circuit, title, published=published)


def neuron_item(file: str, tables: Mapping[str, pd.DataFrame], title: str, *, published: bool) -> Figure:
    """Return one of the neuron pictures."""
    if file == "x2-neuron-curve":
        return neuron_curve(tables["gt_neuron_curve"], tables["gt_neurons"], title)
    return neurons(tables["gt_neuron_lens"], tables["gt_neurons"], file, title, published=published)
