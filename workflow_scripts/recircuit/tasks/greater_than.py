"""Prompts of the greater-than paper (spec section 2): a clean prompt, its 01 twin, and where the years stand.

``<|endoftext|> The {noun} lasted from the year {XX}{YY} to the year {XX}``; the years that follow YY are right. A year can be
used if the tokenizer splits it into century and two digits; of each century the smallest and largest usable one are dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import pick, word_data

POOLS = {"code768": range(10, 19), "paper617": range(11, 18)}  # centuries of the released code, and of the paper's text
FIRST, LAST = 2, 98  # YY: both a smaller year than the twin's 01 and a larger one must exist
SPAN = "The {noun} lasted from the year {century}{yy:02d} to the year {century}"
LONGEST = 18  # tokens of the longest prompt, for memory
FEWEST = 10  # rows that make a data set worth running

Log = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One prompt: the text before YY, YY as two digits, the text after it, the twin's text, and what is known of it."""

    before: str
    yy: int
    after: str
    corrupt: str
    noun: str | None = None
    century: int | None = None
    scored: int | None = None  # the YY that answers are scored by, where it is not the one in the text

    @property
    def clean(self) -> str:
        """The whole prompt."""
        return f"{self.before}{self.yy:02d}{self.after}"


def year_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of the hundred two-digit years; UserError when one is not a token."""
    return [tokenizer.single(f"{n:02d}") for n in range(100)]


def splits(tokenizer: Tokenizer, year: int) -> bool:
    """Tell whether a year, after a space, is exactly two tokens of which the second is its last two digits."""
    ids = tokenizer.encode(f" {year}")
    return len(ids) == 2 and tokenizer.inner.id_to_token(ids[1]) == f"{year % 100:02d}"


def year_pool(tokenizer: Tokenizer, centuries: Sequence[int]) -> list[int]:
    """Return the usable years of some centuries, without the smallest and the largest of each, and with YY in 02 to 98."""
    pool = []
    for century in centuries:
        usable = [y for y in range(100 * century, 100 * century + 100) if splits(tokenizer, y)]
        pool += [y for y in usable[1:-1] if FIRST <= y % 100 <= LAST]
    return pool


def known_nouns(tokenizer: Tokenizer, nouns: Sequence[str]) -> list[str]:
    """Return the nouns that are one token after a space in this tokenizer."""
    return [noun for noun in nouns if is_word(tokenizer, noun)]


def is_word(tokenizer: Tokenizer, word: str) -> bool:
    """Tell whether a word, after a space, is one token."""
    try:
        return len(tokenizer.encode(f" {word}")) == 1
    except UserError:  # a word-level vocabulary without it
        return False


# ---- the year-span data sets ----------------------------------------------------------------------------------------


def span(noun: str, year: int) -> Row:
    """Return the year-span prompt of a noun and a year."""
    century, yy = divmod(year, 100)
    before, after = SPAN.split("{yy:02d}")
    words = {"noun": noun, "century": century}
    return Row(before.format(**words), yy, after.format(**words), SPAN.format(yy=1, **words), noun, century)


def balanced(n: int, pool: Sequence[int], nouns: Sequence[str], rng: np.random.Generator) -> Iterator[Row]:
    """Draw spans whose YY run through 02 to 98 again and again; the year uniform among those with that YY."""
    with_yy = {yy: [y for y in pool if y % 100 == yy] for yy in range(FIRST, LAST + 1)}
    present = [yy for yy, years in with_yy.items() if years]
    for i in range(n):
        yield span(pick(rng, nouns), int(pick(rng, with_yy[present[i % len(present)]])))


def uniform(n: int, pool: Sequence[int], nouns: Sequence[str], rng: np.random.Generator) -> Iterator[Row]:
    """Draw spans whose years are uniform over the pool."""
    for _ in range(n):
        yield span(pick(rng, nouns), int(pick(rng, pool)))


def one_century(nouns: Sequence[str], rng: np.random.Generator) -> Iterator[Row]:
    """Return 1702 to 1798 in order, a random noun each."""
    for yy in range(FIRST, LAST + 1):
        yield span(pick(rng, nouns), 1700 + yy)


def regression_rows() -> Iterator[Row]:
    """Return the thousand fixed prompts of EAP-IG, of which the full model's probability difference was printed."""
    for noun, year in word_data("greater_than/eap_ig_regression")["rows"]:
        yield span(noun, year)


def year_list(years: Sequence[int]) -> Row:
    """Return ``1710, 1745, 1766, 1788, 1732, 17``: the last year is the one to exceed."""
    century, yy = divmod(years[-1], 100)
    shown = ", ".join(map(str, years[:-1]))
    return Row(f"{shown}, {century}", yy, f", {century}", f"{shown}, {century}01, {century}", None, century)


