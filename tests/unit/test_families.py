"""GPT-NeoX, Llama and Mistral: forward passes, ablations and pruning against transformers with plain hooks, to 1e-10."""

import json
from dataclasses import replace

import pytest
import torch

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load, save_state
from recircuit.core.model import Model, map_tensors
from recircuit.core.nodes import Circuit, head, mlp
from recircuit.methods import ablation
from recircuit.methods.ablation import Prompts
from recircuit.methods.pruning import Pruner
from recircuit.methods.sweep import all_nodes, sweep_nodes
from recircuit.methods.training import logits_everywhere
from recircuit.runs.forward import forward, run_with_cache

N, T, VOCAB, LAYERS, HEADS = 19, 9, 50, 3, 4

FAMILIES = {
    "gpt2": lambda **k: oracle.random_gpt2(**k),
    "neox": lambda **k: oracle.random_neox(**k),
    "neox in turn, tied": lambda **k: oracle.random_neox(use_parallel_residual=False, tie_word_embeddings=True, **k),
    "neox without biases": lambda **k: oracle.random_neox(attention_bias=False, rotary=1.0, hidden_act="gelu_fast", **k),
    "llama": lambda **k: oracle.random_llama(**k),
    "llama, grouped keys, biases, wide heads": lambda **k: oracle.random_llama(
        num_key_value_heads=2, attention_bias=True, mlp_bias=True, head_dim=12, tie_word_embeddings=True, **k
    ),
    "mistral": lambda **k: oracle.random_llama(mistral=True, num_key_value_heads=1, sliding_window=T, **k),
}
every_family = pytest.mark.parametrize("pair", FAMILIES, indirect=True)


def hooked_of(slow):
    return (oracle.Hooked if slow.config.model_type == "gpt2" else oracle.HookedFamily)(slow)


@pytest.fixture(scope="module")
def exact():
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        yield


@pytest.fixture(scope="module")
def pair(request, exact, tmp_path_factory):
    """Transformers' model with hooks, and ours of the same files, in float64."""
    slow = FAMILIES[request.param]()
    return hooked_of(slow), load(oracle.save(slow, tmp_path_factory.mktemp("model")), dtype=torch.float64)


@pytest.fixture(scope="module")
def data():
    rng = torch.Generator().manual_seed(1)
    tokens, corrupted = (torch.randint(VOCAB, (N, T), generator=rng) for _ in range(2))
    return tokens, corrupted, torch.randint(VOCAB, (N, 2), generator=rng)


def ends(kind):
    return torch.full((N,), T - 1) if kind == "last" else torch.arange(N) % (T - 2) + 2


# ---- forward --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["last", "ragged"])
@every_family
def test_forward_equals_transformers(pair, data, end):
    hooked, model = pair
    tokens, _, answers = data
    with torch.no_grad():
        everywhere = hooked.model(tokens).logits
    expected = everywhere[torch.arange(N), ends(end)]
    assert expected.std() > 0.3  # a model whose logits are all alike would pass anything
    assert (forward(model, tokens, ends(end)) - expected).abs().max() < 1e-10
    assert (forward(model, tokens, ends(end), answers) - expected.gather(1, answers)).abs().max() < 1e-10
    assert (logits_everywhere(model, tokens) - everywhere).abs().max() < 1e-10


