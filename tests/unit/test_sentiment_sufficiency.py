"""Heads patched together, the direction-ablated circuit, what heads write: against transformers' GPT-2 with hooks, float64."""

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.model import at
from recircuit.experiments.sentiment import head_outputs
from recircuit.experiments.sentiment.ablated_circuit import Ablation, ablated_circuit, attributed, negative_pairs, noised
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.setting import TRAIN, Setting
from recircuit.experiments.sentiment.sufficiency import conditions, mask_of, random_cells, sufficiency
from recircuit.methods.ablation import mean_reference
from recircuit.methods.direction_hooks import frame_of
from recircuit.methods.head_patching import Runs, among_means, into_corrupted, same_before

N, LENGTH, WIDTH, LAYERS, HEADS, EACH = 8, 8, 32, 3, 4, 8
PLACES = {"BOS": 0, "ADJ": 2, "VRB": 4, "SUM": 6, "END": 7}
START = PLACES["ADJ"]  # all prompts begin alike
ANSWERS = ([11, 12], [13, 14])  # positive ones, negative ones
TIGHT = 1e-10


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts():
    """Return tables of eight prompts for both data sets, positive and negative in turn; two words differ."""
    tokens = torch.randint(15, 50, (1, LENGTH), generator=rng(1)).repeat(N, 1)
    tokens[:, PLACES["ADJ"]], tokens[:, PLACES["VRB"]] = torch.arange(20, 20 + N), torch.arange(35, 35 + N) % 41
    rows, places = [], []
    for name, split in (("movie", "train"), ("circuit", "all")):
        key = {"set": name, "split": split, "variant": "paper"}
        for row, own in enumerate(tokens.tolist()):
            right, wrong = ANSWERS if row % 2 == 0 else ANSWERS[::-1]
            rows.append(key | {"row": row, "tokens": own, "label": 1 - row % 2, "right": right, "wrong": wrong})
            places += [key | {"row": row, "name": place, "position": position} for place, position in PLACES.items()]
    return pd.DataFrame(rows), pd.DataFrame(places)


