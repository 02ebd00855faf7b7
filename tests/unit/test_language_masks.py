"""Masks of a language model against transformers' GPT-2 with scaled columns, one unpadded sentence at a time, in float64."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.experiments.circuit_probing import language
from recircuit.experiments.circuit_probing.language import (
    Streams,
    ablations,
    parts_of,
    price_of,
    probe_layers,
    strongest,
    top_tokens,
    with_mask,
)
from recircuit.methods.masks import Mask, Recipe
from unit.test_masks import gated, scaled

LAYERS, COMPONENTS = range(3), ("attn", "mlp")
WIDTHS = {"attn": (96, 32), "mlp": (128, 32)}


@pytest.fixture(scope="module")
def slow():
    return oracle.random_gpt2()


@pytest.fixture(scope="module")
def model(slow, tmp_path_factory):
    return load(oracle.save(slow, tmp_path_factory.mktemp("model")), dtype=torch.float64)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(language, "CHUNK", 7)


@pytest.fixture(scope="module")
def table():
    """Sentences of three to nine random tokens in three parts, shuffled as a table may be."""
    rng = torch.Generator().manual_seed(0)
    rows = []
    for part, n in (("train", 40), ("iid", 24), ("gen", 17)):
        for row in range(n):
            tokens = torch.randint(50, (int(torch.randint(3, 10, (), generator=rng)),), generator=rng).tolist()
            right, wrong = torch.randperm(50, generator=rng)[:2].tolist()
            text, label = " ".join(map(str, tokens)), tokens[0] % 2
            facts = {"text": text, "tokens": tokens, "label": label, "right": right, "wrong": wrong}
            rows.append({"part": part, "row": row, **facts})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def parts(table):
    return parts_of(table, "cpu")


def rows_of(table, part):
    return table[table["part"] == part].sort_values("row")


def ones(component):
    return Mask(*(torch.ones(n, dtype=torch.float64) for n in WIDTHS[component]))


def soft(component, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Mask(*(torch.rand(n, generator=rng, dtype=torch.float64) for n in WIDTHS[component]))


def hard(component, seed=0):
    return Mask(*((part < 0.4).double() for part in soft(component, seed)))


@torch.no_grad()
def plain(slow, rows, layer, component, mask):
    """Run every sentence alone; return the block's updates at the last tokens, and right minus wrong logits there."""
    updates, differences = [], []
    for row in rows.itertuples():
        update, logits = scaled(slow, component, *mask, torch.tensor([row.tokens]), layer)
        updates.append(update[0, -1])
        differences.append(logits[0, -1, row.right] - logits[0, -1, row.wrong])
    return torch.stack(updates), torch.stack(differences)


def test_parts_are_padded_on_the_right_and_read_at_their_last_token(table, parts):
    assert set(parts) == {"train", "iid", "gen"}
    for name, part in parts.items():
        rows = rows_of(table, name)
        assert len(set(map(len, rows["tokens"]))) > 3
        for i, row in enumerate(rows.itertuples()):
            assert part.tokens[i, : part.end[i] + 1].tolist() == row.tokens
            assert part.answers[i].tolist() == [row.right, row.wrong] and part.labels[i] == row.label


@pytest.mark.parametrize("component", COMPONENTS)
def test_gated_updates_are_those_of_scaled_columns(slow, model, table, parts, component):
    streams = Streams(model, parts)
    for layer in LAYERS:
        assert streams.layer == layer
        for name in ("iid", "gen"):
            block = streams.block(name, component)
            assert block.n_columns == WIDTHS[component] and len(block) == len(parts[name].end)
            for mask in (soft(component, layer), hard(component, layer)):
                expected, _ = plain(slow, rows_of(table, name), layer, component, mask)
                assert expected.std() > 0.1
                assert (block.update(slice(None), mask) - expected).abs().max() < 1e-10
        streams.up()


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_masked_model_is_one_with_scaled_columns(slow, model, table, parts, component, layer):
    streams, mask = Streams(model, parts), soft(component, 5)
    whole = streams.differences("iid")
    for _ in range(layer):
        streams.up()
    found = streams.differences("iid", with_mask(model, layer, component, mask))
    _, expected = plain(slow, rows_of(table, "iid"), layer, component, mask)
    assert (found - expected).abs().max() < 1e-10 and (found - whole).abs().max() > 0.1
    assert (streams.differences("iid") - whole).abs().max() < 1e-10
    _, clean = plain(slow, rows_of(table, "iid"), layer, component, ones(component))
    assert (whole - clean).abs().max() < 1e-10


