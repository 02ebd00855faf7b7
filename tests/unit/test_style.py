"""How pictures are saved: laid out so that nothing overlaps."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.artist import Artist

from recircuit.figures.style import plt, save


def maps():
    """A row of maps over another, packed closely, each with a colour bar and a title of two lines: one pass is not enough."""
    figure, grid = plt.subplots(2, 5, figsize=(19.4, 4.9), layout="compressed")
    for axes in grid.flat:
        figure.colorbar(axes.imshow(np.zeros((4, 8))), ax=axes, shrink=0.9)
        axes.set(title="a title\nof two lines", xlabel="head", ylabel="layer")
    figure.suptitle("A heading\nof two lines")
    return figure


@pytest.fixture
def output(tmp_path):
    yield SimpleNamespace(pdf=tmp_path / "picture.pdf", png=tmp_path / "picture.png")
    plt.close("all")


def test_rows_of_maps_do_not_overlap(output):
    figure = maps()
    save(figure, output, {})
    boxes = [axes.get_tightbbox() for axes in figure.axes[:10]]
    for above, below in zip(boxes[:5], boxes[5:], strict=True):
        assert above.y0 >= below.y1, "the label above and the title below"


def test_a_picture_without_a_layout_is_saved_as_it_is(output):
    figure = plt.figure()
    axes = figure.add_axes((0.1, 0.2, 0.3, 0.4))
    figure.set_layout_engine("none")
    save(figure, output, {})
    assert axes.get_position().bounds == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert output.pdf.stat().st_size and output.png.stat().st_size


class Counter(Artist):
    """Counts how often the figure it is on is drawn."""

    drawn = 0

    def draw(self, renderer) -> None:
        self.drawn += 1


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_a_file_is_drawn_once(output, layout):
    figure, _ = plt.subplots(layout=layout)
    counter = Counter()
    figure.add_artist(counter)
    save(figure, output, {})
    assert counter.drawn == 2, "a PNG and a PDF"
