"""Review sentences with labels, and prompts in pairs made of them: the Stanford Sentiment Treebank (spec 2.4, 3.8, 3.9).

No licence lets its sentences be handed on. They are read from where the user put them; the table of examples holds
sentence numbers and counts, no text.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError, nearest
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer

SIZES = {"train": 8544, "dev": 1101, "test": 2210}  # of the released treebank
CODES = {1: "train", 2: "test", 3: "dev"}  # of datasetSplit.txt
HUB_SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}
DETOKENISED = (
    (" '", "'"), (" n't", "n't"), (" .", "."), (" ,", ","), (" ?", "?"), (" !", "!"), (" -- ", "--"), ("`` ", "''"),
)  # fmt: skip
BRACKETS = ("-LRB-", "-RRB-", "(", ")")  # the second two are how the copy on the hub writes the first two
DIGITS = 6  # of the released scores; the copy on the hub holds them in single precision, where 0.4 is more than 0.4
COLUMNS = ["sentence_index", "split", "text", "score"]

Log = Callable[[str], None]


class Scaffold(NamedTuple):
    """What stands around a sentence, the two answers to compare, and whether an end-of-text token comes first."""

    template: str
    positive: str
    negative: str
    bos: bool


SCAFFOLDS = {
    "continuation": Scaffold("{text} Overall the movie was just very", " good", " bad", bos=True),
    "classification": Scaffold("Review Text: {text} Review Sentiment:", " Positive", " Negative", bos=True),
    "suffix": Scaffold("{text} Review Sentiment:", " Positive", " Negative", bos=False),  # of the ablations (spec 3.8)
}


# ---- reading the treebank -------------------------------------------------------------------------------------------


def read(source: str | Path, sizes: Mapping[str, int] | None = SIZES) -> pd.DataFrame:
    """Return the sentences: ``sentence_index``, ``split``, ``text`` as one would write it, ``score`` of the root phrase.

    ``source`` is Stanford's zip or a folder with its text files, or a folder with the hub's Parquet or CSV files, which know
    no index: there sentences are numbered from 1 through train, dev and test. UserError for files that do not fit each
    other, and when the splits have other sizes than ``sizes``.
    """
    source = Path(source)
    hub = _hub_tables(source, {"sentence", "label", "tokens"})
    frame = _from_hub(source, hub, "sentence") if hub else _from_stanford(source)
    found = frame["split"].value_counts()
    if sizes is not None and any(found.get(split, 0) != n for split, n in sizes.items()):
        have, want = (", ".join(f"{counts.get(split, 0)} {split}" for split in sizes) for counts in (found, sizes))
        raise UserError(f"{source} has {have} sentences; expected {want}; is a file cut short?")
    # The authors' copy of the sentences is detokenised already; doing it twice would join words.
    if any(piece in text for text in frame["text"] for piece, _ in DETOKENISED[1:]):
        frame["text"] = frame["text"].map(detokenised)
    return frame


def detokenised(text: str) -> str:
    """Put punctuation back to the word before it, by the authors' replacements in their order."""
    for piece, other in DETOKENISED:
        text = text.replace(piece, other)
    return text


def phrase_scores(source: str | Path) -> dict[str, float]:
    """Return the score, 0 to 1, of every phrase, as the treebank spells it: ``dictionary.txt``, or the hub's dictionary."""
    source = Path(source)
    if hub := _hub_tables(source, {"phrase", "label"}):
        table = pd.concat(hub.values())
        return dict(zip(table["phrase"], table["label"].astype(float).round(DIGITS), strict=True))
    if _hub_tables(source, {"sentence", "label"}):
        raise UserError(f"{source} has no table with the columns phrase and label, the hub's configuration 'dictionary'")
    rows = _rows(source, "sentiment_labels.txt", "phrase ids|sentiment values", "|")
    scores = {_number(source, where, left, int): _number(source, where, right, float) for where, left, right in rows}
    found = {}
    for where, phrase, right in _rows(source, "dictionary.txt", None, "|"):
        number = _number(source, where, right, int)
        if number not in scores:
            raise UserError(f"{source}: phrase {number} ({where}) has no score in sentiment_labels.txt; is it cut short?")
        found[phrase] = round(scores[number], DIGITS)
    return found


