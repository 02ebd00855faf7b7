"""Prompts of the sequence-continuation paper: five clauses whose last member is to be continued (spec sections 2.1 to 2.3).

The released rows are rebuilt exactly, from one table of skeletons for the clean prompts and one row per corrupted prompt.
``corrupted_fixed`` draws the members anew, slot by slot and seeded: the released ones were made by chained text replacement,
which also replaced parts of other members and of names. New prompts come from ``new_skeletons``.
"""

from importlib.resources import files
from io import StringIO

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.tasks.corpus import word_data

TASKS = ("numerals", "numwords", "months")
TEMPLATES = ("done", "lost", "names")
VERBS = {"done": "done", "lost": "lost", "names": "born"}
FILLERS = ["w1", "w2", "w3", "w4", "w5"]
MEMBERS = ["s1", "s2", "s3", "s4"]
# Token positions without an end-of-text token in front; S1..S4 are the members, end is where the fifth is predicted.
POSITIONS = {"S1": 3, "S2": 8, "S3": 13, "S4": 18, "end": 22}
LENGTH = 23


def members(task: str) -> list[str]:
    """Return the twelve members of a sequence in order."""
    return word_data("sequence_continuation/wordlists")[task]


def _table(name: str) -> pd.DataFrame:
    text = (files("recircuit.tasks") / "data" / "sequence_continuation" / name).read_text(encoding="utf-8")
    return pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)


def clean_skeletons(per_template: int) -> pd.DataFrame:
    """Return the first ``per_template`` released skeletons of each template, in order: template, verb, w1..w5, start."""
    rows = _table("clean_prompts.csv").rename(columns={"start_index_1based": "start"})
    return _first(rows, per_template).astype({"start": int})[["template", "verb", *FILLERS, "start"]]


def corrupted_rows(task: str, per_template: int) -> pd.DataFrame:
    """Return the released corrupted prompts: template, w1..w5 and s1..s4 as in the text, key_s1..key_s4 as stored."""
    rows = _table("corrupted_prompts.csv")
    renamed = {f"{kind}_S{i}": f"{prefix}s{i}" for kind, prefix in (("text", ""), ("key", "key_")) for i in range(1, 5)}
    chosen = _first(rows[rows["task"] == task], per_template).rename(columns=renamed)
    return chosen[["template", *FILLERS, *MEMBERS, *(f"key_{m}" for m in MEMBERS)]]


def _first(rows: pd.DataFrame, per_template: int) -> pd.DataFrame:
    parts = [rows[rows["template"] == template].head(per_template) for template in TEMPLATES]
    for template, part in zip(TEMPLATES, parts, strict=True):
        if len(part) < per_template:
            raise UserError(f"template '{template}' has {len(part)} released prompts; {per_template} were asked for")
    return pd.concat(parts, ignore_index=True)


def new_skeletons(per_template: int, seed: int) -> pd.DataFrame:
    """Draw new clean skeletons: fillers without repetition within a prompt, starts in the cycle 1, 2, ..., 8."""
    lists = word_data("sequence_continuation/wordlists")
    rows = []
    for template in TEMPLATES:
        words = lists["names_100_in_released_data" if template == "names" else "objects_73_in_released_data"]
        rng = stream(seed, "sequence_continuation", "skeletons", template)
        for row in range(per_template):
            fillers = [words[int(i)] for i in rng.choice(len(words), 5, replace=False)]
            rows.append((template, VERBS[template], *fillers, row % 8 + 1))
    return pd.DataFrame(rows, columns=["template", "verb", *FILLERS, "start"])


def clean_prompts(task: str, skeletons: pd.DataFrame) -> pd.DataFrame:
    """Fill the skeletons with the members of a task; ``corr`` follows the last member shown, ``incorr`` is that member."""
    sequence, rows = members(task), skeletons.drop(columns="verb").copy()
    for i, name in enumerate([*MEMBERS, "corr"]):
        rows[name] = [sequence[start - 1 + i] for start in rows["start"]]
    return _finish(task, "clean", rows.assign(incorr=rows["s4"]))


