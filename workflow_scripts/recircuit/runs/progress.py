"""How far a long loop has come and when it may end, told now and then in its job's log."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

EVERY = 20.0  # seconds between two lines

Item = TypeVar("Item")


class Countdown:
    """Counts what is done of ``total`` things called ``what``, and logs the time left: of equal shares, as far as is known.

    A line is due ``EVERY`` seconds after the one before (or the start), so that a short loop says nothing; none is at the end.
    """

    def __init__(self, total: int, log: Callable[[str], None], what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.log, self.what, self.clock = total, log, what, clock
        self.done, self.began = 0, clock()
        self.told = self.began

    def step(self, n: int = 1) -> None:
        """Count ``n`` more things as done."""
        self.done += n
        now = self.clock()
        if self.done < self.total and now - self.told >= EVERY:
            spent, self.told = now - self.began, now
            left = spent / self.done * (self.total - self.done)
            self.log(f"{self.what} {self.done}/{self.total}  {spent:.0f} s spent, {left:.0f} s left")


def counted(items: Sequence[Item], log: Callable[[str], None], what: str) -> Iterator[Item]:
    """Yield items; each counts as done when the next one is asked for."""
    countdown = Countdown(len(items), log, what)
    for item in items:
        yield item
        countdown.step()
