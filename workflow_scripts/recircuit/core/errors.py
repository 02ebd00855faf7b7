"""A user's mistake, told in one sentence: what, where, what was expected, the nearest valid choice."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1200  # characters of a sentence; the middle of a longer one is left out


class UserError(Exception):
    """An error that a user can mend. Its text is one sentence; it is shown without a traceback.

    What a file or a library put into it is made fit for a line of a log: no line breaks, no characters that cannot be shown.
    """

    def __init__(self, text: str) -> None:
        # Characters, not words: a line break within a name must neither end the sentence nor vanish.
        line = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-280:]}")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'pocket'?``, or the choices when none is close and they are few."""
    options = sorted(str(choice) for choice in choices)
    close = get_close_matches(str(word), options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not options or len(options) > 20:  # a vocabulary is no hint
        return ""
    return f"; choose one of: {', '.join(options)}"
