"""How pictures are saved: laid out as matplotlib does when it has come to rest, and alike in both files."""

from types import SimpleNamespace

import numpy as np
import pytest

from recircuit.figures.style import plt, save


def maps():
    """A row of maps over another, each with a colour bar and a title of two lines: a first pass leaves them overlapping."""
    figure, grid = plt.subplots(2, 5, figsize=(20, 5))
    for axes in grid.flat:
        figure.colorbar(axes.imshow(np.zeros((4, 8))), ax=axes)
        axes.set(title="a title\nof two lines", xlabel="head", ylabel="layer")
    figure.suptitle("A heading\nof two lines")
    return figure


def places(figure):
    """Return where the axes are, in inches."""
    return np.array([axes.get_position().bounds for axes in figure.axes]) * np.tile(figure.get_size_inches(), 2)


@pytest.fixture
def output(tmp_path):
    yield SimpleNamespace(pdf=tmp_path / "picture.pdf", png=tmp_path / "picture.png")
    plt.close("all")


def test_a_picture_is_laid_out_as_after_many_passes(output):
    saved, patient = maps(), maps()
    save(saved, output, {})
    patient.set_dpi(plt.rcParams["savefig.dpi"])
    for _ in range(6):
        patient.get_layout_engine().execute(patient)
    assert np.abs(places(saved) - places(patient)).max() < 0.02
    boxes = [axes.get_tightbbox() for axes in saved.axes[:10]]
    for above, below in zip(boxes[:5], boxes[5:], strict=True):
        assert above.y0 >= below.y1, "the labels above and the title below do not meet"


def test_a_picture_without_a_layout_is_saved_as_it_is(output):
    figure = plt.figure()
    axes = figure.add_axes((0.1, 0.2, 0.3, 0.4))
    figure.set_layout_engine("none")
    save(figure, output, {})
    assert axes.get_position().bounds == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert output.pdf.stat().st_size and output.png.stat().st_size
