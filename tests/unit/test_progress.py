"""Lines about the time left: due now and then, right for equal shares, none in a short loop."""

import pytest

from recircuit.runs import progress
from recircuit.runs.progress import Countdown, counted


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_is_due_every_twenty_seconds_and_never_at_the_end(clock):
    lines = []
    countdown = Countdown(10, lines.append, "circuits", clock)
    for _ in range(10):
        clock.now += 8
        countdown.step()
    assert lines == [
        "circuits 3/10  24 s spent, 56 s left",
        "circuits 6/10  48 s spent, 32 s left",
        "circuits 9/10  72 s spent, 8 s left",
    ]


def test_a_short_loop_says_nothing(clock):
    lines = []
    countdown = Countdown(100, lines.append, "circuits", clock)
    for _ in range(100):
        clock.now += 0.19
        countdown.step()
    assert lines == []


def test_shares_may_be_larger_than_one(clock):
    lines = []
    countdown = Countdown(1000, lines.append, "prompts", clock)
    clock.now += 30
    countdown.step(250)
    assert lines == ["prompts 250/1000  30 s spent, 90 s left"]


def test_an_item_is_done_when_the_next_is_asked_for(clock, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    lines = []
    for item in counted("abc", lines.append, "letters"):
        assert len(lines) == "abc".index(item)
    assert [line.split("  ")[0] for line in lines] == ["letters 1/3", "letters 2/3"]
