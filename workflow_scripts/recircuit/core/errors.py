"""A user's mistake, or the machine's, told in one sentence: what, where, what was expected or what to do."""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 1200  # characters of a sentence; the middle of a longer one is left out
_AGAIN = "then run the same command again: what is finished is kept"
# What a disk may refuse, and what to do about it.
REFUSALS = {
    errno.ENOSPC: f"the disk is full; make room, {_AGAIN}",
    errno.EDQUOT: f"your quota of the disk is used up; make room, {_AGAIN}",
    errno.EROFS: f"its file system is read-only; make it writable, or work in a copy elsewhere, {_AGAIN}",
    errno.EACCES: f"permission is denied; get the right to write there, {_AGAIN}",
    errno.EPERM: f"the operation is not permitted; get the right to write there, {_AGAIN}",
    errno.EIO: f"the disk reports an error; see to it, {_AGAIN}",
}
_NUMBER = re.compile(r"\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)


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


def refusal(error: BaseException, path: object = None) -> UserError | None:
    """Return the sentence for an error that comes from a disk which refuses, or None for any other.

    ``path`` is the file that was at work, where the error does not name one. Libraries that are not written in Python put
    the system's number into their text.
    """
    if isinstance(error, UserError):
        return None
    found: BaseException | None = error
    while found is not None and (number := _number(found)) not in REFUSALS:
        # A library's clean-up after it may have failed in turn.
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    if found is None:
        return None
    if path is not None:
        return UserError(f"{path} cannot be written: {REFUSALS[number]}")
    return UserError(f"{getattr(found, 'filename', None) or 'a file'} cannot be read or written: {REFUSALS[number]}")


def _number(error: BaseException) -> int | None:
    number = getattr(error, "errno", None)
    if number is None and (found := _NUMBER.search(str(error))):
        number = int(found[1] or found[2])
    return number


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an out-of-memory error of CUDA or the CPU's allocators from any other; does not import torch."""
    if isinstance(error, MemoryError):
        return True
    text = "can't allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, RuntimeError) and text
