"""What the tests of bad input share: how many cases, a limit on the time of each, and the sentences that they end in."""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from recircuit.core.errors import LONGEST, UserError
from workflow import FULL

SECONDS = 20.0  # of processor time that one case may take; the slowest takes less than one

# Values that a file may hold where another is expected. Text holds what breaks lines, terminals, paths and formats.
HUGE = st.sampled_from([2**31, 2**63, -(2**63), 10**30, 10**400, 10**4000, -1, 0, 1e308, -1e308, 5e-324])
ODD = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 0.5, 4.0, 1.0, 16.0])
WORDS = [
    "",
    " ",
    "4",
    "1e3",
    "no",
    "null",
    "NaN",
    "Ünïcode",
    "a\nb",
    "\x1b[31m",
    "\0",
    "../x",
    "/etc/passwd",
    "{x}",
    "%s",
    3000 * "x",
]
TEXT = st.text(max_size=12) | st.sampled_from(WORDS)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-3, 20) | HUGE | ODD | TEXT
NESTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def cases(few: int, many: int = 2000) -> settings:
    """Return the settings of a property: ``few`` cases, or ``many`` in the full size; the same ones in every run."""
    return settings(
        max_examples=many if FULL else few,
        derandomize=True,
        database=None,
        deadline=None,  # counts waiting for other processes too; ``within`` does not
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in a case that takes more processor time than this."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Outcomes:
    """How cases ended: ``fine`` counts those that went through, ``refused`` the others by the shape of their sentence."""

    def __init__(self) -> None:
        self.fine = 0
        self.refused: Counter[str] = Counter()

    def of(self, work: Callable[[], object]) -> str | None:
        """Run a case and return its sentence, or None; any exception but UserError is passed on, and fails the test."""
        try:
            with within():
                work()
        except UserError as error:
            sentence = str(error)
            check_sentence(sentence)
            self.refused[shape(sentence)] += 1
            return sentence
        self.fine += 1
        return None

    def require(self, *, fine: int, sentences: int, cases: int = 2000) -> None:
        """Fail unless so many cases went through and so many different sentences were seen: else the cases are no test.

        ``cases`` are those of the full size; hypothesis stops earlier where it has drawn all that there are.
        """
        table = "\n".join(f"{count:6} {text}" for text, count in self.refused.most_common())
        print(f"{self.fine} went through, {self.refused.total()} were refused with {len(self.refused)} sentences:\n{table}")
        assert not FULL or self.fine + self.refused.total() >= cases
        assert self.fine >= fine, f"{self.fine} cases went through"
        assert len(self.refused) >= sentences, table


def check_sentence(sentence: str) -> None:
    """Fail unless this is one line of text that a terminal can show and a log can hold, and no dump of a file."""
    assert sentence.strip() and sentence.isprintable(), ascii(sentence)
    assert len(sentence) <= LONGEST, len(sentence)
    assert sentence.encode("utf-8")
    assert "Traceback" not in sentence and 'File "' not in sentence, sentence


def shape(sentence: str) -> str:
    """Return a sentence without its names and numbers, so that equal mistakes in different places count once."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", sentence.split("; did you mean")[0].split("; choose one of")[0])
    text = re.sub(r"\S*/\S*/\S*", "…", text)
    text = re.sub(r"^(config: .*? is) .*(; expected)", r"\1 …\2", text)
    text = re.sub(r"[\w-]*[._=][\w.%=…'-]*|[\w.<>+-]*\d[\w.<>+-]*", "#", text)
    return re.sub(r"(the key|at) \S+", r"\1 …", text)[:100]


def tree(root: Path) -> dict[str, tuple]:
    """Return all files below a folder with what can be told of each without following links."""
    found = {}
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            facts = path.lstat()
            found[str(path.relative_to(root))] = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found
