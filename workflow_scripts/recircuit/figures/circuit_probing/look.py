"""The paper's look (seaborn's dark grid, Dark2), and the names of variables and methods as its labels write them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

DARK2 = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d", "#666666")
VARIABLES = {
    "a2": "a²", "minus_b2": "−b²", "a_plus_b": "a + b", "a_minus_b": "a − b", "b2": "b²",
    "free": "Free", "shared": "Shared", "other": "Other",
}  # fmt: skip
METHODS = {"circuit": "circuit probe", "linear": "linear probe", "nonlinear": "non-linear probe"}
COMPONENTS = {"attn": "Attention", "mlp": "MLP"}
_GRID = {
    "axes.facecolor": "#eaeaf2", "axes.edgecolor": "white", "axes.grid": True, "grid.color": "white", "grid.linewidth": 1.0,
    "axes.axisbelow": True, "axes.spines.left": False, "axes.spines.bottom": False, "xtick.bottom": False, "ytick.left": False,
}  # fmt: skip


@contextmanager
def dark_grid() -> Iterator[None]:
    """Draw with seaborn's dark grid."""
    with plt.rc_context(_GRID):
        yield


def grouped_bars(
    axes: Axes, groups: Sequence[str], bars: Mapping[str, Sequence[float]], errors: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Draw bars side by side in groups, in the palette's order; NaN draws nothing."""
    width = 0.8 / len(bars)
    for i, (label, values) in enumerate(bars.items()):
        places = np.arange(len(groups)) + (i - (len(bars) - 1) / 2) * width
        spread = None if errors is None or label not in errors else errors[label]
        axes.bar(places, values, width, color=DARK2[i], label=label, yerr=spread, error_kw={"elinewidth": 1.2})
        for x, value in zip(places, values, strict=True):
            if value == value and value < 0.02:  # a bar too low to see is not a missing one
                axes.text(x, 0.012, f"{value:.2f}".lstrip("0"), ha="center", va="bottom", fontsize=7, color="0.3")
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(visible=False, axis="x")
