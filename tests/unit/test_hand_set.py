"""A transformer whose circuit is set by hand: one head carries the member to the end, one MLP turns it into its successor."""

import pytest
import torch

from recircuit.core.metrics import logit_diff
from recircuit.core.model import Block, Heads, Model, Norm, Spec
from recircuit.core.nodes import Circuit
from recircuit.methods.ablation import Prompts, mean_reference
from recircuit.methods.pruning import Pruner
from recircuit.methods.sweep import sweep_nodes

V, T, LAYERS, HEADS, E = 12, 5, 2, 3, 16  # vocabulary, positions; the member to continue stands at T - 2, the end at T - 1
# The residual stream is five rooms: token, position, the token carried to the end, the answer, and a room for chatter.
TOKEN, PLACE, CARRIED, ANSWER, CHATTER = (slice(a, b) for a, b in ((0, 12), (12, 17), (17, 29), (29, 41), (41, 48)))
D = 48
KNOWN = Circuit.of([(0, 1)], [1])


def chatter(rng, rows):
    """Weights that read anything and write into the room that nobody reads."""
    out = torch.zeros(rows, D, dtype=torch.float64)
    out[:, CHATTER] = torch.randn(rows, CHATTER.stop - CHATTER.start, generator=rng, dtype=torch.float64) * 0.05
    return out


def block(rng, carrier=None, successor=False):
    """One layer of chatter, of which head ``carrier`` and the MLP may be set to do the task."""

    def random(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64) * 0.3

    q, k, v, out = random(D, HEADS * E), random(D, HEADS * E), random(D, HEADS * E), chatter(rng, HEADS * E)
    if carrier is not None:
        mine = slice(carrier * E, carrier * E + E)
        for weights in (q, k, v, out.T):
            weights[:, mine] = 0
        q[PLACE.start + T - 1, carrier * E] = k[PLACE.start + T - 2, carrier * E] = 20.0  # the end looks at the member
        v[TOKEN, carrier * E : carrier * E + V] = torch.eye(V, dtype=torch.float64)
        out[carrier * E : carrier * E + V, CARRIED] = torch.eye(V, dtype=torch.float64) * 2
    up, up_bias, down = random(D, 4 * D), torch.zeros(4 * D, dtype=torch.float64), chatter(rng, 4 * D)
    if successor:
        up.zero_(), down.zero_()
        up[CARRIED, :V] = torch.eye(V, dtype=torch.float64) * 4
        up_bias[:V] = -6.0  # silent unless its token was carried here
        down[:V, ANSWER] = torch.eye(V, dtype=torch.float64).roll(1, 1) * 5  # i -> i + 1
    zero, norm = torch.zeros(D, dtype=torch.float64), Norm(torch.ones(D).double(), torch.zeros(D).double())
    biases = [torch.zeros(HEADS * E, dtype=torch.float64)] * 3
    return Block(norm, Heads(q, k, v, *biases, out), zero, norm, up, up_bias, down, zero)


@pytest.fixture(scope="module")
def model():
    rng = torch.Generator().manual_seed(0)
    tokens, positions, unembedding = (torch.zeros(n, D, dtype=torch.float64) for n in (V, T, V))
    tokens[:, TOKEN] = torch.eye(V) * 2
    positions[:, PLACE] = torch.eye(T) * 2
    unembedding[:, ANSWER] = torch.eye(V).double()
    spec = Spec("gpt2", LAYERS, HEADS, D, E, 4 * D, T, V, 1e-5, "gelu_new")
    norm = Norm(torch.ones(D).double(), torch.zeros(D).double())
    return Model(spec, tokens, positions, (block(rng, carrier=1), block(rng, successor=True)), norm, unembedding)


@pytest.fixture(scope="module")
def prompts():
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(V, (64, T), generator=rng)
    member = tokens[:, T - 2]
    return Prompts(tokens, torch.full((64,), T - 1), torch.stack([(member + 1) % V, member], 1))


@pytest.fixture(scope="module")
def reference(model):
    return mean_reference(model, torch.randint(V, (256, T), generator=torch.Generator().manual_seed(2)), "position", 64)


def test_the_model_does_the_task(model, prompts, reference):
    full = logit_diff(sweep_nodes(model, prompts, reference, 64).full)
    assert full.min() > 1


def test_the_sweep_finds_exactly_the_circuit(model, prompts, reference):
    sweep = sweep_nodes(model, prompts, reference, 64)
    full = logit_diff(sweep.full).mean()
    left = {node: float(logit_diff(logits).mean() / full) for node, logits in zip(sweep.nodes, sweep.ablated, strict=True)}
    assert {node for node, share in left.items() if share < 0.5} == KNOWN.nodes
    # The others touch the answer only through LayerNorm's scale, which their chatter moves a little.
    assert all(abs(share - 1) < 0.02 for node, share in left.items() if node not in KNOWN.nodes)
    assert all(share < 0.1 for node, share in left.items() if node in KNOWN.nodes)


@pytest.mark.parametrize("published", [True, False])
def test_pruning_leaves_exactly_the_circuit(model, prompts, reference, published):
    corrupted = torch.randint(V, (256, T), generator=torch.Generator().manual_seed(2)) if published else None
    pruner = Pruner(model, prompts, reference, 20, 64, corrupted=corrupted)
    pruner.run()
    assert pruner.circuit == KNOWN