def lexicon(source: str | Path) -> dict[str, str]:
    """Return ``positive``, ``neutral`` or ``negative`` for each phrase of one word: the labels that stand in for GPT-4's."""
    return {word: sentiment(score) for word, score in phrase_scores(source).items() if " " not in word}


def sentiment(score: float) -> str:
    """Return the strict class of a score: negative up to 0.4, positive from 0.6 (the treebank's own cuts)."""
    return "negative" if score <= 0.4 else "positive" if score >= 0.6 else "neutral"


def _from_stanford(source: Path) -> pd.DataFrame:
    rows = _rows(source, "datasetSentences.txt", "sentence_index\tsentence", "\t")
    sentences = {_number(source, where, left, int): text for where, left, text in rows}
    codes = _rows(source, "datasetSplit.txt", "sentence_index,splitset_label", ",")
    splits = {_number(source, where, left, int): _split(source, where, right) for where, left, right in codes}
    if alone := sorted(sentences.keys() ^ splits.keys()):
        lacking = "datasetSplit.txt" if alone[0] in sentences else "datasetSentences.txt"
        raise UserError(f"{source}: sentence {alone[0]} is not in {lacking}; is it cut short?")
    roots = _lines(source, "SOStr.txt")
    if len(roots) != len(sentences):
        raise UserError(f"{source}: SOStr.txt has {len(roots)} lines for {len(sentences)} sentences; is a file cut short?")
    scores, found = phrase_scores(source), []
    for (index, text), root in zip(sentences.items(), roots, strict=True):
        phrase = root.replace("|", " ")
        if phrase not in scores:
            raise UserError(f"{source}: the whole of sentence {index} is no phrase of dictionary.txt; is it cut short?")
        found.append((index, splits[index], text, scores[phrase]))
    return pd.DataFrame(found, columns=COLUMNS)


def _split(source: Path, where: str, text: str) -> str:
    code = _number(source, where, text, int)
    if code not in CODES:
        known = ", ".join(f"{i} ({name})" for i, name in CODES.items())
        raise UserError(f"{source}: {where} has split {code}; expected one of {known}")
    return CODES[code]


