"""Running text in rows of tokens: documents joined and cut, as TransformerLens does it now and as it did in 1.x (spec 2.5).

Both send documents through the map of ``datasets``: contiguous shares for ten processes, each in batches of a thousand. The
text of a batch is joined and cut into rows; what does not fill a row is dropped.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from recircuit.core.errors import UserError, nearest
from recircuit.core.tokenizer import ENDS, Tokenizer

LENGTH = 1024  # tokens of a row, for every published model
PROCESSES, BATCH = 10, 1000  # shares of the documents, and documents per batch
CHUNKS = 20  # of equal numbers of characters, into which 1.x cut a batch
RECIPES = ("current", "1.x")
UNLABELLED = "unlabelled"


def read_documents(source: str | Path) -> list[str]:
    """Return the column ``text`` of a Parquet or JSON Lines file, or of all such files of a folder in order of their names."""
    source = Path(source)
    files = sorted(path for path in source.rglob("*") if path.suffix in (".parquet", ".jsonl")) if source.is_dir() else [source]
    if not files or not files[0].exists():
        raise UserError(f"{source}: no documents; expected a .parquet or .jsonl file with a column 'text'")
    return [text for file in files for text in _texts(file)]


def _texts(file: Path) -> list[str]:
    try:
        if file.suffix == ".parquet":
            return pd.read_parquet(file, columns=["text"])["text"].astype(str).tolist()
        return [json.loads(line)["text"] for line in file.read_bytes().decode("utf-8").split("\n") if line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); expected a column 'text'") from None


def rows(
    documents: Sequence[str], tokenizer: Tokenizer, *, length: int = LENGTH, recipe: str = "current", pad: int | None = None
) -> Int[np.ndarray, "n length"]:
    """Return rows of ``length`` tokens, the first of which begins a text; shorter rows for a model of a short context.

    ``current``: each document is tokenised, and a token of end stands between two. ``1.x``: documents are joined by the text of
    that token, the whole is cut into 20 equal chunks of characters, which splits words, and all tokens ``pad`` are deleted: by
    default the token of end, with which GPT-2 and NeoX were padded, so that nothing is left between documents. Of a batch
    shorter than a row nothing is left; TransformerLens now fills it up with padding.
    """
    if recipe not in RECIPES:
        raise UserError(f"there is no recipe '{recipe}' for running text{nearest(recipe, RECIPES)}")
    if tokenizer.bos is None:
        raise UserError(f"the tokenizer of {tokenizer.where} has no token that begins a text; running text needs one")
    end, mark = _end(tokenizer)
    found, total = [], 0
    for batch in batches(documents, PROCESSES, BATCH):
        if recipe == "current":
            ids = _joined(_encode(tokenizer, batch), end)
        else:
            ids = np.concatenate([_marked(tokenizer, chunk, end, mark) for chunk in chunks(mark.join(batch))])
            ids = ids[ids != (end if pad is None else pad)]
        total += len(ids)
        found.append(_cut(ids, length, tokenizer.bos))
    if not sum(map(len, found)):
        raise UserError(f"{len(documents)} documents give {total} tokens in {len(found)} batches; no row of {length} is full")
    return np.concatenate(found)


def batches(documents: Sequence[str], processes: int, size: int) -> Iterator[Sequence[str]]:
    """Yield the batches of ``datasets``' map: contiguous shares, the first ones longer by one, each cut from its own start."""
    for share in np.array_split(np.arange(len(documents)), max(1, min(processes, len(documents)))):
        for start in range(0, len(share), size):
            part = share[start : start + size]
            yield documents[part[0] : part[-1] + 1]


def chunks(text: str, count: int = CHUNKS) -> list[str]:
    """Cut a text into chunks of equally many characters; the last may be shorter, or there may be fewer."""
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _end(tokenizer: Tokenizer) -> tuple[int, str]:
    """Return the token that ends a text, and how it is written."""
    for mark in ENDS:
        if (end := tokenizer.inner.token_to_id(mark)) is not None:
            return end, mark
    raise UserError(f"the tokenizer of {tokenizer.where} has no token that ends a text; expected {' or '.join(ENDS)}")


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    try:
        return [np.array(e.ids, np.int32) for e in tokenizer.inner.encode_batch(list(texts), add_special_tokens=False)]
    except Exception:  # the library's own, and bare, for a word that a word-level vocabulary lacks: told again in one sentence
        return [np.array(tokenizer.encode(text), np.int32) for text in texts]


def _marked(tokenizer: Tokenizer, text: str, end: int, mark: str) -> np.ndarray:
    # Where a tokenizer comes from vocab.json and merges.txt it would spell the mark out. One cut in two is no mark.
    return _joined(_encode(tokenizer, text.split(mark)), end)


def _joined(pieces: Sequence[np.ndarray], between: int) -> np.ndarray:
    first, *others = pieces
    return np.concatenate([first, *(part for piece in others for part in ([between], piece))]).astype(np.int32)


def _cut(ids: np.ndarray, length: int, first: int) -> np.ndarray:
    n = len(ids) // (length - 1)
    body = ids[: n * (length - 1)].reshape(n, length - 1)
    return np.concatenate([np.full((n, 1), first, np.int32), body], axis=1)


# ---- classes of tokens ----------------------------------------------------------------------------------------------


def token_labels(tokenizer: Tokenizer, labels: Mapping[str, str]) -> np.ndarray:
    """Return the label of each token of the vocabulary [V] that is a word of ``labels``, with or without a space before it.

    A word is looked up as it is, else in lower case; tokens that are no such word are ``unlabelled`` (spec 3.9).
    """
    texts = [text.strip() for text in _vocabulary(tokenizer)]
    return np.array([labels.get(text, labels.get(text.lower(), UNLABELLED)) for text in texts])


def whole_words(tokenizer: Tokenizer, found: Int[np.ndarray, "n T"]) -> Bool[np.ndarray, "n T"]:
    """Tell which tokens of some rows are whole words: nothing before and nothing behind belongs to the same word.

    Of the last token of a row it is not known, so that it counts as none. A vocabulary of whole words needs none of this.
    """
    texts = _vocabulary(tokenizer)
    if not any(text.startswith(" ") for text in texts):
        return np.ones(found.shape, bool)
    begins, ends = np.array([(text[:1].isalnum(), text[-1:].isalnum()) for text in texts]).T
    goes_on = ends[found[:, :-1]] & begins[found[:, 1:]]  # no space and no sign stands between a token and the next
    whole = np.ones(found.shape, bool)
    whole[:, 1:] &= ~goes_on
    whole[:, :-1] &= ~goes_on
    whole[:, -1] = False
    return whole


def _vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Return each token's text with its leading space, which byte-level vocabularies write as Ġ and SentencePiece as ▁."""
    ids = range(tokenizer.inner.get_vocab_size())
    names = [tokenizer.inner.id_to_token(i) or "" for i in ids]
    if any(name.startswith("Ġ") for name in names):
        return tokenizer.inner.decode_batch([[i] for i in ids], skip_special_tokens=False)
    return [name.replace("▁", " ") for name in names]