def random_lists(n: int, pool: Sequence[int], rng: np.random.Generator, fits: Callable[[Row], bool]) -> Iterator[Row]:
    """Draw lists of five years of one century, with replacement; the century comes with its share of the pool (E13)."""
    for _ in range(n):
        while True:
            century = int(pick(rng, pool)) // 100
            same = [y for y in pool if y // 100 == century]
            row = year_list([int(pick(rng, same)) for _ in range(5)])
            if fits(row):
                yield row
                break


# ---- from rows to a table -------------------------------------------------------------------------------------------


class Encoder:
    """Turns rows into tokens: ``lead`` puts a space before the first word, as after the end-of-text token."""

    def __init__(self, tokenizer: Tokenizer, *, bos: bool, lead: str = " ") -> None:
        if bos and tokenizer.bos is None:
            raise UserError(f"the tokenizer of {tokenizer.where} has no end-of-text token; greater_than puts one in front")
        self.tokenizer, self.first, self.lead = tokenizer, [tokenizer.bos] if bos else [], lead

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a prompt."""
        return self.first + self.tokenizer.encode(self.lead + text)

    def record(self, row: Row) -> dict:
        """Return a row's columns of ``gt_prompts``; UserError for a word that the vocabulary lacks."""
        clean, corrupt = self.ids(row.clean), self.ids(row.corrupt)
        position = len(self.ids(f"{row.before}{row.yy:02d}")) - 1
        year = None if row.century is None else 100 * row.century + row.yy
        return {
            "noun": row.noun, "year": year, "century": row.century, "yy": row.yy if row.scored is None else row.scored,
            "clean": row.clean, "corrupt": row.corrupt, "clean_ids": clean, "corrupt_ids": corrupt, "n_tokens": len(clean),
            "xx_pos": position - 1, "yy_pos": position, "end_pos": len(clean) - 1,
        }  # fmt: skip


def table(encoder: Encoder, name: str, rows: Iterator[Row], pool: str, direction: str, log: Log) -> pd.DataFrame | None:
    """Encode rows; those with unknown words, of another length than most, or whose YY is no token of its own are left out.

    Returns None when fewer than FEWEST rows are left.
    """
    found, unknown = [], 0
    for i, row in enumerate(rows):
        try:
            found.append({"row": i} | encoder.record(row))
        except UserError:
            unknown += 1
    frame = pd.DataFrame(found)
    if len(frame):
        length = int(frame["n_tokens"].mode().iloc[0])
        fits = (frame["n_tokens"] == length) & (frame["corrupt_ids"].map(len) == length)
        place = int(frame.loc[fits, "yy_pos"].mode().iloc[0]) if fits.any() else -1
        fits &= frame["yy_pos"] == place
        odd, frame = int((~fits).sum()), frame[fits].reset_index(drop=True)
        if unknown or odd:
            log(f"{name}: {unknown} rows have words that the tokenizer lacks, {odd} are of another length; left out")
    if len(frame) < FEWEST:
        log(f"{name}: left out, {len(frame)} rows fit this tokenizer")
        return None
    return frame.assign(dataset=name, pool=pool, direction=direction)


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with integers that may be empty."""
    return frame.astype({"year": "Int16", "century": "Int8", "xx_pos": "Int16"})


def prompts_table(tokenizer: Tokenizer, sizes: dict[str, int], seed: int, log: Log) -> pd.DataFrame:
    """Return all year-span data sets: D490 (``discovery`` rows), D10k (``population``), D10k_617, D200, D97, D400, R200, REG.

    Extra draws of D10k are D10k_s1, ... up to ``seeds`` in all.
    """
    everything = word_data("greater_than/nouns")["nouns"]
    nouns = known_nouns(tokenizer, everything)
    if not nouns:
        raise UserError(f"no noun of greater_than is one token in the tokenizer of {tokenizer.where}")
    pools = {name: year_pool(tokenizer, centuries) for name, centuries in POOLS.items()}
    if not pools["code768"]:
        raise UserError(
            f"no year is two tokens (1732 as 17, 32) in the tokenizer of {tokenizer.where}; greater_than needs that"
        )
    log(f"{len(nouns)} of {len(everything)} nouns; years: {', '.join(f'{name} {len(pool)}' for name, pool in pools.items())}")
    spans, bare = Encoder(tokenizer, bos=True), Encoder(tokenizer, bos=False, lead="")
    main = pools["code768"]

    def rng(name: str) -> np.random.Generator:
        return stream(seed, "greater_than", name)

    def fits(row: Row) -> bool:
        return len(bare.ids(row.clean)) == 16 and len(bare.ids(row.corrupt)) == 16

    extra = [f"D10k_s{i}" for i in range(1, sizes["seeds"])]
    jobs = [
        (spans, "D490", balanced(sizes["discovery"], main, nouns, rng("D490")), "code768"),
        (spans, "D200", balanced(200, main, nouns, rng("D200")), "code768"),
        (bare, "D97", one_century(nouns, rng("D97")), "century 17"),
        (spans, "D400", uniform(400, main, nouns, rng("D400")), "code768"),
        (bare, "R200", random_lists(200, main, rng("R200"), fits), "code768"),
        (Encoder(tokenizer, bos=True, lead=""), "REG", regression_rows(), "EAP-IG"),
        (spans, "D10k_617", uniform(sizes["population"], pools["paper617"], nouns, rng("D10k_617")), "paper617"),
        *((spans, name, uniform(sizes["population"], main, nouns, rng(name)), "code768") for name in ("D10k", *extra)),
    ]
    tables = [table(encoder, name, rows, pool, "gt", log) for encoder, name, rows, pool in jobs]
    return typed(pd.concat([t for t in tables if t is not None], ignore_index=True))