def _number(source: Path, where: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{source}: {where} has '{text[:40]}' where a number belongs") from None


def _rows(source: Path, name: str, header: str | None, separator: str) -> Iterator[tuple[str, str, str]]:
    """Yield (where, left, right) of each line of a text file, split at the last separator."""
    lines = _lines(source, name)
    if header is not None and lines[0] != header:
        raise UserError(f"{source}: {name} begins with {lines[0][:40]!r}; expected the header {header!r}")
    for number, line in enumerate(lines, 1):
        left, found, right = line.rpartition(separator)
        if not found:
            raise UserError(f"{source}: line {number} of {name} has no {separator!r}")
        if number > 1 or header is None:
            yield f"line {number} of {name}", left, right


def _lines(source: Path, name: str) -> list[str]:
    try:
        text = _member(source, name).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{source}: {name} is damaged ({error})") from None
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")  # other breaks, such as U+0085, stand in sentences


def _member(source: Path, name: str) -> Path | zipfile.Path:
    if not source.exists():
        raise UserError(f"{source} does not exist; expected the treebank: Stanford's zip, its text files, or the hub's tables")
    try:
        root = source if source.is_dir() else zipfile.Path(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is no whole zip file ({error}); fetch it again") from None
    for folder in (root, root / "stanfordSentimentTreebank"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{source}: {name} is missing; the zip of the Stanford Sentiment Treebank has it")


def _hub_tables(source: Path, columns: set[str]) -> dict[Path, pd.DataFrame]:
    """Return the Parquet and CSV files in a folder that have some columns."""
    files = sorted(path for path in source.rglob("*") if path.suffix in (".parquet", ".csv")) if source.is_dir() else []
    tables = {}
    for path in files:
        try:
            table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, keep_default_na=False)
        except (OSError, ValueError) as error:  # pyarrow's and pandas' own errors are ValueErrors
            raise UserError(f"{path} cannot be read ({error}); fetch it again") from None
        if columns <= set(table.columns):
            tables[path] = table
    return tables


def _from_hub(source: Path, tables: Mapping[Path, pd.DataFrame], text: str) -> pd.DataFrame:
    found = []
    for path, table in tables.items():
        words = "-".join(path.relative_to(source).with_suffix("").parts).split("-")
        splits = {HUB_SPLITS[word] for word in words if word in HUB_SPLITS}
        if len(splits) != 1:
            raise UserError(f"{path}: the name tells no split; expected {', '.join(HUB_SPLITS)} in it")
        found.append(table.assign(split=splits.pop()))
    frame = pd.concat(found).rename(columns={text: "text", "label": "score"})
    frame = frame.sort_values("split", key=lambda split: split.map([*SIZES].index), kind="stable", ignore_index=True)
    score = pd.to_numeric(frame["score"], errors="coerce").astype(float).round(DIGITS)
    if score.isna().any():
        raise UserError(f"{source}: sentence {int(score.isna().argmax()) + 1} has no score in the column label")
    return frame.assign(score=score, sentence_index=np.arange(1, len(frame) + 1))[COLUMNS]


# ---- labels ---------------------------------------------------------------------------------------------------------


def usable(sentences: pd.DataFrame, log: Log) -> pd.DataFrame:
    """Return the sentences that are used: the first of equal ones, without brackets and characters that were misread.

    Of equal sentences in two splits that of test or dev is kept, which is the first in Stanford's file.
    Every character beyond ASCII was misread in Stanford's sentences (UTF-8 taken for Latin-1); the hub's are mended, but left
    out all the same, so that both give the same sentences.
    """
    last_train = sentences.sort_values("split", key=lambda split: split == "train", kind="stable")
    again = last_train["text"].duplicated().reindex(sentences.index)
    odd = sentences["text"].map(lambda text: not text.isascii() or any(bracket in text for bracket in BRACKETS))
    kept = sentences[~again & ~odd].reset_index(drop=True)
    log(
        f"{len(kept)} of {len(sentences)} sentences are used: {int(again.sum())} repeat an earlier one, "
        f"{int((odd & ~again).sum())} have brackets or misread characters"
    )
    return kept


def label(score: float) -> int:
    """Return the published label of a score: 1 is positive; half rounds to even, so that 0.5 is negative."""
    return round(score)


# ---- prompts --------------------------------------------------------------------------------------------------------


def prompts(
    sentences: pd.DataFrame,
    tokenizer: Tokenizer,
    name: str,
    scaffolds: Mapping[str, Scaffold] = SCAFFOLDS,
    *,
    longest: int | None = None,
) -> pd.DataFrame:
    """Return one prompt per sentence in a scaffold, with its tokens and answers, and what ``EXAMPLES`` names.

    ``text_start`` and ``text_end`` bound the tokens of the sentence. Distances of commas are ``n_tokens`` less the comma's
    position, as published. ``pair`` is as ``pair_up`` gives it. Prompts of more than ``longest`` tokens are left out.
    """
    if name not in scaffolds:
        raise UserError(f"there is no scaffold '{name}'{nearest(name, scaffolds)}")
    scaffold = scaffolds[name]
    if scaffold.bos and tokenizer.bos is None:
        raise UserError(f"the tokenizer of {tokenizer.where} has no end-of-text token; the scaffold {name} begins with one")
    answers = [tokenizer.single(answer) for answer in (scaffold.positive, scaffold.negative)]
    comma, rows = tokenizer.inner.token_to_id(","), []
    for sentence in sentences.itertuples():
        tokens, start, end = _encoded(tokenizer, scaffold, sentence.text)
        if longest is not None and len(tokens) > longest:
            continue
        distances = [len(tokens) - i for i in range(start, end) if tokens[i] == comma]
        positive = label(sentence.score)
        rows.append({
            "scaffold": name, "sentence_index": sentence.sentence_index, "split": sentence.split, "label": positive,
            "strict": sentiment(sentence.score) != "neutral", "n_tokens": len(tokens), "text_start": start, "text_end": end,
            "n_commas": len(distances), "first_comma_dist": max(distances, default=None),
            "mean_comma_dist": float(np.mean(distances)) if distances else None,
            "tokens": tokens, "right": answers[1 - positive], "wrong": answers[positive],
        })  # fmt: skip
    if not rows:
        most = "" if longest is None else f" of at most {longest} tokens"
        raise UserError(f"none of {len(sentences)} sentences gives a prompt of the scaffold {name}{most}")
    return pair_up(pd.DataFrame(rows).astype({"first_comma_dist": "Int16", "mean_comma_dist": "Float32"}))


EXAMPLES = (
    "scaffold", "sentence_index", "split", "label", "strict", "pair", "n_tokens", "text_start", "text_end", "n_commas",
    "first_comma_dist", "mean_comma_dist",
)  # fmt: skip


def _encoded(tokenizer: Tokenizer, scaffold: Scaffold, text: str) -> tuple[list[int], int, int]:
    """Return the tokens of a prompt, and the positions that bound those of its sentence."""
    first = [tokenizer.bos] if scaffold.bos else []
    prompt, begin = scaffold.template.format(text=text), scaffold.template.index("{")
    tokens = first + tokenizer.encode(prompt)  # refuses unknown words
    spans = tokenizer.inner.encode(prompt, add_special_tokens=False).offsets
    start = sum(last <= begin for _, last in spans)
    end = sum(least < begin + len(text) for least, _ in spans)
    return tokens, len(first) + start, len(first) + end


# ---- pairs and samples ----------------------------------------------------------------------------------------------


def pair_up(frame: pd.DataFrame) -> pd.DataFrame:
    """Return prompts with a ``pair``: the k-th positive with the k-th negative of one split and length, in the given order.

    Lengths are those of whole prompts: with a word in front, sentences of one length may come to differ by a token. Surplus
    prompts have no pair. Pairs are numbered by split, then by length.
    """
    place = frame.groupby(["split", "n_tokens", "label"]).cumcount()
    size = frame.groupby(["split", "n_tokens"])["label"].transform(lambda found: min(found.sum(), len(found) - found.sum()))
    mates = frame.assign(place=place, order=frame["split"].map([*SIZES].index))[place < size]
    mates = mates.sort_values(["order", "n_tokens", "place", "label"], ascending=[True, True, True, False])
    pair = pd.Series(np.arange(len(mates)) // 2, index=mates.index, dtype="Int32")
    return frame.assign(pair=pair.reindex(frame.index))


def paired(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the prompts that have a pair, each positive one before its negative one; row i is corrupted by row ``i ^ 1``."""
    return frame[frame["pair"].notna()].sort_values(["pair", "label"], ascending=[True, False], ignore_index=True)


def balanced(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return as many prompts of either label as the rarer one has, drawn without replacement, in the given order (spec 3.8)."""
    rng, size = stream(seed, "balanced reviews"), int(frame["label"].value_counts().reindex([0, 1], fill_value=0).min())
    chosen = [rng.choice(np.flatnonzero(frame["label"] == sign), size, replace=False) for sign in (0, 1)]
    return frame.iloc[np.sort(np.concatenate(chosen))].reset_index(drop=True)
