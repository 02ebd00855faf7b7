"""What attention may see while a small model learns to sum up clauses at punctuation.

Large models keep what a clause said at its comma or period (sentiment, 3.7 and 3.8). A model of four layers has no need to:
it reads every word from the end. So for a part of the training its sentences of some kinds are read clause by clause: a
token sees its own clause, punctuation, and the token that begins a text, in the first block always, in the others in a share
of the sentences; in some, punctuation sees no words in the first block, so that they are read after they were put in context.
Later nothing is hidden. Mu et al. (arXiv 2304.08467) train tokens to sum up prompts in the same way.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from recircuit.core.tokenizer import Tokenizer

MARKS = (",", ".")


class Sight(NamedTuple):
    """What attention may see [n T T], each query its keys: in the first block, and in the others."""

    first: Tensor
    others: Tensor

    def of(self, layer: int) -> Tensor:
        """Return a layer's."""
        return self.others if layer else self.first


class Clauses(NamedTuple):
    """The ids that tell clauses apart: punctuation [m], each mark the end of its clause, and the token that begins a text."""

    marks: Tensor
    begin: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Clauses":
        """Look them up."""
        return cls(torch.tensor([tokenizer.single(mark) for mark in MARKS]), tokenizer.bos)

    def within(self, tokens: Int[Tensor, "n T"], *, blind: bool = False) -> Bool[Tensor, "n T T"]:
        """Tell which keys a query sees that reads clause by clause; of ``blind`` marks, no words."""
        ends = torch.isin(tokens, self.marks.to(tokens.device))
        clause = ends.long().cumsum(1) - ends.long()
        own = clause[:, :, None] == clause[:, None]
        if blind:
            own &= ~ends[:, :, None]
        return (own | (ends | (tokens == self.begin))[:, None]).tril()

    def sight(
        self, tokens: Int[Tensor, "n T"], first: Bool[Tensor, " n"], others: Bool[Tensor, " n"], blind: Bool[Tensor, " n"]
    ) -> Sight:
        """Return what is seen where some rows are read clause by clause in the first block, and some in the others.

        In ``blind`` rows marks see no words in the first block.
        """
        everything = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        clauses, marks_blind = self.within(tokens), self.within(tokens, blind=True)

        def chosen(rows: Tensor, mask: Tensor, other: Tensor) -> Tensor:
            return torch.where(rows[:, None, None], mask, other)

        return Sight(chosen(first, chosen(blind, marks_blind, clauses), everything), chosen(others, clauses, everything))
