"""The frames of mask training as a moving picture."""

import io

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from recircuit.core.files import atomic
from recircuit.figures.circuit_probing.probes import frame_name, run_name, scatter

MILLISECONDS = 700  # a frame


def animate(table: pd.DataFrame, title: str, path: str) -> None:
    """Write a GIF with one panel per mask and one frame per epoch; its bytes repeat."""
    runs, pictures = list(table.groupby(["task", "variable", "component"], sort=True)), []
    columns = min(len(runs), 4)
    lines = -(-len(runs) // columns)
    for frame in sorted(table["frame"].unique()):
        figure, panels = plt.subplots(lines, columns, figsize=(2.3 * columns, 2.4 * lines + 0.6), squeeze=False)
        for axes in panels.flat[len(runs) :]:
            axes.set_axis_off()
        for (key, rows), axes in zip(runs, panels.flat, strict=False):
            scatter(axes, rows[rows["frame"] == frame])
            axes.set_title(run_name(*key), fontsize=8)
        figure.suptitle(f"{title}\n{frame_name(frame)}", fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        plt.close(figure)
        pictures.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    with atomic(str(path)) as part:
        pictures[0].save(part, format="GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0)
