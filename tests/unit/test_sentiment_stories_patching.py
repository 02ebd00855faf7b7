"""Values patched at some positions, with patterns frozen or free, against transformers' own models with hooks, in float64.

Then the stories: one person's without the other, what is patched, what the tables and pictures say.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment import stories
from recircuit.experiments.sentiment.setting import Setting
from recircuit.figures.sentiment import stories as pictures
from recircuit.figures.style import plt
from recircuit.methods.direction_hooks import PromptPairs
from recircuit.methods.value_patching import ValuePatch, position_paths, value_patching
from recircuit.study.tables import write_table
from recircuit.tasks.corpus import vocabulary
from recircuit.tasks.sentiment_stories import story_tables
from sentiment_oracle import family_fixture, frozen

N, LENGTH, LAYERS, HEADS = 10, 9, 3, 4
COMMAS = (3, 6)  # tokens that both runs share


family = family_fixture("gpt2", "neox")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return frozen(oracle.random_gpt2(layers=1), tmp_path_factory.mktemp("one"))


def pairs_of(n=N, seed=0):
    """Prompts whose tokens differ before the last two, but for those at COMMAS."""
    rng = torch.Generator().manual_seed(seed)
    clean, corrupted = (torch.randint(50, (n, LENGTH), generator=rng) for _ in range(2))
    for same in (*COMMAS, LENGTH - 2, LENGTH - 1):
        corrupted[:, same] = clean[:, same]
    answers = torch.stack([torch.randperm(50, generator=rng)[:4] for _ in range(n)]).view(n, 2, 2)
    return PromptPairs(clean, corrupted, torch.full((n,), LENGTH - 1), answers)


def differences(logits, pairs):
    """Return the mean over answer pairs of correct less incorrect, at the end."""
    rows = []
    for row, end, own in zip(logits, pairs.end.tolist(), pairs.answers.tolist(), strict=True):
        rows.append(sum(row[end, good] - row[end, bad] for good, bad in own) / len(own))
    return torch.stack(rows)


def projections(theirs):
    """Return the module that computes queries, keys and values of each layer, and the one that reads z."""
    if hasattr(theirs, "transformer"):
        return [(block.attn.c_attn, block.attn.c_proj) for block in theirs.transformer.h]
    return [(layer.attention.query_key_value, layer.attention.dense) for layer in theirs.gpt_neox.layers]


def split(theirs, out):
    """Return views of q, k, v [n T H e] in what such a module gives: side by side in GPT-2, head by head in NeoX."""
    if hasattr(theirs, "transformer"):
        return [part.unflatten(-1, (HEADS, -1)) for part in out.split(out.shape[-1] // 3, -1)]
    return list(out.unflatten(-1, (HEADS, -1)).chunk(3, -1))


def run(theirs, tokens, edit=None, edit_z=None):
    """Return logits, and (q, k, v) and z of every layer; ``edit(layer, q, k, v)`` and ``edit_z(layer, z)`` change them."""
    kept, zs, handles = [], [], []
    for layer, (module, reader) in enumerate(projections(theirs)):

        def hook(module, args, out, layer=layer):
            out = out.clone()
            parts = split(theirs, out)
            if edit:
                edit(layer, *parts)
            kept.append([part.clone() for part in parts])
            return out

        def before(module, args, layer=layer):
            z = args[0].clone().unflatten(-1, (HEADS, -1))
            if edit_z:
                edit_z(layer, z)
            zs.append(z)
            return (z.flatten(-2),)

        handles += [module.register_forward_hook(hook), reader.register_forward_pre_hook(before)]
    logits = theirs(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, kept, zs


def patched(theirs, pairs, patch):
    """The literal definition: hooks that overwrite values, and queries and keys where patterns are frozen."""
    _, clean, _ = run(theirs, pairs.clean)
    _, corrupted, _ = run(theirs, pairs.corrupted)

    def edit(layer, q, k, v):
        if patch.frozen:
            q.copy_(clean[layer][0])
            k.copy_(clean[layer][1])
        for position in patch.positions:
            if patch.layers is None or layer in patch.layers:
                v[:, position] = corrupted[layer][2][:, position]
        for position in patch.held:
            v[:, position] = clean[layer][2][:, position]

    return differences(run(theirs, pairs.clean, edit)[0], pairs)


PATCHES = {
    "free": ValuePatch((1, 2, 3, 4, 5, 6), frozen=False),
    "frozen": ValuePatch(COMMAS),
    "held": ValuePatch((1, 2, 4, 5), held=COMMAS),
    "held, one layer": ValuePatch((1, 2, 4, 5), held=COMMAS, layers=range(1, 2)),
    "held, free": ValuePatch((1, 4), held=COMMAS, frozen=False),
    "everywhere": ValuePatch(range(LENGTH)),
}


def test_values_are_patched_as_hooks_do(family):
    theirs, model = family
    pairs = pairs_of()
    found = value_patching(model, pairs, list(PATCHES.values()), chunk=8)
    assert (found.clean - differences(theirs(pairs.clean).logits, pairs)).abs().max() < 1e-10
    assert (found.corrupted - differences(theirs(pairs.corrupted).logits, pairs)).abs().max() < 1e-10
    for row, (name, patch) in zip(found.patched, PATCHES.items(), strict=True):
        assert (row - patched(theirs, pairs, patch)).abs().max() < 1e-10, name
        assert (row - found.clean).abs().max() > 1e-3, name
    assert len({round(float(row.mean()), 6) for row in found.patched}) == len(PATCHES)


def test_what_cannot_change_the_answer_does_not(family):
    _, model = family
    pairs = pairs_of()
    same = PromptPairs(pairs.clean, pairs.clean, pairs.end, pairs.answers)
    ended = LENGTH - 1  # what stands there is read by itself alone, and is the same in both runs up to layer 0
    nothing = [
        ValuePatch(()),
        ValuePatch((), held=range(LENGTH)),
        ValuePatch((1, 4), layers=range(0)),
        ValuePatch(COMMAS, layers=range(1)),  # the stream that enters layer 0 at a comma is the same in both runs
        ValuePatch((ended,), layers=range(1), frozen=False),
    ]
    found = value_patching(model, pairs, nothing, chunk=16)
    assert (found.patched - found.clean).abs().max() < 1e-12
    again = value_patching(model, same, list(PATCHES.values()), chunk=16)
    assert (again.patched - again.clean).abs().max() < 1e-12


def test_values_of_the_whole_corrupted_run_leave_only_the_last_token_s_own_stream(gpt2):
    """One layer, all values patched, patterns free: the attention output is the clean pattern's mean of the other values."""
    theirs, model = gpt2
    pairs = pairs_of()
    block = theirs.transformer.h[0]

    def entering(tokens):
        return theirs.transformer.wte(tokens) + theirs.transformer.wpe(torch.arange(LENGTH))

    width = theirs.config.n_embd
    clean, corrupted = entering(pairs.clean), entering(pairs.corrupted)
    q, k, _ = block.attn.c_attn(block.ln_1(clean)).split(width, -1)
    v = block.attn.c_attn(block.ln_1(corrupted)).split(width, -1)[2]
    q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in (q, k, v))
    scores = torch.einsum("nhe,nkhe->nhk", q[:, -1], k) / (width // HEADS) ** 0.5  # the last token sees all
    z = torch.einsum("nhk,nkhe->nhe", scores.softmax(-1), v)
    mid = clean[:, -1] + block.attn.c_proj(z.flatten(1))
    final = theirs.transformer.ln_f(mid + block.mlp(block.ln_2(mid)))
    expected = differences((final @ theirs.lm_head.weight.T)[:, None].expand(-1, LENGTH, -1), pairs)
    found = value_patching(model, pairs, [ValuePatch(range(LENGTH), frozen=False), ValuePatch(range(LENGTH))], chunk=16)
    assert (found.patched - expected).abs().max() < 1e-10


def test_a_position_is_patched_or_held():
    pairs = pairs_of()
    with pytest.raises(ValueError, match="position 4"):
        value_patching(None, pairs, [ValuePatch((1, 4), held=(4, 6))], chunk=8)


def test_chunks_change_nothing(family):
    _, model = family
    pairs = pairs_of(n=21)
    whole, parts = (value_patching(model, pairs, list(PATCHES.values()), chunk).patched for chunk in (64, 8))
    assert (whole - parts).abs().max() < 1e-12
    for kind in ("reads", "writes"):
        whole, parts = (position_paths(model, pairs, COMMAS, kind, chunk) for chunk in (1000, 8))
        assert (whole - parts).abs().max() < 1e-12


def test_a_head_that_reads_the_corrupted_commas_is_path_patched(family):
    """Senders: the stream at the commas; receiver: one head's values. Three runs with hooks, all positions, free patterns."""
    theirs, model = family
    pairs = pairs_of()
    zs = run(theirs, pairs.corrupted)[2]

    def senders(layer, z):
        z[:, list(COMMAS)] = zs[layer][:, list(COMMAS)]

    # Second step: what all heads write at the commas is the corrupted run's; every head's other writes stay clean.
    clean = run(theirs, pairs.clean)

    def frozen(layer, z):
        z.copy_(clean[2][layer])
        senders(layer, z)

    received = run(theirs, pairs.clean, edit_z=frozen)[1]
    found = position_paths(model, pairs, COMMAS, "reads", chunk=64)
    for layer in range(LAYERS):
        for head in range(HEADS):

            def third(here, q, k, v, layer=layer, head=head):
                if here == layer:
                    v[:, :, head] = received[layer][2][:, :, head]

            expected = differences(run(theirs, pairs.clean, third)[0], pairs)
            assert (found[layer, head] - expected).abs().max() < 1e-10
    assert (found[0] - differences(clean[0], pairs)).abs().max() < 1e-12  # commas enter layer 0 as in the clean run
    assert (found[1:] - differences(clean[0], pairs)).abs().amax(-1).min() > 1e-6


def test_a_head_that_writes_at_the_commas_as_in_the_corrupted_run(family):
    theirs, model = family
    pairs = pairs_of()
    zs = run(theirs, pairs.corrupted)[2]
    found = position_paths(model, pairs, COMMAS, "writes", chunk=64)
    for layer in range(LAYERS):
        for head in range(HEADS):

            def edit(here, z, layer=layer, head=head):
                if here == layer:
                    z[:, list(COMMAS), head] = zs[layer][:, list(COMMAS), head]

            expected = differences(run(theirs, pairs.clean, edit_z=edit)[0], pairs)
            assert (found[layer, head] - expected).abs().max() < 1e-10
    plain = differences(theirs(pairs.clean).logits, pairs)
    assert (found[-1] - plain).abs().max() < 1e-12  # nothing reads what the last layer writes at a comma
    assert (found[0] - plain).abs().amax(-1).min() > 1e-6


# ---- stories --------------------------------------------------------------------------------------------------------

TEXT = "{0} {1} parties, and {2} them whenever possible. One day, they were invited to a grand gala. {0} feels very"
VERBS = {"loves": "joins", "hates": "avoids"}
SETS = {"full_phrase": (1, 2, 3, 4, 10, 11, 12, 13, 14, 20), "pre_comma": (1, 2, 3, 11, 12, 13),
        "commas_and_periods": (4, 10, 14, 20), "commas": (4, 14)}  # fmt: skip
ALONE = {"full_phrase": (1, 2, 3, 4, 10), "pre_comma": (1, 2, 3), "commas_and_periods": (4, 10), "commas": (4,)}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(tokenizer, transformers' model, setting) with the stories of the embedded models' vocabulary."""
    tokenizer = Tokenizer(word_level(list(vocabulary())), "pocket")
    theirs = oracle.random_gpt2(vocab=tokenizer.inner.get_vocab_size(), positions=64, heads=HEADS).requires_grad_(
        requires_grad=False
    )
    model = load(oracle.save(theirs, tmp_path_factory.mktemp("stories")), dtype=torch.float64)
    prompts, positions = story_tables(tokenizer, lambda line: None, n_long=3, lengths=(0, 10))
    return tokenizer, theirs, Setting(model, prompts, positions, 64)


def test_the_other_person_s_sentence_is_left_out(told):
    tokenizer, _, setting = told
    toy = setting.toy("stories", "notebook")
    alone = stories.one_person(toy, "notebook", "paper")
    for row, (tokens, first) in enumerate(zip(alone.pairs.clean, alone.first, strict=True)):
        name = toy.rows["text"][row].split()[0 if first else 8]
        verb = toy.rows["word_vrb"][row]
        assert tokens.tolist() == [tokenizer.bos, *tokenizer.encode(TEXT.format(name, verb, VERBS[verb]))]
        assert bool(alone.positive[row]) == (verb == "loves")
        other = "hates" if verb == "loves" else "loves"
        expected = [tokenizer.bos, *tokenizer.encode(TEXT.format(name, other, VERBS[other]))]
        assert alone.pairs.corrupted[row].tolist() == expected
    assert alone.pairs.end.tolist() == [24] * 16 and alone.sets == ALONE
    assert (alone.places["Q"], alone.places["END"], alone.places["COMMA3"], alone.places["PERIOD3"]) == (22, 24, 13, 21)
    assert alone.first.tolist() == [True, True, False, False] * 4


def test_sets_and_layers_are_the_published_ones(told):
    toy = told[2].toy("stories", "notebook")
    both = stories.two_people(toy, "notebook", "paper")
    assert both.sets == SETS and both.first.tolist() == [True, True, False, False] * 4
    assert stories.middle(32) == range(9, 15) and stories.middle(4) == range(1, 2) and stories.middle(12) == range(3, 6)
    found = stories.conditions(both, 32)
    assert {layers for _, layers in found} == {"all", "9-14"} and len(found) == 8
    assert found["full_phrase", "all"] == ValuePatch(SETS["full_phrase"], (), None, False)
    assert found["pre_comma", "9-14"] == ValuePatch(SETS["pre_comma"], (4, 10, 14, 20), range(9, 15), True)
    assert found["commas_and_periods", "all"] == ValuePatch((4, 10, 14, 20))
    assert found["commas", "9-14"] == ValuePatch((4, 14), (), range(9, 15))


def test_sentences_of_two_lengths_cannot_be_left_out(told):
    toy = told[2].toy("stories", "notebook")
    moved = {name: place + 1 if name == "PERIOD2" else place for name, place in toy.positions.items()}
    with pytest.raises(UserError, match="not of one length"):
        stories.one_person(type(toy)(**{**vars(toy), "positions": moved}), "notebook", "paper")


def test_a_task_that_is_not_solved_is_said_so(told):
    lines = []
    found = stories.mood(told[2], lines.append)
    assert set(found["condition"]) == {"task not solved"}  # random weights
    assert (found["ld_patched"] == found["ld_clean"]).all() and (found["relative"] == 0).all()
    assert all("task not solved" in line for line in lines) and len(lines) == 2 * (2 + 8)
    summary = stories.summary(found, 0, 50)
    assert summary["relative"].isna().all() and stories.ratios(summary).empty
    assert stories.paths(told[2], found).empty


def test_a_logit_difference_of_nothing_is_no_share(told, monkeypatch):
    """A model that never saw the answers may give both the same logit to the last bit."""

    def patching(model, pairs, patches, chunk):
        return SimpleNamespace(clean=torch.zeros(len(pairs)), patched=[])

    monkeypatch.setattr(stories, "value_patching", patching)
    found = stories.mood(told[2], lambda line: None)
    assert len(found) and (found["ld_clean"] == 0).all() and (found["relative"] == 0).all()
    assert stories.summary(found, 0, 50)["relative"].isna().all()


@pytest.fixture(scope="module")
def mood(told):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stories, "SOLVED", -1.0)
        return stories.mood(told[2], lambda line: None)


def test_rows_are_those_of_the_stories_patched_with_hooks(told, mood):
    _, theirs, setting = told
    toy = setting.toy("stories", "names")
    for make in (stories.two_people, stories.one_person):
        one = make(toy, "names", "paper")
        rows = mood.query("split == 'names' and variant == 'paper' and people == @one.people")
        assert rows["n_irrelevant"].eq(0).all()
        for (condition, layers), patch in stories.conditions(one, LAYERS).items():
            own = rows[(rows["condition"] == condition) & (rows["layer_range"] == layers)].sort_values("prompt_id")
            assert np.abs(own["ld_patched"] - patched(theirs, one.pairs, patch).numpy()).max() < 1e-10
            clean = differences(theirs(one.pairs.clean).logits, one.pairs).numpy()
            assert np.abs(own["ld_clean"] - clean).max() < 1e-10
            assert own["relative"].mean() == pytest.approx(own["ld_patched"].mean() / clean.mean() - 1)
        assert own["label"].tolist() == [1, 0, 0, 1] * 3
        assert own["query"].tolist() == ["first", "first", "second", "second"] * 3
    longer = mood.query("variant == 'k10_t2' and people == 2")
    assert (longer["n_irrelevant"] == 10).all() and "full_phrase" not in set(longer["condition"])


def test_summaries_and_ratios_by_hand(mood, tmp_path):
    summary = stories.summary(mood, 0, 300)
    key = "people == 1 and split == 'notebook' and variant == 'paper' and layer_range == 'all'"
    own = mood.query(f"{key} and condition == 'commas' and query == 'second'")
    row = summary.query(f"{key} and condition == 'commas' and subset == 'second'").iloc[0]
    assert (row["n"], row["ld_patched"]) == (8, pytest.approx(own["ld_patched"].mean()))
    assert row["relative"] == pytest.approx(own["ld_patched"].sum() / own["ld_clean"].sum() - 1)
    assert row["ci_lo"] <= row["relative"] <= row["ci_hi"] and row["accuracy"] == (own["ld_clean"] > 0).mean()
    ratios = stories.ratios(summary)
    texts = summary.query("people == 2 and n_irrelevant == 10 and layer_range == 'all' and subset == 'all'")
    clean = texts.groupby("variant")["ld_clean"].first()
    wide = texts.pivot(index="variant", columns="condition", values="ld_patched").sub(clean, axis=0)
    expected = wide["commas"] / wide["pre_comma"]
    row = ratios.query("people == 2 and layer_range == 'all' and numerator == 'commas' and k == 10").iloc[0]
    assert (row["n_texts"], row["mean"], row["sd"]) == (8, pytest.approx(expected.mean()), pytest.approx(expected.std(ddof=1)))
    assert set(ratios["k"]) == {0, 10} and ratios.query("k == 0")["sd"].isna().all()
    for name, table in (("se_mood", mood), ("se_mood_summary", summary), ("se_mood_ratios", ratios)):
        write_table(table.assign(model="pocket"), tmp_path / f"{name}.parquet", name, {})


def test_paths_are_relative_changes_of_the_notebook_s_stories(told, mood, tmp_path):
    found = stories.paths(told[2], mood)
    one = stories.two_people(told[2].toy("stories", "notebook"), "notebook", "paper")
    clean = value_patching(told[2].model, one.pairs, [], 64).clean.mean()
    expected = position_paths(told[2].model, one.pairs, (4, 14), "reads", 64)[2, 1].mean() / clean - 1
    row = found.query("people == 2 and kind == 'reads' and layer == 2 and head == 1")
    assert row["value"].item() == pytest.approx(float(expected)) and len(found) == 2 * 2 * LAYERS * HEADS
    write_table(found.assign(model="pocket"), tmp_path / "paths.parquet", "se_mood_paths", {})
    nothing = stories.paths(told[2], mood.assign(condition="task not solved"))
    write_table(nothing.assign(model="pocket"), tmp_path / "none.parquet", "se_mood_paths", {})


def test_attention_is_the_mean_of_heads_and_prompts(told, tmp_path):
    tokenizer, theirs, setting = told
    found = stories.attention(setting, tokenizer)
    toy = setting.toy("stories", "notebook")
    patterns = theirs(toy.tokens, output_attentions=True).attentions[1].mean((0, 1))  # [T T]
    own = found.query("people == 2 and layer == 1").sort_values("k")
    for query, place in (("END", 34), ("Q", 32)):
        rows = own[own["query"] == query]
        assert np.abs(rows["prob"].to_numpy() - patterns[place, : place + 1].numpy()).max() < 1e-10
        assert rows["prob"].sum() == pytest.approx(1)
    assert rows["token"].tolist()[:5] == ["", "John", "loves", "parties", ","] and rows["name"].tolist()[4] == "COMMA1"
    write_table(found.assign(model="pocket"), tmp_path / "attention.parquet", "se_mood_attention", {})


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


def texts_of(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_table_says_where_the_task_is_not_solved(told, mood):
    unsolved = stories.summary(stories.mood(told[2], lambda line: None).query("people == 2"), 0, 50)
    summary = pd.concat([unsolved, stories.summary(mood.query("people == 1"), 0, 50)], ignore_index=True)
    figure = pictures.changes(summary, "t")
    texts = texts_of(figure)
    assert texts.count("task not solved") == 2 and "commas" in [label.get_text() for label in figure.axes[0].get_xticklabels()]
    row = summary.query("people == 1 and split == 'names' and subset == 'all' and layer_range == 'all'").set_index("condition")
    assert pictures.interval(row.loc["pre_comma"]) in texts
    assert pictures.solved_people(summary) == 1 and pictures.solved_people(unsolved) == 2
    both = stories.summary(mood, 0, 50)
    assert pictures.solved_people(both) == 2
    texts = texts_of(pictures.ratios(stories.ratios(summary), summary, "t"))
    assert texts.count("task not solved") == 1


def test_changes_are_red_where_they_lower_the_logit_difference(mood):
    summary = stories.summary(mood, 0, 50)
    lowered = summary.assign(relative=np.where(summary["condition"] == "commas", -0.8, 0.8))
    cells = pictures.changes(lowered, "t").axes[0].collections[0].get_array()
    red, blue = cells[0, -1], cells[0, -2]
    assert red[0] > 0.6 > red[2] and blue[2] > 0.6 > blue[0]


def test_a_ratio_of_nothing_is_not_shown():
    row = {"signs": -0.2, "phrase": -0.4, "mean": 0.5, "sd": 0.1, "n_texts": 8}
    assert pictures._ratio(pd.Series(row)).startswith("0.50 ± 0.10, 8 texts")
    assert pictures._ratio(pd.Series(row | {"phrase": 0.009})).startswith("no effect")
    assert pictures._ratio(pd.Series(row | {"phrase": np.nan})) == "task not solved"


def test_heads_without_a_solved_task_are_no_map(told, mood):
    none = stories.paths(told[2], mood.assign(condition="task not solved"))
    assert "task not solved" in texts_of(pictures.head_maps(none, "t"))[0]
    figure = pictures.head_maps(stories.paths(told[2], mood), "t")
    maps = [image for axes in figure.axes for image in axes.images if image.get_array().shape == (LAYERS, HEADS)]
    assert len(maps) == 4
    for low, high in (image.get_clim() for image in maps):
        assert high >= 1 and low == -high