def corrupted_prompts(task: str, clean: pd.DataFrame, per_template: int) -> pd.DataFrame:
    """Return the released corrupted prompts of a task, row by row beside the clean ones, with the clean answers."""
    rows = corrupted_rows(task, per_template)
    return _finish(task, "corrupted", rows.assign(corr=clean["corr"], incorr=clean["incorr"], start=clean["start"]))


def redrawn_prompts(task: str, clean: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Corrupt slot by slot: members uniform over the twelve, (r3, r4) drawn again until r4 does not follow r3."""
    rng, sequence = stream(seed, "sequence_continuation", "redrawn", task), members(task)
    drawn = []
    for _ in range(len(clean)):
        r1, r2 = (int(i) for i in rng.integers(12, size=2))
        r3, r4 = (int(i) for i in rng.integers(12, size=2))
        while r4 == r3 + 1:
            r3, r4 = (int(i) for i in rng.integers(12, size=2))
        drawn.append([sequence[i] for i in (r1, r2, r3, r4)])
    rows = clean[["template", *FILLERS, "start", "corr", "incorr"]].copy()
    rows[MEMBERS] = np.array(drawn)
    return _finish(task, "corrupted_fixed", rows)


def _finish(task: str, kind: str, rows: pd.DataFrame) -> pd.DataFrame:
    def text(row) -> str:
        verb = VERBS[row.template]
        clauses = [f"{row[w]} {verb} in {row[s]}." for w, s in zip(FILLERS, MEMBERS, strict=False)]
        return " ".join([*clauses, f"{row.w5} {verb} in"])

    rows = rows.reset_index(drop=True)
    rows["text"] = [text(row) for _, row in rows.iterrows()]
    return rows.assign(task=task, set=kind, row=range(len(rows)))


def tokenised(rows: pd.DataFrame, tokenizer: Tokenizer) -> pd.DataFrame:
    """Add ``tokens`` (without an end-of-text token), ``n_tokens``, ``corr_id`` and ``incorr_id``, and check the layout.

    Raises UserError when a prompt is not 23 tokens with the members where POSITIONS says, or an answer is not one token.
    """
    rows = rows.copy()
    rows["tokens"] = [tokenizer.encode(text) for text in rows["text"]]
    rows["n_tokens"] = rows["tokens"].map(len)
    for answer in ("corr", "incorr"):
        ids = {word: tokenizer.single(f" {word}") for word in rows[answer].unique()}
        rows[f"{answer}_id"] = rows[answer].map(ids)
    wrong = rows[rows["n_tokens"] != LENGTH]
    if len(wrong):
        first = wrong.iloc[0]
        raise UserError(
            f"the prompt '{first.text}' is {first.n_tokens} tokens in the tokenizer of {tokenizer.where}; "
            f"sequence_continuation needs {LENGTH}, every word one token"
        )
    for slot, member in zip(("S1", "S2", "S3", "S4"), MEMBERS, strict=True):
        ids = {word: tokenizer.single(f" {word}") for word in rows[member].unique()}
        if any(tokens[POSITIONS[slot]] != ids[word] for tokens, word in zip(rows["tokens"], rows[member], strict=True)):
            raise UserError(f"position {slot} does not hold the member in the tokenizer of {tokenizer.where}")
    return rows


def prompts_table(tokenizer: Tokenizer, per_template: int, seed: int, *, released: bool) -> pd.DataFrame:
    """Return all prompts of the paper: task, set{clean, corrupted, corrupted_fixed}, row, words, text, tokens, answers.

    Without ``released`` the clean prompts are new ones, and ``corrupted`` and ``corrupted_fixed`` are both slot by slot.
    """
    skeletons = clean_skeletons(per_template) if released else new_skeletons(per_template, seed)
    parts = []
    for task in TASKS:
        clean = clean_prompts(task, skeletons)
        redrawn = redrawn_prompts(task, clean, seed)
        as_published = corrupted_prompts(task, clean, per_template) if released else redrawn.assign(set="corrupted")
        parts += [clean, as_published, redrawn]
    table = pd.concat(parts, ignore_index=True)
    for key in (f"key_{m}" for m in MEMBERS):
        table[key] = table.get(key)
    return tokenised(table, tokenizer)