@pytest.mark.parametrize(("component", "draws"), [("attn", 5), ("mlp", 2)])
def test_ablations_are_those_of_zeroed_columns(slow, model, table, parts, component, draws, monkeypatch):
    layer, drawn = 1, []
    streams, circuit = Streams(model, parts), hard(component)
    streams.up()

    def recorded(mask, rng):
        drawn.append(original(mask, rng))
        return drawn[-1]

    original = language.random_mask
    monkeypatch.setattr(language, "random_mask", recorded)
    found = list(ablations(streams, component, circuit, 0, draws))
    assert [row["part"] for row in found] == [name for name in parts if name != "train" for _ in range(3 + draws)]
    assert [row["condition"] for row in found] == ["circuit", "activations", "read_position", *["random"] * draws] * 2
    assert [row["draw"] for row in found if row["condition"] == "random"] == [*range(draws)] * 2
    masks = iter(drawn)
    for row in (row for row in found if row["condition"] in ("circuit", "random")):
        gone = circuit if row["condition"] == "circuit" else next(masks)[0]
        left = Mask(*(1 - part for part in gone))
        _, expected = plain(slow, rows_of(table, row["part"]), layer, component, left)
        assert (row["layer"], row["component"], row["n"]) == (layer, component, len(expected))
        assert row["accuracy"] == float((expected > 0).double().mean())
        assert row["mean_logit_diff"] == pytest.approx(float(expected.mean()), abs=1e-10)
        assert row["outside"] is (None if row["condition"] == "circuit" else True)
    sizes = [[int(part.sum()) for part in mask] for mask, _ in drawn]
    assert sizes == [[int(part.sum()) for part in circuit]] * 2 * draws
    assert len({tuple(mask.first.tolist()) for mask, _ in drawn}) == 2 * draws  # redrawn for each draw and part


@torch.no_grad()
def hooked(slow, rows, layer, component, mask, how):
    """Run every sentence alone, with activations gated by hooks as ``how`` says; return right minus wrong logits."""
    found = []
    with gated(slow.transformer.h[layer], component, mask, how):
        for row in rows.itertuples():
            logits = slow(torch.tensor([row.tokens])).logits[0, -1]
            found.append(logits[row.right] - logits[row.wrong])
    return torch.stack(found)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_other_ways_of_ablation_are_those_of_hooks(slow, model, table, parts, component, layer):
    streams, circuit = Streams(model, parts), hard(component)
    for _ in range(layer):
        streams.up()
    rows = {row["condition"]: row for row in ablations(streams, component, circuit, 0, 2) if row["part"] == "gen"}
    told = set()
    for how in ("activations", "read_position"):
        expected = hooked(slow, rows_of(table, "gen"), layer, component, circuit.complement(), how)
        assert rows[how]["mean_logit_diff"] == pytest.approx(float(expected.mean()), abs=1e-10)
        assert rows[how]["accuracy"] == float((expected > 0).double().mean())
        told.add(round(rows[how]["mean_logit_diff"], 8))
    same = layer == LAYERS[-1] and component == "mlp"  # nothing after it reads the positions before
    assert (rows["circuit"]["mean_logit_diff"] == pytest.approx(rows["read_position"]["mean_logit_diff"], abs=1e-9)) is same
    assert len(told) == 2


