"""One look for all pictures, and files whose bytes repeat: no dates, a passport inside."""

import json
from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from recircuit.core.files import atomic

# The paper's colours: numerals red, number words blue, months gold.
TASK_COLOURS = {"numerals": "#c0392b", "numwords": "#2c6fbb", "months": "#c8960c"}
TASK_NAMES = {
    "numerals": "numerals",
    "numwords": "number words",
    "months": "months",
    "spanish_numwords": "Spanish number words",
    "spanish_months": "Spanish months",
}

plt.rcParams.update(
    {
        "figure.dpi": 100, "savefig.dpi": 200, "figure.constrained_layout.use": True, "font.size": 10,
        "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "pdf.fonttype": 42, "svg.hashsalt": "recircuit",
    }
)  # fmt: skip


def number(value: float, digits: int) -> str:
    """Write a number with a true minus sign, and never a minus before nothing but zeros."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def title(item: Mapping[str, str], model: str) -> str:
    """Return a picture's heading: the item's title, its number in the paper, and the model it was made with."""
    return f"{item['title']} ({item['number']}) · {model}"


def save(figure: Figure, output, passport: Mapping) -> None:
    """Write a figure as ``output.png`` and ``output.pdf``, each with its passport among its metadata."""
    text = json.dumps(passport, sort_keys=True)
    lay_out(figure)
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # with one, even the placeholder "none", savefig draws twice
        for path, metadata in (
            (output.png, {"recircuit": text, "Software": None}),
            (output.pdf, {"Keywords": text, "CreationDate": None, "Creator": "recircuit", "Producer": None}),
        ):
            with atomic(str(path)) as part:
                figure.savefig(part, format=str(path).rpartition(".")[2], metadata=metadata)
    plt.close(figure)


def lay_out(figure: Figure) -> None:
    """Find where everything goes, once for both files; beside colour bars that takes two passes."""
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.set_dpi(plt.rcParams["savefig.dpi"])  # letters are as wide as they will be
        bars = any(axes.get_label() == "<colorbar>" for axes in figure.axes)  # matplotlib's name for them
        for _ in range(2 if bars else 1):
            engine.execute(figure)
