"""One-layer models against transformers' GPT-2: initial weights bit by bit, the published first losses, the last position."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from recircuit.core.gpt2 import gpt2_state
from recircuit.experiments.circuit_probing.training import start_of, train_rows
from recircuit.methods.full_batch import evaluate, model_of
from recircuit.methods.one_layer import Table, published_initial, run_last, spec_of
from recircuit.tasks.arithmetic import rows_table

FIRST_LOSSES = {  # of the authors' training and test rows before the first update
    "disambiguation": (4.774254, 4.775994),
    "grokking": (4.774681, 4.775543),
    "shared_nodes": (4.811936, 4.815792),
}


def hugging_face(n_vocab=114, context=3, seed=0, **choices) -> GPT2LMHeadModel:
    """Build the published model as its authors do."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=n_vocab, n_positions=context, n_embd=128, n_layer=1, n_head=4, n_inner=512)
    dropouts = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    config = GPT2Config(**shape, activation_function="relu", **dropouts, bos_token_id=None, eos_token_id=None, **choices)
    return GPT2LMHeadModel(config)


def random_model(n_vocab=114, context=3, seed=0) -> GPT2LMHeadModel:
    """Build one in float64 with random norms and biases too: fresh ones hide mistakes."""
    model = hugging_face(n_vocab, context, attn_implementation="eager").double().eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * (0.3 if parameter.dim() == 1 else 0.1)
            parameter.copy_(noise + (1.0 if "ln_" in name and "weight" in name else 0.0))
    return model


def ours(theirs: GPT2LMHeadModel):
    """Return the same weights as a model of ours."""
    return model_of({k: v.clone() for k, v in theirs.state_dict().items()}, theirs.config.to_dict())


def random_rows(n=40, context=3, seed=1) -> torch.Tensor:
    """Return rows of numbers that end with "=", in a context of five after the token of a task."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randint(113, (n, context - 1), generator=rng)
    if context == 5:
        numbers[:, 0] = torch.randint(114, 116, (n,), generator=rng)
    return torch.cat([numbers, torch.full((n, 1), 113)], 1)


@pytest.mark.parametrize("shape", [(114, 3), (116, 5)])
@pytest.mark.parametrize("seed", [0, 7])
def test_initial_weights_are_those_of_transformers(shape, seed):
    theirs = hugging_face(*shape, seed=seed)
    state = gpt2_state(published_initial(spec_of(*shape), seed))
    assert set(state) == set(theirs.state_dict()) - {"lm_head.weight"}
    for name, tensor in state.items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert theirs.lm_head.weight is theirs.transformer.wte.weight


@pytest.mark.parametrize("name", FIRST_LOSSES)
def test_the_first_losses_are_the_published_ones(name):
    found = [evaluate(start_of(name, 0), rows)[0] for rows in train_rows(rows_table(name), "cpu")]
    assert tuple(round(loss, 6) for loss in found) == FIRST_LOSSES[name]


@pytest.mark.parametrize("shape", [(114, 3), (116, 5)])
def test_the_last_position_equals_transformers(shape):
    theirs, rows = random_model(*shape), random_rows(context=shape[1])
    streams = {}
    block = theirs.transformer.h[0]
    block.ln_2.register_forward_pre_hook(lambda module, args: streams.update(mid=args[0][:, -1]))
    theirs.transformer.ln_f.register_forward_pre_hook(lambda module, args: streams.update(post=args[0][:, -1]))
    with torch.no_grad():
        streams["logits"] = theirs(rows).logits[:, -1]
        found = run_last(ours(theirs), Table.of(rows))
    for name, expected in streams.items():
        assert expected.std() > 0.1
        assert (getattr(found, name) - expected).abs().max() < 1e-12, name


def test_a_table_holds_every_token_at_its_position():
    rows = random_rows(context=5)
    table = Table.of(rows)
    assert (table.tokens[table.index] == rows).all()
    assert (table.positions[table.index] == torch.arange(5)).all()
    pairs = {(position, int(token)) for row in rows for position, token in enumerate(row)}
    assert len(table.tokens) == len(pairs)


def test_rows_that_end_differently_are_refused():
    rows = random_rows()
    rows[3, -1] = 5
    with pytest.raises(ValueError, match="the rows end with different tokens; expected one and the same"):
        Table.of(rows)
