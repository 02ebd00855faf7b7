"""Tokenizers as the data sets use them: bare ids, no special token added behind our back."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer, Regex, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import WordLevel

from recircuit.core.errors import UserError, nearest

END_OF_TEXT = "<|endoftext|>"
STARTS, ENDS = (END_OF_TEXT, "<s>"), (END_OF_TEXT, "</s>")  # tokens that begin and that end a text, by family
# Four digits are two tokens (century, year), as GPT-2 splits most years, and 732 is 7, 32 (but 110 stays whole: the released
# corrupted numerals hold it as one member); a newline is a token; spaces are not.
_WORDS = r"\d\d(?=\d\d(?!\d))|[2-9](?=\d\d(?!\d))|\d+|[^\W\d_]+|[^\w\s]|\n"


class Tokenizer:
    """A tokenizer of a model folder. Encodes without special tokens.

    ``bos`` is the id of the token that begins a text (GPT-2's end-of-text, Llama's ``<s>``), ``ends`` those that end one.
    """

    def __init__(self, inner: HubTokenizer, where: str) -> None:
        self.inner, self.where = inner, where
        starts, ends = ([i for i in map(inner.token_to_id, names) if i is not None] for names in (STARTS, ENDS))
        self.bos: int | None = starts[0] if starts else None
        self.ends = frozenset(ends)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read ``tokenizer.json``, or GPT-2's ``vocab.json`` with ``merges.txt``."""
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            try:
                return cls(HubTokenizer.from_file(str(folder / "tokenizer.json")), str(folder))
            except Exception as error:  # the library raises a bare Exception for a file it cannot parse
                raise UserError(f"{folder}/tokenizer.json cannot be read: {error}") from None
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            inner = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
            return cls(inner._tokenizer, str(folder))
        raise UserError(f"{folder}: no tokenizer; expected tokenizer.json, or vocab.json and merges.txt")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. UserError for a word that a word-level vocabulary lacks."""
        if isinstance(self.inner.model, WordLevel):
            self._refuse_unknown(text)
        return self.inner.encode(text, add_special_tokens=False).ids

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
        for part in text.split(END_OF_TEXT):
            for piece, _ in self.inner.pre_tokenizer.pre_tokenize_str(part):
                if self.inner.token_to_id(piece) is None:
                    hint = nearest(piece, self.inner.get_vocab())
                    raise UserError(f"the word '{piece}' is not in the vocabulary of {self.where}{hint}")


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
