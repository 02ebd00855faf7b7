"""A user's mistake, told in one sentence: what, where, what was expected, the nearest valid choice."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that a user can mend. Its text is one sentence; it is shown without a traceback."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'pocket'?``, or the choices when none is close and they are few."""
    options = sorted(str(choice) for choice in choices)
    close = get_close_matches(str(word), options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if not options or len(options) > 20:  # a vocabulary is no hint
        return ""
    return f"; choose one of: {', '.join(options)}"
