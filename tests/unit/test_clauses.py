"""Reading clause by clause: who sees whom, what that hides, and that transformers computes the same loss."""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods import training
from recircuit.methods.clauses import Clauses
from recircuit.methods.training import Recipe, logits_everywhere, loss_sum
from recircuit.tasks.corpus import PAPERS

COMMA, PERIOD, BEGIN = 1, 2, 0
CLAUSES = Clauses(torch.tensor([COMMA, PERIOD]), BEGIN)
TOKENS = torch.tensor([[BEGIN, 7, 8, COMMA, 9, 10, PERIOD, 11, 12], [7, COMMA, PERIOD, 8, 9, BEGIN, 10, COMMA, 11]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    slow = oracle.random_gpt2()
    return slow, load(oracle.save(slow, tmp_path_factory.mktemp("model")), dtype=torch.float64)


def sees(tokens, query, key):
    """Tell it by walking back from the query: its clause goes on until a mark, and marks and beginnings are always seen."""
    if key > query:
        return False
    if tokens[key] in (COMMA, PERIOD, BEGIN):
        return True
    return all(tokens[between] not in (COMMA, PERIOD) for between in range(key, query))


def test_a_token_sees_its_clause_and_marks():
    found, blind = CLAUSES.within(TOKENS), CLAUSES.within(TOKENS, blind=True)
    for row, tokens in enumerate(TOKENS.tolist()):
        for query in range(9):
            for key in range(9):
                assert bool(found[row, query, key]) == sees(tokens, query, key), (row, query, key)
                words = tokens[query] not in (COMMA, PERIOD) or tokens[key] in (COMMA, PERIOD, BEGIN)
                assert bool(blind[row, query, key]) == (words and sees(tokens, query, key)), (row, query, key)


def masked(slow, tokens, seen):
    """Return transformers' logits where attention sees ``seen`` (two of [n T T]) in the first layer and in the others."""
    hidden = [torch.zeros(part.shape, dtype=torch.float64).masked_fill(~part, float("-inf"))[:, None] for part in seen]

    def replace(module, args, kwargs):
        return args, kwargs | {"attention_mask": hidden[0 if module is slow.transformer.h[0].attn else 1]}

    hooks = [block.attn.register_forward_pre_hook(replace, with_kwargs=True) for block in slow.transformer.h]
    with torch.no_grad():
        logits = slow(tokens).logits
    for hook in hooks:
        hook.remove()
    return logits


def test_logits_and_loss_equal_transformers_with_the_same_mask(models):
    slow, model = models
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    sight = CLAUSES.sight(TOKENS, both, both, first)
    blind = torch.stack([CLAUSES.within(TOKENS, blind=True)[0], CLAUSES.within(TOKENS)[1]])
    theirs = masked(slow, TOKENS, (blind, CLAUSES.within(TOKENS)))
    assert (logits_everywhere(model, TOKENS, sight) - theirs).abs().max() < 1e-10
    free = masked(slow, TOKENS, [torch.ones(2, 9, 9, dtype=torch.bool).tril()] * 2)
    assert (logits_everywhere(model, TOKENS) - free).abs().max() < 1e-10
    assert (theirs - free).abs().max() > 1e-3, "the mask does something"
    padded = torch.tensor([[*TOKENS[0].tolist(), 5], [*TOKENS[1].tolist(), -1]])
    loss, weights = loss_sum(model, padded, 3.0, torch.tensor([1, 1]), sight)
    losses = -theirs.log_softmax(-1).gather(2, padded[:, 1:].clamp(min=0)[..., None])[..., 0]
    weight = torch.ones(2, 9)
    weight[0, -1], weight[1, -2], weight[1, -1] = 3.0, 3.0, 0.0
    assert weights == weight.sum() and abs(float(loss) - float((losses * weight).sum())) < 1e-9


def test_what_is_hidden_in_the_first_block_alone_comes_by_later_ones(models):
    _, model = models
    yes, no = torch.tensor([True]), torch.tensor([False])
    changed = TOKENS[:1].clone()
    changed[0, 1] = 13  # two clauses before the last token

    def moved(first, others, layers):
        cut = model if layers is None else type(model)(**{**model.__dict__, "blocks": model.blocks[:layers]})
        runs = [
            logits_everywhere(cut, tokens, CLAUSES.sight(tokens, first, others, no))[0, -1] for tokens in (TOKENS[:1], changed)
        ]
        return float((runs[0] - runs[1]).abs().max().detach())

    assert moved(no, no, 1) > 1e-6
    assert moved(yes, no, 1) == 0.0, "hidden from the end in the first block"
    assert moved(yes, no, None) > 1e-6, "and seen by the second"
    assert moved(yes, yes, None) > 1e-6, "or told by the comma"


def test_clauses_are_hidden_early_and_of_their_kinds_alone():
    tokenizer = Tokenizer(PAPERS.tokenizer(), "test")
    clausewise = {"until": 0.5, "all_blocks": 0.25, "blind": 0.75}
    recipe = Recipe(10, 400, 1e-3, 0.1, {"reviews": 1.0, "numerals": 1.0}, clausewise=clausewise)
    early, late = (training._batch(tokenizer, recipe, PAPERS, 0, step) for step in (4, 5))
    movie = tokenizer.single(" movie")
    reviews = [movie in row for row in early.rows]
    first, others, blind = zip(*early.reading, strict=True)
    assert list(first) == reviews and 150 < sum(reviews) < 250
    assert all(own for own, *more in early.reading if any(more))
    assert 0.15 < sum(others) / sum(first) < 0.35 and 0.65 < sum(blind) / sum(first) < 0.85
    assert not any(any(row) for row in late.reading)
    again = training._batch(tokenizer, Recipe(10, 400, 1e-3, 0.1, {"reviews": 1.0, "numerals": 1.0}), PAPERS, 0, 4)
    assert again.rows == early.rows and not any(any(row) for row in again.reading), (
        "sentences do not depend on how they are read"
    )
