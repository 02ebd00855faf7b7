"""Tokenizers as the data sets use them: bare ids, no special token added behind our back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, takewhile
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer, Encoding, Regex, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import Unigram, WordLevel

from recircuit.core.errors import UserError, nearest

END_OF_TEXT = "<|endoftext|>"
STARTS, ENDS = (END_OF_TEXT, "<s>"), (END_OF_TEXT, "</s>")  # tokens that begin and that end a text, by family
LARGEST_ID = 10**7
# Four digits are two tokens (century, year), as GPT-2 splits most years, and 732 is 7, 32 (but 110 stays whole: the released
# corrupted numerals hold it as one member); a newline is a token; spaces are not.
_WORDS = r"\d\d(?=\d\d(?!\d))|[2-9](?=\d\d(?!\d))|\d+|[^\W\d_]+|[^\w\s]|\n"


class Tokenizer:
    """A tokenizer of a model folder. Encodes without special tokens, and never cuts a text or fills it up.

    ``bos`` is the id of the token that begins a text (GPT-2's end-of-text, Llama's ``<s>``), ``ends`` those that end one.
    Raises UserError for a tokenizer that splits words at random, or that has one id for two tokens.
    """

    def __init__(self, inner: HubTokenizer, where: str) -> None:
        self.inner, self.where = inner, where
        inner.no_truncation()
        inner.no_padding()
        self._unknown = _unknown_id(inner)
        ids = sorted(inner.get_vocab().values())
        if ids and ids[-1] > LARGEST_ID:  # the library walks over all ids up to it, and holds memory for each
            raise UserError(f"the tokenizer of {where} has the id {ids[-1]}; expected at most {LARGEST_ID}")
        twice = next((a for a, b in pairwise(ids) if a == b), None)
        if twice is not None:
            raise UserError(f"the tokenizer of {where} has the id {twice} for two tokens; expected one id for each")
        if getattr(inner.model, "dropout", None):
            raise UserError(f"the tokenizer of {where} splits words at random (dropout {inner.model.dropout}); expected none")
        starts, ends = ([i for i in map(inner.token_to_id, names) if i is not None] for names in (STARTS, ENDS))
        self.bos: int | None = starts[0] if starts else None
        self.ends = frozenset(ends)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read ``tokenizer.json``, or GPT-2's ``vocab.json`` with ``merges.txt``."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            with _told(f"{folder}/tokenizer.json cannot be read"):
                inner = HubTokenizer.from_file(str(folder / "tokenizer.json"))
            return cls(inner, str(folder))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            with _told(f"{folder}/vocab.json with merges.txt cannot be read"):
                inner = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
            return cls(inner._tokenizer, str(folder))
        raise UserError(f"{folder}: no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. UserError for a word, or a part of one, that the vocabulary lacks."""
        with _told(f"the tokenizer of {self.where} cannot split {text[:60]!r}"):
            if isinstance(self.inner.model, WordLevel):
                self._refuse_unknown(text)
            found = self.inner.encode(text, add_special_tokens=False)
        self._refuse_lost(text, found)
        return found.ids

    def single(self, text: str) -> int:
        """Return the id of a text that must be one token, such as the answer `` five``."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise UserError(f"'{text}' is {len(ids)} tokens in the tokenizer of {self.where}; expected exactly one")
        return ids[0]

    def continuation(self, text: str, more: str) -> list[int]:
        """Return the ids that ``more`` adds behind ``text``. UserError when it changes those of the text itself."""
        before, whole = self.encode(text), self.encode(text + more)
        if whole[: len(before)] != before:
            raise UserError(f"in the tokenizer of {self.where}, '{more}' behind '{text}' changes the tokens of the text")
        return whole[len(before) :]

    def decode(self, ids: list[int]) -> list[str]:
        """Return the token of each id, as the vocabulary has it."""
        return [self.inner.id_to_token(i) for i in ids]

    def written(self, ids: Sequence[int]) -> list[int]:
        """Return the ids before the first one that ends a text."""
        return list(takewhile(lambda i: i not in self.ends, map(int, ids)))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, up to the first one that ends it; words are joined by spaces where no decoder says how."""
        kept = self.written(ids)
        return " ".join(self.decode(kept)) if self.inner.decoder is None else self.inner.decode(kept)

    def _refuse_unknown(self, text: str) -> None:
        normalizer, splitter = self.inner.normalizer, self.inner.pre_tokenizer
        for part in text.split(END_OF_TEXT):
            plain = part if normalizer is None else normalizer.normalize_str(part)
            pieces = [(plain, None)] * bool(plain) if splitter is None else splitter.pre_tokenize_str(plain)
            for piece, _ in pieces:
                if self.inner.token_to_id(piece) is None:
                    hint = nearest(piece, self.inner.get_vocab())
                    raise UserError(f"the word '{piece}' is not in the vocabulary of {self.where}{hint}")

    def _refuse_lost(self, text: str, found: Encoding) -> None:
        # Other kinds of vocabulary put one token in the place of all that they lack, or nothing at all.
        done = 0
        for token, (start, stop) in zip(found.ids, found.offsets, strict=True):
            shown = text[start:stop]
            if text[done:start].strip() or (token == self._unknown and shown != self.inner.id_to_token(token)):
                lost = text[done:start].strip() or shown
                raise UserError(f"'{lost[:60]}' of '{text[:60]}' has no token in the vocabulary of {self.where}")
            done = max(done, stop)
        if text[done:].strip():
            raise UserError(f"'{text[done:].strip()[:60]}' of '{text[:60]}' has no token in the vocabulary of {self.where}")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Make one sentence of what the library raises: a bare Exception, or where its own language panics not even that."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{what}: {error}") from None


def _unknown_id(inner: HubTokenizer) -> int | None:
    """Return the id that stands for all that a vocabulary lacks."""
    if isinstance(inner.model, Unigram):
        return json.loads(inner.to_str())["model"].get("unk_id")  # the library does not tell
    token = getattr(inner.model, "unk_token", None)
    return None if token is None else inner.token_to_id(token)


def word_level(words: list[str]) -> HubTokenizer:
    """Build a word-level tokenizer: end-of-text first, then the words in the given order."""
    vocabulary = {word: i for i, word in enumerate([END_OF_TEXT, *words])}
    tokenizer = HubTokenizer(WordLevel(vocabulary))
    tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"), pre_tokenizers.Split(Regex(_WORDS), "isolated")]
    )
    return tokenizer


def split_words(text: str) -> list[str]:
    """Split a text as ``word_level`` tokenizers do."""
    tokenizer = word_level([])
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