def directions():
    """Return random vectors as a table of directions; DAS has none of the final stream."""
    vectors = torch.randn(2, LAYERS + 1, WIDTH, generator=rng(2))
    rows = [
        {"set": "movie", "variant": "paper", "position": "ADJ", "method": method, "layer": layer, "component": 0, "d_das": 1,
         "vector": vectors[i, layer].numpy(), "seed": 0}
        for i, method in enumerate(("kmeans", "das"))
        for layer in range(LAYERS + (method == "kmeans"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def roles():
    """Return a circuit in which one head has two positions, and another one two roles."""
    cells = [("tokenizer", 0, 1, "ADJ"), ("tokenizer", 0, 1, "VRB"), ("mapping", 1, 2, "SUM"), ("intermediate", 2, 0, "END")]
    cells += [("direct", 2, 0, "END"), ("direct", 2, 3, "END")]
    rows = pd.DataFrame(cells, columns=["role", "layer", "head", "position"])
    return rows.assign(dataset="movie", source="rule", score=-0.1)


class Theirs:
    """transformers' GPT-2; z, outputs of attention and of MLPs, and streams are recorded, and may be changed on the way."""

    def __init__(self, model):
        self.model, self.blocks = model, model.transformer.h

    @torch.no_grad()
    def run(self, tokens, *, z=None, attention=None, mlp=None, entering=None):
        """Return logits and what was recorded; every change is a function of (layer, value), and for attention of z too."""
        kept, handles = {"z": {}, "attn_out": {}, "mlp_out": {}, "stream": {}}, []

        def before_out(layer):
            def hook(module, args):
                value = args[0].unflatten(-1, (HEADS, EACH))
                kept["z"][layer] = value if z is None else z(layer, value.clone())
                return (kept["z"][layer].flatten(-2),)

            return hook

        def after(layer, name, change):
            def hook(module, args, out):
                kept[name][layer] = out if change is None else change(layer, out.clone())
                return kept[name][layer]

            return hook

        def before(layer):
            def hook(module, args):
                kept["stream"][layer] = args[0] if entering is None else entering(layer, args[0].clone())
                return (kept["stream"][layer], *args[1:])

            return hook

        for layer, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(before(layer)))
            handles.append(block.attn.c_proj.register_forward_pre_hook(before_out(layer)))
            handles.append(block.attn.c_proj.register_forward_hook(after(layer, "attn_out", attention)))
            handles.append(block.mlp.register_forward_hook(after(layer, "mlp_out", mlp)))
        handles.append(self.model.transformer.ln_f.register_forward_pre_hook(before(LAYERS)))
        try:
            return self.model(tokens).logits, kept
        finally:
            for handle in handles:
                handle.remove()

    def written(self, layer, head, z):
        """Return what a head writes for its z [... e]."""
        return z @ self.blocks[layer].attn.c_proj.weight[head * EACH : (head + 1) * EACH]


def differences(logits, answers):
    """Return logit differences at END, one prompt and one pair of answers after the other."""
    found = []
    for row, own in zip(logits[:, PLACES["END"]], answers.tolist(), strict=True):
        found.append(sum(row[good] - row[bad] for good, bad in own) / len(own))
    return torch.stack(found)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    theirs = oracle.random_gpt2().requires_grad_(requires_grad=False)
    model = load(oracle.save(theirs, tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)
    setting = Setting(model, *prompts(), chunk=64)
    return Theirs(theirs), setting, setting.toy(*TRAIN), Axes.of(model, directions())


def some_cells(seed=0, share=0.4):
    return torch.rand(LAYERS, LENGTH, HEADS, generator=rng(seed)) < share


def runs_of(case, start=START):
    _, setting, toy, _ = case
    return Runs.of(setting.model, toy.pairs.clean, toy.pairs.corrupted, start)


# ---- many heads at once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, START])
def test_clean_heads_in_the_corrupted_run_are_those_of_hooks(case, start):
    theirs, setting, toy, _ = case
    cells, pairs = some_cells(), toy.pairs
    clean = theirs.run(pairs.clean)[1]["z"]

    def put(layer, z):
        for position, head in cells[layer].nonzero().tolist():
            z[:, position, head] = clean[layer][:, position, head]
        return z

    expected = theirs.run(pairs.corrupted, z=put)[1]["stream"][LAYERS]
    plain = theirs.run(pairs.corrupted)[1]["stream"][LAYERS]
    found = into_corrupted(setting.model, runs_of(case, start), cells)
    assert (found - expected[:, start:]).abs().max() < TIGHT
    assert (expected - plain).abs().max() > 1e-2


@pytest.mark.parametrize("start", [0, START])
def test_heads_among_means_are_those_of_hooks(case, start):
    theirs, setting, toy, _ = case
    cells = some_cells(1)
    means = {layer: z.mean(0) for layer, z in theirs.run(toy.tokens)[1]["z"].items()}

    def put(layer, z):
        for position, head in (~cells[layer]).nonzero().tolist():
            z[:, position, head] = means[layer][position, head]
        return z

    expected = theirs.run(toy.tokens, z=put)[1]["stream"][LAYERS]
    ours = mean_reference(setting.model, toy.tokens, "position", 64).heads
    found = among_means(setting.model, runs_of(case, start), cells, ours)
    assert (found - expected[:, start:]).abs().max() < TIGHT


@pytest.mark.parametrize("base", ["resample", "mean"])
def test_along_a_plane_only_the_projection_of_the_difference_is_put_in(case, base):
    theirs, setting, toy, _ = case
    cells, pairs = some_cells(2), toy.pairs
    frames = torch.linalg.qr(torch.randn(LAYERS, WIDTH, 2, generator=rng(3), dtype=torch.float64)).Q
    clean, corrupted = (theirs.run(tokens)[1]["z"] for tokens in (pairs.clean, pairs.corrupted))
    live = {}

    def record(layer, z):
        live[layer] = z
        return z

    def rewrite(layer, out):
        """Write every head anew: one head, one position and one vector of the plane at a time."""
        total = theirs.blocks[layer].attn.c_proj.bias.expand_as(out).clone()
        for head in range(HEADS):
            own, other = (theirs.written(layer, head, z[layer][:, :, head]) for z in (clean, corrupted))
            now = theirs.written(layer, head, live[layer][:, :, head])
            mean = own.mean(0).expand_as(own)
            for position in range(LENGTH):
                inside = bool(cells[layer, position, head])
                if base == "resample":
                    start, target = (other, own) if inside else (now, now)
                else:
                    start, target = (mean, now) if inside else (mean, mean)
                change = (target - start)[:, position]
                total[:, position] += start[:, position]
                for vector in frames[layer].T:
                    total[:, position] += (change @ vector)[:, None] * vector
        return total

    tokens = pairs.corrupted if base == "resample" else pairs.clean
    expected = theirs.run(tokens, z=record, attention=rewrite)[1]["stream"][LAYERS][:, START:]
    if base == "resample":
        found = into_corrupted(setting.model, runs_of(case), cells, frames)
    else:
        means = mean_reference(setting.model, toy.tokens, "position", 64).heads
        found = among_means(setting.model, runs_of(case), cells, means, frames)
    assert (found - expected).abs().max() < TIGHT


def test_what_can_be_said_exactly(case):
    theirs, setting, toy, _ = case
    model, runs, pairs = setting.model, runs_of(case), toy.pairs
    end = pairs.end - START
    clean, corrupted = (theirs.run(tokens)[1]["stream"][LAYERS] for tokens in (pairs.clean, pairs.corrupted))
    every, whole = torch.ones(LAYERS, LENGTH, HEADS, dtype=torch.bool), torch.eye(WIDTH, dtype=torch.float64)
    nothing = torch.zeros(LAYERS, WIDTH, 1, dtype=torch.float64)
    # The last token is the same: with all heads clean its stream is, MLPs and all; and with the complement of all, none is.
    assert (at(into_corrupted(model, runs, every), end) - at(clean, pairs.end)).abs().max() < TIGHT
    assert (into_corrupted(model, runs, ~every) - corrupted[:, START:]).abs().max() < TIGHT
    at_end = every & (torch.arange(LENGTH) == PLACES["END"])[:, None]
    assert (at(into_corrupted(model, runs, at_end), end) - at(clean, pairs.end)).abs().max() < TIGHT
    means = mean_reference(model, toy.tokens, "position", 64).heads
    assert (among_means(model, runs, every, means) - clean[:, START:]).abs().max() < TIGHT
    # A whole space restricts nothing. An empty one leaves both runs' own outputs: cells write what the plain run has.
    cells, stacked = some_cells(4), whole.expand(LAYERS, -1, -1)
    assert (into_corrupted(model, runs, cells, stacked) - into_corrupted(model, runs, cells)).abs().max() < TIGHT
    assert (among_means(model, runs, cells, means, nothing) - among_means(model, runs, ~every, means)).abs().max() < TIGHT
    assert (into_corrupted(model, runs, every, nothing) - corrupted[:, START:]).abs().max() < TIGHT
    # Patching a run with itself changes nothing.
    same = Runs.of(model, pairs.corrupted, pairs.corrupted, START)
    assert (into_corrupted(model, same, cells) - corrupted[:, START:]).abs().max() < TIGHT


def test_all_heads_at_the_end_restore_other_families_too(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        oracle.exact_norms_and_angles(patch)
        theirs = oracle.random_neox().requires_grad_(requires_grad=False)
        model = load(oracle.save(theirs, tmp_path), dtype=torch.float64)  # attention and MLP in parallel, rotated keys
        pairs = Setting(model, *prompts(), chunk=64).toy(*TRAIN).pairs
        runs = Runs.of(model, pairs.clean, pairs.corrupted, START)
        cells = torch.zeros(model.spec.n_layers, LENGTH, model.spec.n_heads, dtype=torch.bool)
        cells[:, PLACES["END"]] = True
        found = at(into_corrupted(model, runs, cells), pairs.end - START)
        assert (found - at(runs.of_clean.x[-1], pairs.end)).abs().max() < TIGHT
        logits = theirs(pairs.clean).logits[:, PLACES["END"]]
        norm = theirs.gpt_neox.final_layer_norm
        assert (norm(found) @ theirs.get_output_embeddings().weight.T - logits).abs().max() < 1e-9


def test_prompts_begin_alike_up_to_the_first_difference():
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    assert same_before(tokens) == 2 and same_before(tokens[:1]) == 3 and same_before(tokens[:, 2:]) == 0


# ---- sufficiency ----------------------------------------------------------------------------------------------------


def test_cells_are_at_their_positions_or_everywhere(case):
    _, setting, toy, _ = case
    cells = [(0, 1, "ADJ"), (0, 1, "VRB"), (2, 3, "END"), (1, 0, "ALL")]
    mask = mask_of(cells, toy, setting.model.spec, everywhere=False)
    expected = {(0, 2, 1), (0, 4, 1), (2, 7, 3)} | {(1, position, 0) for position in range(LENGTH)}
    assert {tuple(cell) for cell in mask.nonzero().tolist()} == expected
    every = mask_of(cells, toy, setting.model.spec, everywhere=True)
    assert every.any(1).nonzero().tolist() == [[0, 1], [1, 0], [2, 3]] and bool((every.all(1) == every.any(1)).all())
    with pytest.raises(UserError, match="no position 'SIM'"):
        mask_of([(0, 0, "SIM")], toy, setting.model.spec, everywhere=False)


def test_random_circuits_have_the_circuit_s_shape(case):
    spec, cells = case[1].model.spec, [(0, 1, "ADJ"), (0, 1, "VRB"), (0, 2, "SUM"), (2, 0, "END"), (2, 3, "END")]
    seen = set()
    for draw in range(30):
        drawn = random_cells(cells, spec, "random", np.random.default_rng(draw))
        assert [name for *_, name in drawn] == [name for *_, name in cells]
        assert len({cell[:2] for cell in drawn}) == 4 and drawn[0][:2] == drawn[1][:2]  # a head keeps its two positions
        seen |= {cell[:2] for cell in drawn}
        layers = random_cells(cells, spec, "random_layers", np.random.default_rng(draw))
        assert [cell[0] for cell in layers] == [cell[0] for cell in cells] and len({cell[:2] for cell in layers}) == 4
    assert seen == {(layer, head) for layer in range(LAYERS) for head in range(HEADS)}


@pytest.fixture(scope="module")
def tables(case):
    _, setting, _, axes = case
    return {name: sufficiency(setting, name, roles(), axes, 100, 0, lambda line: None) for name in ("movie", "circuit")}


def value_of(table, **wanted):
    wanted = {"direction": "none", "draw": 0} | wanted
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_sufficiency_is_what_hooks_and_plain_sums_give(case, tables):
    theirs, _, toy, _ = case
    pairs, table = toy.pairs, tables["movie"]
    plain = {name: theirs.run(tokens) for name, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted))}
    clean, corrupted = (differences(plain[name][0], pairs.answers) for name in ("clean", "corrupted"))
    z = plain["clean"][1]["z"]
    cells = {(row.layer, row.head, PLACES[row.position]) for row in roles().itertuples()}
    heads = {(layer, head) for layer, head, _ in cells}

    def restored(chosen, mean):
        def put(layer, own):
            for head in range(HEADS):
                for position in range(LENGTH):
                    inside = chosen(layer, head, position)
                    if mean and not inside:
                        own[:, position, head] = z[layer][:, position, head].mean(0)
                    elif inside and not mean:
                        own[:, position, head] = z[layer][:, position, head]
            return own

        return differences(theirs.run(pairs.clean if mean else pairs.corrupted, z=put)[0], pairs.answers)

    sets = {
        ("circuit", "all"): lambda l, h, p: (l, h) in heads,
        ("circuit", "pos"): lambda l, h, p: (l, h, p) in cells,
        ("complement", "all"): lambda l, h, p: (l, h) not in heads,
        ("complement", "pos"): lambda l, h, p: (l, h, p) not in cells,
        ("none", "all"): lambda l, h, p: False,
        ("all", "all"): lambda l, h, p: True,
    }
    signs = torch.where(toy.positive, 1.0, -1.0).double()
    for base in ("resample", "mean"):
        floor = restored(sets["none", "all"], base == "mean")
        for (node_set, restriction), chosen in sets.items():
            ld = restored(chosen, base == "mean")
            key = {"node_set": node_set, "restriction": restriction, "base": base}
            row = value_of(table, metric="denoising", **key)
            assert row["value"] == pytest.approx(float(100 * (ld - floor).sum() / (clean - floor).sum()), abs=1e-7)
            assert row["mean_ld"] == pytest.approx(float(ld.mean()), abs=TIGHT) and row["n"] == N
            sign = 1 if clean.mean() > 0 else -1
            hits = sum(bool(value * sign > 0) for value in ld)
            assert value_of(table, metric="flips", **key)["value"] == 100 * hits / N
            centred = ld - signs * (signs * ld).mean()
            hits = sum(bool(value * sign > 1e-5 * clean.abs().mean()) for value in centred)
            assert value_of(table, metric="flips_centred", **key)["value"] == 100 * hits / N
    assert (restored(sets["none", "all"], mean=False) - corrupted).abs().max() < TIGHT


def test_sufficiency_s_ends_and_sizes(tables):
    for table in tables.values():
        chosen = table[table["metric"] == "denoising"]
        for base in ("resample", "mean"):
            for node_set, expected, n_heads in (("none", 0, 0), ("all", 100, LAYERS * HEADS)):
                row = value_of(chosen, node_set=node_set, restriction="all", base=base)
                assert row["value"] == pytest.approx(expected, abs=1e-8) and row["n_heads"] == n_heads
            assert value_of(chosen, node_set="none", restriction="all", base="mean")["mean_ld"] == pytest.approx(0, abs=TIGHT)
            row = value_of(chosen, node_set="circuit", restriction="pos", base=base)
            assert (row["n_heads"], row["n_cells"]) == (4, 5)
            assert row["ci_lo"] <= row["value"] <= row["ci_hi"]
            rest = value_of(chosen, node_set="complement", restriction="pos", base=base)
            assert rest["n_cells"] == LAYERS * HEADS * LENGTH - 5
        keys = ["node_set", "restriction", "direction", "alignment", "base", "metric", "draw"]
        assert not table.duplicated(keys).any() and not table.drop(columns="p_value").isna().any().any()


def test_p_values_count_random_circuits_that_do_as_well(tables):
    table = tables["movie"]
    known = table[table["p_value"].notna()]
    assert set(known["node_set"]) == {"circuit"} and set(known["restriction"]) == {"all", "pos"} and len(known) == 12
    for row in known.itertuples():
        drawn = table.query(
            "node_set == 'random' and restriction == @row.restriction and base == @row.base and metric == @row.metric"
        )
        assert len(drawn) == 20 and row.p_value == pytest.approx((1 + sum(v >= row.value for v in drawn["value"])) / 21)


def test_every_direction_restricts_every_set(case):
    _, setting, toy, axes = case
    found = list(conditions([(0, 1, "ADJ")], toy, setting.model.spec, axes.frames(), 0))
    limits = {(one.node_set, one.restriction, one.direction, one.alignment) for one in found if one.direction != "none"}
    kinds = {("kmeans+das", "first"), ("kmeans", "matched"), ("das", "matched"), ("random", "first")}
    sets = {("all", "dir"), *((name, limit) for name in ("circuit", "complement") for limit in ("dir", "pos+dir"))}
    assert limits == {(*one, *kind) for one in sets for kind in kinds}
    for one in found:
        if one.frames is not None:
            gram = one.frames.mT @ one.frames
            assert (gram - torch.eye(gram.shape[-1], dtype=gram.dtype)).abs().max() < 1e-6


def test_axes_are_of_the_layer_that_a_head_writes_to(case):
    axes, table = case[3], directions()

    def unit(method, layer):
        vector = table[(table["method"] == method) & (table["layer"] == layer)]["vector"].iloc[0].astype(float)
        return torch.from_numpy(vector / np.linalg.norm(vector))

    for layer in range(LAYERS):
        assert (axes.at("kmeans", "matched", layer) - unit("kmeans", layer + 1)).abs().max() < 1e-6
        assert (axes.at("das", "matched", layer) - unit("das", min(layer + 1, LAYERS - 1))).abs().max() < 1e-6
        assert (axes.at("das", "first", layer) - unit("das", 1)).abs().max() < 1e-6
    plane = axes.frames()["kmeans+das", "first"][2]
    for method in ("kmeans", "das"):
        assert (plane @ (plane.T @ unit(method, 1)) - unit(method, 1)).abs().max() < 1e-6
    with pytest.raises(UserError, match="none by 'das' for layer 1"):
        Axes.of(case[1].model, table[table["method"] == "kmeans"])


# ---- the direction set to its mean ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ablation(case):
    _, setting, toy, axes = case
    words = torch.cat([setting.streams_at(toy, name)[1] for name in ("ADJ", "VRB")])
    return Ablation.of(axes.vectors["kmeans"][1], words)


@pytest.fixture(scope="module")
def without(case, ablation):
    """Return a function that runs their model with the projection of the stream entering block 1 set to its mean."""
    theirs, _, toy, _ = case
    d = ablation.direction
    words = theirs.run(toy.tokens)[1]["stream"][1][:, [PLACES["ADJ"], PLACES["VRB"]]]
    mean = sum(float(row @ d) for row in words.flatten(0, 1)) / (2 * N)

    def change(layer, x):
        return x + (mean - x @ d)[..., None] * d if layer == 1 else x

    return lambda tokens: theirs.run(tokens, entering=change)


def test_the_direction_is_set_to_the_words_mean(case, ablation, without):
    _, setting, toy, _ = case
    logits, kept = without(toy.tokens)
    cache = ablation.cache(setting.model, toy.tokens)
    for layer in range(LAYERS + 1):
        assert (cache.x[layer] - kept["stream"][layer]).abs().max() < TIGHT
    for layer in range(LAYERS):
        assert (cache.z[layer] - kept["z"][layer]).abs().max() < TIGHT
        assert (cache.mlp[layer] - kept["mlp_out"][layer]).abs().max() < TIGHT
    projections = cache.x[1] @ ablation.direction
    assert (projections - ablation.value).abs().max() < TIGHT  # all of one value: to do it again changes nothing
    assert (logits - case[0].run(toy.tokens)[0]).abs().max() > 1e-3


def test_attribution_differences_are_sums_over_writers(case, ablation, without):
    theirs, setting, toy, _ = case
    table, pairs = attributed(setting, toy, ablation), negative_pairs(toy)
    assert not toy.positive[1::2].any() and len(pairs) == N // 2 and bool((pairs.clean == toy.tokens[1::2]).all())
    gamma, unembedding = theirs.model.transformer.ln_f.weight, theirs.model.lm_head.weight
    u = torch.stack([sum(unembedding[good] - unembedding[bad] for good, bad in own) / 2 for own in pairs.answers.tolist()])

    def shares(kept):
        """Return each component's share as folding defines it: centred, divided by the scale, times the norm's weight."""
        end = PLACES["END"]
        final = kept["stream"][LAYERS][:, end]
        sigma = (final.var(-1, correction=0) + 1e-5).sqrt()

        def share(y):
            return float((((y - y.mean(-1, keepdim=True)) / sigma[:, None] * gamma) * u).sum(-1).mean())

        found = {("lens", l, None): share(kept["stream"][l][:, end]) for l in range(LAYERS + 1)}
        for layer in range(LAYERS):
            found["attn_out", layer, None] = share(kept["attn_out"][layer][:, end])
            found["mlp_out", layer, None] = share(kept["mlp_out"][layer][:, end])
            for head in range(HEADS):
                found["head", layer, head] = share(theirs.written(layer, head, kept["z"][layer][:, end, head]))
        return found

    clean, other = (theirs.run(pairs.clean), without(pairs.clean))
    before, after = shares(clean[1]), shares(other[1])
    own = {(row.component, row.layer, None if pd.isna(row.head) else row.head): row.value for row in table.itertuples()}
    for key in before:
        # Heads are without the constant of their value biases, the same in both runs but for the scale.
        if key[0] != "head":
            assert own[key] == pytest.approx(before[key] - after[key], abs=TIGHT), key
    change = float((differences(clean[0], pairs.answers) - differences(other[0], pairs.answers)).mean())
    writers = sum(value for (component, *_), value in own.items() if component in ("attn_out", "mlp_out", "ablation"))
    assert own["lens", 0, None] + writers == pytest.approx(change, abs=TIGHT)
    assert own["lens", LAYERS, None] == pytest.approx(change, abs=TIGHT)


def test_noising_is_that_of_hooks(case, ablation, without):
    theirs, setting, toy, _ = case
    table, pairs = noised(setting, toy, ablation), negative_pairs(toy)
    plain, _ = theirs.run(pairs.clean)
    logits, other = without(pairs.clean)
    clean, ablated = (float(differences(part, pairs.answers).mean()) for part in (plain, logits))
    own = table.set_index(["component", "layer", "head", "position"])["value"]
    own.index = [tuple(None if pd.isna(part) else part for part in key) for key in own.index]

    def put(layer, value, key, where):
        def change(at_layer, own):
            if at_layer == layer:
                own[where] = value[layer][where]
            return own

        return {key: change}

    checked = 0
    for layer in range(LAYERS):
        for head in range(HEADS):
            changed = theirs.run(pairs.clean, **put(layer, other["z"], "z", np.s_[:, :, head]))[0]
            expected = (float(differences(changed, pairs.answers).mean()) - clean) / (clean - ablated)
            assert own["z", layer, head, None] == pytest.approx(expected, abs=1e-8)
            checked += abs(expected) > 1e-3
        for position in range(LENGTH):
            for name, key in (("stream", "entering"), ("attn_out", "attention"), ("mlp_out", "mlp")):
                changed = theirs.run(pairs.clean, **put(layer, other[name], key, np.s_[:, position]))[0]
                expected = (float(differences(changed, pairs.answers).mean()) - clean) / (clean - ablated)
                site = "resid_pre" if name == "stream" else name
                assert own[site, layer, None, position] == pytest.approx(expected, abs=1e-8)
    assert checked > HEADS


def test_the_ablated_run_is_beside_random_directions(case, ablation, without):
    theirs, setting, toy, axes = case
    table = ablated_circuit(setting, axes, 3, 100, 0, lambda line: None)
    runs = table[table["kind"] == "run"]
    assert {(row.direction, row.draw) for row in runs.itertuples()} == {
        ("kmeans", -1), ("das", -1), ("random", 0), ("random", 1), ("random", 2)
    }  # fmt: skip
    before = differences(theirs.run(toy.tokens)[0], toy.answers)
    after = differences(without(toy.tokens)[0], toy.answers)
    for subset, chosen in (("negative", ~toy.positive), ("positive", toy.positive), ("all", slice(None))):
        row = runs.query("direction == 'kmeans' and subset == @subset").iloc[0]
        b, a = float(before[chosen].mean()), float(after[chosen].mean())
        assert (row["ld_clean"], row["ld_ablated"]) == (pytest.approx(b, abs=TIGHT), pytest.approx(a, abs=TIGHT))
        assert row["value"] == pytest.approx((a - b) / b, abs=TIGHT) and row["n"] == (N if subset == "all" else N // 2)
    keys = ["dataset", "direction", "draw", "subset", "kind", "component", "layer", "head", "position"]
    assert not table.duplicated(keys).any()


# ---- what heads write and read --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(case):
    """Return what every head writes at every position of every prompt by hooks, centred and scaled: [n T L H d]."""
    theirs, _, toy, _ = case
    kept = theirs.run(toy.tokens)[1]
    sigma = (kept["stream"][LAYERS].var(-1, correction=0) + 1e-5).sqrt()
    layers = []
    for layer in range(LAYERS):
        heads = [theirs.written(layer, head, kept["z"][layer][:, :, head]) for head in range(HEADS)]
        layers.append(torch.stack(heads, 2))
    y = torch.stack(layers, 2)
    return (y - y.mean(-1, keepdim=True)) / sigma[..., None, None, None]


def test_class_means_and_cosines_are_those_of_single_outputs(case, outputs):
    _, setting, toy, _ = case
    means = head_outputs.class_means(Setting(setting.model, *prompts(), chunk=8), toy)
    assert means.positions == ("BOS", "ADJ", "VRB", "SUM", "END")
    for found, chosen in ((means.positive, toy.positive), (means.negative, ~toy.positive)):
        expected = outputs[chosen].mean(0)[list(PLACES.values())]  # [P L H d]
        assert (found - expected.transpose(0, 1)).abs().max() < TIGHT
    table = head_outputs.head_cosines(means, roles(), "movie")
    assert len(table) == 15  # five cells, each pair once and with itself
    neutral = outputs.mean(0)
    for row in table.itertuples():
        vectors = []
        for name in (row.a, row.b):
            node, place = name.split("@")
            layer, head = (int(part) for part in node[1:].split(".h"))
            vectors.append((outputs[toy.positive].mean(0) - neutral)[PLACES[place], layer, head])
        expected = float(vectors[0] @ vectors[1] / (vectors[0].norm() * vectors[1].norm()))
        assert row.cosine == pytest.approx(expected, abs=TIGHT)


def test_products_with_the_direction_are_means_over_prompts(case, outputs):
    _, setting, toy, axes = case
    table = head_outputs.localised(head_outputs.class_means(setting, toy), axes, "movie", N)
    assert len(table) == LAYERS * HEADS * len(PLACES) * 4
    centred = outputs - outputs.mean(0)
    for row in table.itertuples():
        d = axes.at(row.direction, row.alignment, row.layer)
        own = centred[:, PLACES[row.position], row.layer, row.head]
        expected = sum(float(y @ d) * (1 if positive else -1) for y, positive in zip(own, toy.positive, strict=True)) / N
        assert row.dot == pytest.approx(expected, abs=TIGHT)
        change = own[toy.positive].mean(0) - own[~toy.positive].mean(0)
        if row.position == "BOS":
            assert row.flip < 1e-12 and row.flip_share == 0  # before the first word there is no class
        else:
            assert row.flip == pytest.approx(float(change.norm()), abs=TIGHT)
            assert row.flip_share == pytest.approx(float(change @ d / change.norm()), abs=1e-9)


def test_gradients_are_autograd_s(case):
    theirs, setting, toy, axes = case
    found = head_outputs.answer_gradients(Setting(setting.model, *prompts(), chunk=8), toy)
    entered = {}

    def hook(module, args):
        entered["x"] = args[0].detach().requires_grad_()
        return (entered["x"], *args[1:])

    handle = theirs.blocks[1].register_forward_pre_hook(hook)
    logits = theirs.model(toy.tokens).logits[:, PLACES["END"]]
    handle.remove()
    chances = logits.log_softmax(-1)[:, ANSWERS[1]].mean()  # the negative answers, whatever the prompt
    chances.backward()
    slope = entered["x"].grad.sum(0)  # of a mean over prompts: their sum is the mean of single slopes
    for name, expected in (("ADJ", slope[2]), ("VRB", slope[4]), ("ADJ+VRB", (slope[2] + slope[4]) / 2)):
        assert (found[name] - expected).abs().max() < TIGHT
    table = head_outputs.gradients(setting, toy, roles(), axes, "movie")
    row = table.query("kind == 'log_prob' and reader == 'ADJ' and direction == 'das'").iloc[0]
    expected = torch.cosine_similarity(slope[2], axes.vectors["das"][1], 0)
    assert row["cosine"] == pytest.approx(float(expected), abs=TIGHT) and row["chance"] == pytest.approx(WIDTH**-0.5)
    assert len(table) == 2 * (3 + 2 * 4) and set(table["kind"]) == {"log_prob", "ov", "ov_answers"}


def test_what_a_head_turns_into_words_is_a_gradient(case):
    theirs, setting, _, _ = case
    layer, head, tokens = 2, 1, torch.tensor([3, 9, 30])
    block, embedding = theirs.blocks[layer], theirs.model.lm_head.weight
    v = block.attn.c_attn.weight[:, 2 * WIDTH + head * EACH : 2 * WIDTH + (head + 1) * EACH]
    normed = torch.randn(WIDTH, generator=rng(5), dtype=torch.float64, requires_grad=True)  # the stream, divided by its scale

    def mean_logit(x):
        """Return the mean logit of the tokens less that of all, through one head alone, the norms' scales being 1."""
        written = theirs.written(layer, head, (x - x.mean()) * block.ln_1.weight @ v)
        logits = embedding @ ((written - written.mean()) * theirs.model.transformer.ln_f.weight)
        return logits[tokens].mean() - logits.mean()

    (expected,) = torch.autograd.grad(mean_logit(normed), normed)
    found = head_outputs.written_towards(setting.model, layer, head, tokens)
    assert (found - expected).abs().max() < TIGHT


def test_a_frame_of_one_vector_is_that_vector(case):
    axes = case[3]
    for (direction, alignment), frames in axes.frames().items():
        if direction in ("kmeans", "das"):
            stack = axes.stack(direction, alignment)
            assert all((frame - frame_of(vector)).abs().max() < 1e-6 for frame, vector in zip(frames, stack, strict=True))