@pytest.fixture(scope="module")
def found(model, parts):
    recipe = Recipe(1e-5, epochs=4, batch=20, learning_rate=0.05)
    return probe_layers(model, parts, recipe, 0, lambda line: None, draws=3)


def kept(masks, layer, component):
    """Return the hard mask that the table of masks tells."""
    table = next(m for m in masks if (m["layer"].iloc[0], m["component"].iloc[0]) == (layer, component))
    first, second = (part.set_index("column")["kept"].sort_index() for _, part in table.groupby("matrix", sort=False))
    return Mask(*(torch.tensor(part.to_numpy("float64")) for part in (first, second)))


def test_every_layers_circuit_is_ablated_in_its_own_layer(slow, table, found):
    rows = pd.DataFrame(found.ablations)
    for part in ("iid", "gen"):
        _, expected = plain(slow, rows_of(table, part), 0, "mlp", ones("mlp"))
        row = rows[(rows["condition"] == "vanilla") & (rows["part"] == part)].squeeze()
        assert row["accuracy"] == float((expected > 0).double().mean())
    sizes = set()
    for layer in LAYERS:
        for component in COMPONENTS:
            circuit = kept(found.masks, layer, component)
            _, expected = plain(slow, rows_of(table, "iid"), layer, component, Mask(*(1 - part for part in circuit)))
            key = (rows["layer"] == layer) & (rows["component"] == component) & (rows["part"] == "iid")
            row = rows[key & (rows["condition"] == "circuit")].squeeze()
            assert row["mean_logit_diff"] == pytest.approx(float(expected.mean()), abs=1e-10)
            assert sorted(rows[key & (rows["condition"] == "random")]["draw"]) == [0, 1, 2]
            run = next(r for r in found.runs if (r["layer"], r["component"]) == (layer, component))
            assert (run["kept_first"], run["kept_second"]) == tuple(int(part.sum()) for part in circuit)
            assert (run["n_first"], run["n_second"]) == WIDTHS[component] and (run["n_train"], run["n_test"]) == (40, 24)
            sizes.add(run["kept_weights"])
    assert len(found.runs) == 6 and len(sizes) > 3


@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_the_whole_and_of_the_ablated_model(slow, model, table, found):
    tokenizer = SimpleNamespace(decode=lambda ids: [f"w{i}" for i in ids])
    rows = pd.DataFrame(top_tokens(model, table, found, tokenizer, sentences=5, k=3))
    layer, component = strongest(found, "iid")
    scores = pd.DataFrame(found.ablations)
    scores = scores[(scores["condition"] == "circuit") & (scores["part"] == "iid")]
    best = scores[(scores["layer"] == layer) & (scores["component"] == component)]["accuracy"].squeeze()
    assert best == scores["accuracy"].min()
    circuit = kept(found.masks, layer, component)
    conditions = {"vanilla": ones(component), "circuit": Mask(*(1 - part for part in circuit))}
    assert len(rows) == 2 * 5 * 3 and set(rows["layer"]) == {layer} and set(rows["component"]) == {component}
    for (condition, row), part in rows.groupby(["condition", "row"]):
        sentence = rows_of(table, "iid").iloc[row]
        logits = scaled(slow, component, *conditions[condition], torch.tensor([sentence["tokens"]]), layer)[1][0, -1]
        values, ids = logits.topk(3)
        part = part.sort_values("rank")
        assert list(part["token_id"]) == ids.tolist() and list(part["token"]) == [f"w{i}" for i in ids.tolist()]
        assert list(part["logit"]) == pytest.approx(values.tolist(), abs=1e-10)
        assert set(part["text"]) == {sentence["text"]}


def test_prices_are_the_published_ones_by_width():
    assert {width: price_of(width) for width in (128, 768, 1024)} == {128: 1e-6, 768: 1e-7, 1024: 1e-8}
    assert price_of(64) == 1e-6 and price_of(1600) == 1e-8
