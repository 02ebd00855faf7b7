"""The other prompts of the sequence-continuation paper (section 2.4): bare sequences, and months among numerals.

Every word of a prompt is one token; ``roles`` names each of them. A tokenizer for which that does not hold is refused, but a
prompt of numerals that it splits is left out of the two sets that run over many numerals.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sequence_continuation import members

SETS, WINDOWS, SHOWN = 32, 8, 4  # draws of numerals among the months, windows of a list of twelve, members in a window
LAST_OV_NUMERAL = 97  # the largest first numeral that the paper scores
LENGTHS, STARTS = range(1, 11), range(1, 11)
MIXED = ("months_among_random_numerals", "months_among_ordered_numerals")
MIXED_ROLES = ("n1", "m1", "n2", "m2", "n3", "m3", "n4", "m4", "last")
MAY_LACK = ("ov_numerals", "length")


class Probe(NamedTuple):
    """One prompt: its words, what each of them is, and the member that follows (where one is asked for)."""

    dataset: str
    words: tuple[str, ...]
    roles: tuple[str, ...]
    answer: str | None = None
    bos: bool = False


def following(task: str, member: str, variant: str = "fixed", step: int = 1) -> str:
    """Return the member ``step`` after one; for months as ``published`` the ordinal of its place (February: third)."""
    if task == "numerals":
        return str(int(member) + step)
    listed = "ordinals_used_as_next_of_months" if task == "months" and variant == "published" else task
    return word_data("sequence_continuation/wordlists")[listed][members(task).index(member) + step]


def probe_prompts(tokenizer: Tokenizer, seed: int) -> pd.DataFrame:
    """Return all probes in a model's tokens: dataset, row, text, tokens, n_tokens, roles (one word per token), answer.

    The mixed sets have an end-of-text token in front (role ``bos``), where the tokenizer has one; the others have none. Text is
    without it. Raises UserError when a word is not one token, in a set that must be whole.
    """
    rows, left_out = [], {}
    for probe in _probes(seed):
        ids = _single_tokens(tokenizer, probe)
        if ids is None and probe.dataset not in MAY_LACK:
            raise UserError(
                f"the prompt '{' '.join(probe.words)}' of {probe.dataset}, with what follows, is not one token per word in the "
                f"tokenizer of {tokenizer.where}; sequence_continuation needs a model for which it is"
            )
        if ids is None:
            left_out[probe.dataset] = probe
            continue
        front = [tokenizer.bos] if probe.bos and tokenizer.bos is not None else []
        roles = " ".join([*("bos" for _ in front), *probe.roles])
        text, tokens = " ".join(probe.words), [*front, *ids]
        rows.append((probe.dataset, text, tokens, len(tokens), roles, probe.answer))
    table = pd.DataFrame(rows, columns=["dataset", "text", "tokens", "n_tokens", "roles", "answer"])
    for dataset, probe in left_out.items():
        if dataset not in set(table["dataset"]):
            raise UserError(
                f"no prompt of {dataset}, such as '{' '.join(probe.words)}', is one token per word in the tokenizer of "
                f"{tokenizer.where}; sequence_continuation needs a model for which some are"
            )
    return table.assign(row=table.groupby("dataset").cumcount())


def _probes(seed: int) -> Iterator[Probe]:
    yield from _mixed(seed)
    for i in range(1, LAST_OV_NUMERAL + 1):
        yield _bare("ov_numerals", "numerals", str(i), SHOWN)
    for task in ("numwords", "months"):
        for first in members(task)[:WINDOWS]:
            yield _bare(f"ov_{task}", task, first, SHOWN)
    for task in ("numerals", "numwords", "months"):
        yield _bare(f"lens_{task}", task, members(task)[0], SHOWN)
    for length in LENGTHS:
        for start in STARTS:
            yield _bare("length", "numerals", str(start), length)


def _bare(dataset: str, task: str, first: str, length: int) -> Probe:
    *words, answer = (following(task, first, step=step) for step in range(length + 1))
    return Probe(dataset, tuple(words), tuple(f"S{i + 1}" for i in range(length)), answer)


def _mixed(seed: int) -> Iterator[Probe]:
    """Months in order between numerals: drawn once for all windows of a set (r1, r3, r5 of 1..20; r2 of 5..20, r4 one less)."""
    rng = stream(seed, "sequence_continuation", "probes", MIXED[0])
    for _ in range(SETS):
        r1, r3, r5 = (int(n) for n in rng.integers(1, 21, size=3))
        r2 = int(rng.integers(5, 21))
        for window in range(WINDOWS):
            yield _months_among(MIXED[0], window, (r1, r2, r3, r2 - 1, r5))
    for window in range(WINDOWS):
        yield _months_among(MIXED[1], window, range(window, window + SHOWN + 1))


def _months_among(dataset: str, window: int, numerals: Sequence[int]) -> Probe:
    months = word_data("sequence_continuation/wordlists")["month_abbreviations"][window : window + SHOWN]
    pairs = zip(map(str, numerals), months, strict=False)
    words = (*(word for pair in pairs for word in pair), str(numerals[-1]))
    return Probe(dataset, words, MIXED_ROLES, bos=True)


def _single_tokens(tokenizer: Tokenizer, probe: Probe) -> list[int] | None:
    """Return the ids of a probe, one per word, or None where a word, or the answer, is not one token."""
    try:
        ids = tokenizer.encode(" ".join(probe.words))
        if probe.answer is not None:
            tokenizer.single(f" {probe.answer}")
    except UserError:
        return None
    whole = len(ids) == len(probe.words)
    return ids if whole and [text.strip() for text in token_texts(tokenizer, ids)] == list(probe.words) else None


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Return the text of each token within a sentence, with its leading space where the tokenizer has one."""
    inner, ids = tokenizer.inner, list(ids)
    if inner.decoder is None:  # word-level: tokens are words
        return tokenizer.decode(ids)
    # The second of two: a decoder that trims the beginning of a text leaves its space.
    once, twice = ([inner.decode([int(i)] * n, skip_special_tokens=False) for i in ids] for n in (1, 2))
    return [text[len(first) :] for first, text in zip(once, twice, strict=True)]