@every_family
def test_cache_holds_what_the_hooks_see(pair, data):
    hooked, model = pair
    _, zs, outs = hooked.run(data[0])
    with torch.inference_mode():
        cache = run_with_cache(model, data[0])
    for layer in range(LAYERS):
        assert (cache.z[layer] - zs[layer]).abs().max() < 1e-10
        assert (cache.mlp[layer] - outs[layer]).abs().max() < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_is_as_close_as_transformers_own(family, data, tmp_path):
    slow = FAMILIES[family](seed=4)  # as transformers computes it, float32 parts and all
    model = load(oracle.save(slow, tmp_path))
    with torch.no_grad():
        expected = slow.float()(data[0]).logits
    assert model.dtype == torch.float32
    assert (logits_everywhere(model, data[0]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_keeps_its_type_and_is_close(family, data, tmp_path):
    folder = oracle.save(FAMILIES[family](seed=4), tmp_path)
    half, full = load(folder, dtype=torch.bfloat16), load(folder)
    assert tensors(half).keys() == tensors(full).keys()
    assert {tensor.dtype for tensor in tensors(half).values()} == {torch.bfloat16}
    tokens, _, _ = data
    with torch.inference_mode():
        ours = forward(half, tokens, ends("ragged"))
        assert ours.dtype == torch.bfloat16
        expected = forward(full, tokens, ends("ragged"))
    # Rounding to 8 bits: some steps of 2^-8 of the largest logit, here of 3 layers.
    assert (ours - expected).abs().max() < 6 * 2**-7 * expected.abs().max()


# ---- ablations --------------------------------------------------------------------------------------------------------------


def references(hooked, model, corrupted):
    """Ours, and the hooks' values of z and MLP output per layer."""
    _, zs, outs = hooked.run(corrupted)
    mean = ablation.mean_reference(model, corrupted, "position", 8)
    return {
        "mean": (mean, [z.mean(0) for z in zs], [out.mean(0) for out in outs]),
        "resample": (ablation.resample_reference(model, corrupted, 8), zs, outs),
    }


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("kind", ["mean", "resample"])
@every_family
def test_sweep_equals_one_hook_per_node(pair, data, kind, end):
    (hooked, model), (tokens, corrupted, answers) = pair, data
    reference, z_ref, mlp_ref = references(hooked, model, corrupted)[kind]
    prompts = Prompts(tokens, ends(end), answers)
    sweep = sweep_nodes(model, prompts, reference, chunk=8)
    full = oracle.answer_logits(hooked.run(tokens)[0], prompts.end, answers)
    assert (sweep.full - full).abs().max() < 1e-10
    for i, node in enumerate(all_nodes(model)):
        heads = {(node.layer, node.head): z_ref[node.layer][..., node.head, :]} if node.kind == "attn" else {}
        mlps = {node.layer: mlp_ref[node.layer]} if node.kind == "mlp" else {}
        slow = oracle.answer_logits(hooked.run(tokens, heads, mlps)[0], prompts.end, answers)
        assert (slow - full).abs().max() > 1e-3
        assert (sweep.ablated[i] - slow).abs().max() < 1e-10, str(node)


CIRCUITS = [
    Circuit.full(LAYERS, HEADS),
    Circuit.of([], []),
    Circuit.of([(0, 1), (0, 2), (1, 3), (2, 0)], [0, 2]),
    Circuit.of([(1, 0), (1, 3), (2, 2)], [1]),
]


@pytest.mark.parametrize("end", ["last", "ragged"])
@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("circuit", CIRCUITS, ids=range(len(CIRCUITS)))
@every_family
def test_circuit_equals_hooks_on_all_the_rest(pair, data, published, end, circuit):
    (hooked, model), (tokens, corrupted, answers) = pair, data
    reference, z_ref, mlp_ref = references(hooked, model, corrupted)["mean"]
    extra = corrupted if published else None
    ours = ablation.circuit_logits(model, Prompts(tokens, ends(end), answers), circuit, reference, 8, extra)
    kept = set(circuit.heads()), set(circuit.mlps())
    slow = oracle.circuit_logits(hooked, tokens, ends(end), answers, *kept, z_ref, mlp_ref, extra)
    assert (ours - slow).abs().max() < 1e-10


def first_norm(hooked, layer):
    """Return the norm in front of a layer's attention."""
    return hooked.blocks[layer].ln_1 if hasattr(hooked.blocks[layer], "ln_1") else hooked.layers[layer].input_layernorm


@every_family
def test_folded_zero_is_what_a_head_says_when_it_reads_nothing(pair, data):
    """With its norm's scale at 0 a layer's values are the same everywhere: what folding moves into the output's bias."""
    hooked, model = pair
    reference = ablation.zero_reference(model, T, folded=True)
    for layer in range(LAYERS):
        weight = first_norm(hooked, layer).weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
        expected = hooked.run(data[0])[1][layer]
        with torch.no_grad():
            weight.copy_(kept)
        assert (reference.heads[layer] - expected).abs().max() < 1e-10
    assert not ablation.zero_reference(model, T, folded=False).heads.any()


# ---- pruning ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("threshold", [25, 45])
@pytest.mark.parametrize(("family", "seed"), [("neox", 1), ("llama, grouped keys, biases, wide heads", 6)])
def test_pruning_equals_the_literal_loop(family, seed, threshold, published, exact, data, tmp_path):
    slow = FAMILIES[family](seed=seed)
    hooked, model = hooked_of(slow), load(oracle.save(slow, tmp_path), dtype=torch.float64)
    tokens, corrupted, _ = data
    end, extra = ends("last"), corrupted if published else None
    reference, z_means, mlp_means = references(hooked, model, corrupted)["mean"]
    empty = oracle.circuit_logits(hooked, tokens, end, torch.arange(VOCAB).expand(N, -1), set(), set(), z_means, mlp_means)
    order = (hooked.run(tokens)[0][:, -1] - empty).argsort(1, descending=True)  # what heads and MLPs add
    answers = order[:, [0, 4]]

    def difference(logits):
        return logits[:, 0] - logits[:, 1]

    full = difference(oracle.answer_logits(hooked.run(tokens)[0], end, answers)).mean()

    def score(heads, mlps):
        out = oracle.circuit_logits(hooked, tokens, end, answers, heads, mlps, z_means, mlp_means, extra)
        return float(100 * difference(out).mean() / full)

    rows, heads, mlps = oracle.literal_pruning(score, LAYERS, HEADS, threshold)
    pruner = Pruner(model, Prompts(tokens, end, answers), reference, threshold, 8, corrupted=extra)
    decisions = pruner.run()
    assert {row[4] for row in rows} == {True, False}
    assert len({isinstance(row[2], tuple) for row in rows if row[4]}) == 2  # heads and MLPs both went
    assert len(decisions) == len(rows)
    for ours, (iteration, direction, component, value, removed) in zip(decisions, rows, strict=True):
        expected = head(*component) if isinstance(component, tuple) else mlp(component)
        assert (ours.iteration, ours.direction, ours.node, ours.removed) == (iteration, direction, expected, removed)
        assert abs(ours.score - value) < 1e-8  # percent of a logit difference of order 1
    assert (pruner.circuit.heads(), pruner.circuit.mlps()) == (sorted(heads), sorted(mlps))


# ---- configurations ---------------------------------------------------------------------------------------------------------


def tensors(model: Model) -> dict[int, torch.Tensor]:
    """Return a model's tensors in a fixed order; a tied matrix comes once."""
    found, seen = {}, set()

    def keep(tensor):
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[len(found)] = tensor
        return tensor

    map_tensors(model, keep)
    return found


def changed(folder, change, drop=()):
    """Change keys of a folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in drop} | change
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", ["neox in turn, tied", "llama, grouped keys, biases, wide heads"])
def test_a_tied_matrix_is_one(family, tmp_path):
    model = load(oracle.save(FAMILIES[family](), tmp_path))
    assert model.unembedding is model.tokens
    assert model.to(dtype=torch.float64).unembedding.data_ptr() != model.tokens.data_ptr()
    moved = model.to(dtype=torch.float64)
    assert moved.unembedding is moved.tokens


def test_configurations_of_older_versions_say_the_same(data, tmp_path):
    old = {
        "neox": ({"rotary_pct": 0.5, "rotary_emb_base": 100}, ("rope_parameters",)),
        "llama": ({"rope_theta": 100.0, "rope_scaling": None}, ("rope_parameters", "head_dim", "num_key_value_heads")),
    }
    for family, (change, drop) in old.items():
        folder = oracle.save(FAMILIES[family](), tmp_path / family)
        new = load(folder)
        assert load(changed(folder, change, drop)).spec == new.spec
        assert load(changed(folder, {key: 7 for key in change if key in ("rope_theta", "rotary_emb_base")})).spec != new.spec


@pytest.mark.parametrize(
    ("family", "change", "sentence"),
    [
        ("neox", {"hidden_act": "gelu_now"}, "hidden_act 'gelu_now'; did you mean 'gelu_new'"),
        ("neox", {"num_attention_heads": 5}, "hidden_size=32 is not a multiple of num_attention_heads=5"),
        ("neox", {"rope_parameters": {"partial_rotary_factor": 0.4}}, "3 of 8 coordinates of a head are rotated"),
        ("neox", {"intermediate_size": 97}, r"has shape \(96, 32\), config\.json says \(97, 32\)"),
        ("neox", {"num_hidden_layers": 4}, r"tensor 'layers\.3\..*' is missing"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rotary positions of type 'linear' are not supported"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "of type 'llama3' are not supported"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "rope_theta='big'; expected a number above 0"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of num_key_value_heads=3"),
        ("llama", {"hidden_size": None}, "hidden_size=None; expected a whole number above 0"),
        ("llama", {"attention_bias": True}, r"tensor 'layers\.0\.self_attn\.q_proj\.bias' is missing"),
        ("llama", {"partial_rotary_factor": 0.5}, "the share 0.5 of 8 coordinates"),
        ("llama", {"head_dim": 7}, "the share 1.0 of 7 coordinates"),
        ("llama", {"quantization_config": {"bits": 4}}, "the weights are quantized"),
        ("llama", {"model_type": "lama"}, "model_type 'lama' is not known; did you mean 'llama'"),
        ("mistral", {"sliding_window": 0}, "sliding_window=0; expected a whole number above 0"),
    ],
)
def test_what_is_not_built_in_is_one_sentence(family, change, sentence, tmp_path):
    folder = changed(oracle.save(FAMILIES[family](), tmp_path), change)
    with pytest.raises(UserError, match=sentence):
        load(folder)


def test_a_key_that_is_missing_is_named(tmp_path):
    folder = changed(oracle.save(FAMILIES["llama"](), tmp_path), {}, ("intermediate_size",))
    with pytest.raises(UserError, match="key 'intermediate_size' is missing; expected a llama configuration"):
        load(folder)


def test_prompts_beyond_a_sliding_window_are_refused(data, tmp_path):
    folder = oracle.save(FAMILIES["mistral"](), tmp_path)  # its window is T
    tokens, _, _ = data
    forward(load(folder), tokens, ends("last"))
    narrow = load(changed(folder, {"sliding_window": T - 1}))
    with pytest.raises(UserError, match=rf"prompts of {T} tokens are too long; the model's config\.json allows {T - 1} pos"):
        forward(narrow, tokens, ends("last"))
    assert load(changed(folder, {"sliding_window": None})).spec.n_positions == 16


def test_other_types_of_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"torch\.float16 is not a type that models run in; choose one of: float32, bf"):
        load(oracle.save(FAMILIES["llama"](), tmp_path), dtype=torch.float16)


# ---- writing ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "llama, grouped keys, biases, wide heads", "mistral"])
def test_a_llama_survives_writing(family, tmp_path):
    slow = FAMILIES[family]()
    model = load(oracle.save(slow, tmp_path), dtype=torch.float64)
    state, config = save_state(model)
    theirs = slow.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in state)
    assert set(theirs) - set(state) == ({"lm_head.weight"} if slow.config.tie_word_embeddings else set())
    changed(tmp_path, config, drop=tuple(json.loads((tmp_path / "config.json").read_text())))
    assert load(tmp_path, dtype=torch.float64).spec == model.spec


def test_a_family_that_is_only_read_is_told(tmp_path):
    with pytest.raises(UserError, match="models of the family 'neox' are read, not written"):
        save_state(load(oracle.save(FAMILIES["neox"](), tmp_path)))


def test_a_wrong_reading_is_seen(data, exact, tmp_path):
    """The oracle has teeth: each choice that a family makes changes the logits far beyond the tolerance."""
    tokens, _, _ = data
    for family, wrongs in {
        "neox": [{"parallel": False}, {"rotary": 8}, {"theta": 99.0}, {"activation": "gelu_new"}, {"eps": 2e-5}],
        "llama": [{"theta": 99.0}, {"eps": 2e-6}],
    }.items():
        model = load(oracle.save(FAMILIES[family](), tmp_path / family), dtype=torch.float64)
        right = forward(model, tokens, ends("last"))
        for wrong in wrongs:
            other = forward(replace(model, spec=replace(model.spec, **wrong)), tokens, ends("last"))
            assert (other - right).abs().max() > 1e-7, wrong
