"""Directional patching's tables against transformers' GPT-2 with a hook on whole prompts; intervals, layers and chance."""

import numpy as np
import pandas as pd
import pytest
import torch

import sentiment_patching
from recircuit.core.stats import stream
from recircuit.experiments.sentiment import patching, patching_summary
from recircuit.experiments.sentiment.patching_plans import SCALES, Entry, random_null, shuffled_null
from recircuit.methods.direction_hooks import Patch, logit_flip
from recircuit.methods.directions import shuffled_labels
from recircuit.study import tables as study_tables
from recircuit.tasks import sst
from sentiment_patching import DRAWS, LAYERS, SEED, WIDTH, rows_of

world = sentiment_patching.world


# ---- a slow, independent route --------------------------------------------------------------------------------------


def entering(theirs, layer):
    """Return the module whose input is the stream entering a layer, or the final stream."""
    return [*theirs.transformer.h, theirs.transformer.ln_f][layer]


def run_all(theirs, tokens, right, wrong, layer=0, change=None):
    """Return the logit differences [n] of whole prompts of one length and the stream entering a layer, changed on the way."""
    kept = []

    def hook(module, args):
        kept.append(args[0])
        return None if change is None else (args[0] + change, *args[1:])

    handle = entering(theirs, layer).register_forward_pre_hook(hook)
    logits = theirs(torch.tensor(tokens)).logits[:, -1]
    handle.remove()
    answers = zip(logits, right, wrong, strict=True)
    return [
        float(sum(row[a] - row[b] for a, b in zip(good, bad, strict=True)) / len(good)) for row, good, bad in answers
    ], kept[0]


def literal(theirs, prompts, layer, change_of):
    """Return logit differences [3 n] (clean, corrupted, patched) of prompts (clean, corrupted, right, wrong).

    ``change_of`` gives what is added to the corrupted stream from the difference between clean and corrupted.
    """
    found = np.zeros((3, len(prompts)))
    lengths = np.array([len(prompt[0]) for prompt in prompts])
    for length in set(lengths):
        rows = np.flatnonzero(lengths == length)
        clean, corrupted, right, wrong = zip(*(prompts[i] for i in rows), strict=True)
        found[0, rows], x = run_all(theirs, clean, right, wrong, layer)
        found[1, rows], y = run_all(theirs, corrupted, right, wrong, layer)
        found[2, rows], _ = run_all(theirs, corrupted, right, wrong, layer, change_of(x - y))
    return found


def projector(vectors):
    """Return sum d d' of the given unit vectors."""
    vectors = [np.array(v, dtype=np.float64) for v in vectors]
    return torch.tensor(sum(np.outer(v, v) / (v @ v) for v in vectors))


def vectors_of(world, method, layer, name="movie", variant="paper", seed=None):
    rows = world.fitted.query("method == @method and layer == @layer and set == @name and variant == @variant")
    rows = rows[rows["seed"] == (rows["seed"].min() if seed is None else seed)]
    return rows.sort_values("component")["vector"].tolist()


def toy_prompts(world, name, split, variant="paper"):
    rows = world.setting.toy(name, split, variant).rows
    n = len(rows)
    tokens = [list(map(int, t)) for t in rows["tokens"]]
    return [(tokens[i], tokens[(i + 1) % n], rows["right"][i], rows["wrong"][i]) for i in range(n)], rows[
        "label"
    ].to_numpy() == 1


def flips(differences, positive, centre):
    """Return the share of prompts that come out right, by a loop."""
    signs = [1 if p else -1 for p in positive]
    bias = sum(s * v for s, v in zip(signs, differences, strict=True)) / len(signs) if centre else 0.0
    return sum(v - s * bias > 0 for s, v in zip(signs, differences, strict=True)) / len(signs)


def check(found, literal_lds, positive):
    """Compare the three rows of a patch (one per metric) with logit differences got by hooks."""
    clean, corrupted, patched = literal_lds
    scores = {
        "logit_diff": [float(np.mean(part)) for part in (clean, corrupted, patched)],
        "logit_flip": [flips(part, positive, True) for part in (clean, corrupted, patched)],
        "logit_flip_uncentred": [flips(part, positive, False) for part in (clean, corrupted, patched)],
    }
    assert sorted(found["metric"]) == sorted(scores)
    for row in found.itertuples():
        good, bad, ours = scores[row.metric]
        assert (row.clean, row.corrupted, row.patched) == pytest.approx((good, bad, ours), abs=1e-10)
        assert row.n == len(clean)
        if good == bad:
            assert np.isnan(row.value)
        else:
            assert row.value == pytest.approx(100 * (ours - bad) / (good - bad), rel=1e-10, abs=1e-8)


# ---- tables against hooks -------------------------------------------------------------------------------------------


def test_own_layers_complements_other_layers_seeds_and_doses_are_hooks_on_whole_runs(world):
    prompts, positive = toy_prompts(world, "movie", "test")
    whole = torch.eye(WIDTH, dtype=torch.float64)
    dosed = sorted(world.se_patching.loc[world.se_patching["scale"] != 1, "layer"].unique())
    cases = [(m, l, l, {}, 1.0) for m, l in (("das", 0), ("das2d", 1), ("kmeans", 3), ("random", 2), ("mean_diff", 1))]
    cases += [("das2d", 2, 2, {"projection": "complement"}, 1.0), ("kmeans", 1, 1, {"projection": "complement"}, 1.0)]
    cases += [("das", 2, 0, {}, 1.0), ("kmeans", 0, 3, {}, 1.0), ("das", 1, 1, {"draw": 1}, 1.0)]
    cases += [("mean_diff", 2, 2, {"variant": "full"}, 1.0)]
    cases += [("kmeans", dosed[0], dosed[0], {"scale": s}, s) for s in (-1.0, 0.25, 2.0)]
    for method, layer, source, facts, dose in cases:
        vectors = vectors_of(world, method, source, variant=facts.get("variant", "paper"), seed=facts.get("draw"))
        p = projector(vectors)
        p = whole - p if "projection" in facts else dose * p
        found = rows_of(world, eval_set="movie", split="test", method=method, layer=layer, from_layer=source, **facts)
        check(found, literal(world.theirs, prompts, layer, lambda delta, p=p: delta @ p), positive)
        assert (found["d_das"] == len(vectors)).all()


def test_the_share_is_that_of_the_squared_difference_between_the_streams(world):
    prompts, _ = toy_prompts(world, "movie", "test")
    clean, corrupted, right, wrong = zip(*prompts, strict=True)
    for method, layer in (("das2d", 1), ("kmeans", 3)):
        x, y = (run_all(world.theirs, tokens, right, wrong, layer)[1] for tokens in (clean, corrupted))
        inside, total = ((x - y) @ projector(vectors_of(world, method, layer))).square().sum(), (x - y).square().sum()
        found = rows_of(world, eval_set="movie", split="test", method=method, layer=layer)
        assert found["share"].tolist() == pytest.approx([float(inside / total)] * 3, rel=1e-9)


@pytest.mark.parametrize("method", ["mean_diff", "das"])
def test_directions_of_other_sets_and_their_parts_along_and_across(world, method):
    prompts, positive = toy_prompts(world, "adverb", "all")
    layer = 1
    own = np.array(vectors_of(world, method, layer, "adverb")[0], dtype=np.float64)
    own /= np.linalg.norm(own)
    for name, variant in (("movie", "paper"), ("book", "full")):
        vector = np.array(vectors_of(world, method, layer, name, variant)[0], dtype=np.float64)
        vector /= np.linalg.norm(vector)
        along = own * (own @ vector)
        for projection, part in (("none", vector), ("para", along), ("ortho", vector - along)):
            p = torch.tensor(np.outer(part, part))
            facts = {"eval_set": "adverb", "split": "all", "set": name, "variant": variant, "projection": projection}
            found = rows_of(world, method=method, layer=layer, **facts)
            check(found, literal(world.theirs, prompts, layer, lambda delta, p=p: delta @ p), positive)
    diagonal = {"eval_set": "adverb", "split": "all", "set": "adverb", "method": method, "layer": layer}
    value = {p: rows_of(world, **diagonal, projection=p).set_index("metric")["value"] for p in ("none", "para", "ortho")}
    assert abs(value["ortho"]["logit_diff"]) < 1e-9
    assert value["para"]["logit_diff"] == pytest.approx(value["none"]["logit_diff"], rel=1e-9)


def test_null_directions_are_patched_as_they_are_drawn(world):
    setting, (prompts, positive) = world.setting, toy_prompts(world, "movie", "test")
    toy, layer = setting.toy("movie", "train"), 2
    place = int(toy.positions["ADJ"][0])
    tokens = toy.tokens.tolist()
    x = run_all(world.theirs, tokens, [[0]] * len(tokens), [[1]] * len(tokens), layer)[1][:, place]
    for draw, labels in enumerate(shuffled_labels(toy.positive, DRAWS, SEED)):
        assert int(labels.sum()) == int(toy.positive.sum())
        p = projector([(x[labels].mean(0) - x[~labels].mean(0)).numpy()])
        found = rows_of(world, eval_set="movie", split="test", method="shuffled", layer=layer, draw=draw)
        check(found, literal(world.theirs, prompts, layer, lambda delta, p=p: delta @ p), positive)
        assert found["ci_lo"].isna().all()
    frames = {layer: [patch.frame for _, patch in es] for layer, es in random_null(LAYERS, WIDTH, DRAWS, SEED).items()}
    p = frames[layer][1] @ frames[layer][1].T
    found = rows_of(world, eval_set="movie", split="test", method="random", layer=layer, draw=1)
    check(found, literal(world.theirs, prompts, layer, lambda delta: delta @ p), positive)
    drawn = torch.cat([frame.T for part in frames.values() for frame in part])
    assert (drawn @ drawn.T - torch.eye(len(drawn), dtype=torch.float64)).abs().max() < 0.99  # no two are the same
    assert len(shuffled_null(setting, DRAWS, SEED)) == len(frames) == LAYERS + 1


def review_prompts(rows):
    tokens = [list(map(int, t)) for t in rows["tokens"]]
    prompts = [(tokens[i], tokens[i ^ 1], [int(rows["right"][i])], [int(rows["wrong"][i])]) for i in range(len(rows))]
    return prompts, rows["label"].to_numpy() == 1


@pytest.mark.parametrize("scaffold", ["continuation", "classification"])
def test_reviews_are_patched_from_the_other_one_of_their_pair(world, scaffold):
    rows = sst.paired(world.reviews.query("scaffold == @scaffold and split == 'test'"))
    assert rows["n_tokens"].nunique() > 1
    prompts, positive = review_prompts(rows)
    for method, layer in (("das2d", 1), ("mean_diff", 3)):
        p = projector(vectors_of(world, method, layer))
        lds = literal(world.theirs, prompts, layer, lambda delta, p=p: delta @ p)
        facts = {"eval_set": "reviews", "scaffold": scaffold, "split": "test", "method": method, "layer": layer}
        check(rows_of(world, **facts), lds, positive)
        clear = rows.groupby("pair")["strict"].transform("all").to_numpy()
        assert 0 < clear.sum() < len(rows)
        check(rows_of(world, **facts, variant="strict"), lds[:, clear], positive[clear])
        table = world.se_patching_prompts.query(
            "eval_set == 'reviews' and scaffold == @scaffold and split == 'test' and variant == 'paper'"
        )
        table = table.query("method == @method and layer == @layer").set_index("prompt_id").loc[rows["sentence_index"]]
        found = table[["ld_clean", "ld_corrupted", "ld_patched"]].to_numpy().T
        assert np.abs(found - lds).max() < 1e-9
        assert (table["label"] == rows["label"].to_numpy()).all()


def test_the_filter_keeps_what_is_classified_rightly_and_pairs_it_anew(world):
    rows = world.reviews.query("scaffold == 'classification' and split == 'test'").reset_index(drop=True)
    kept = [run_all(world.theirs, [list(r.tokens)], [[r.right]], [[r.wrong]])[0][0] > 0 for r in rows.itertuples()]
    assert 0 < sum(kept) < len(kept)
    right = patching.zero_shot(world.setting.model, rows, 8)
    assert sorted(right["sentence_index"]) == sorted(rows.loc[kept, "sentence_index"])
    pairs = sst.paired(right)
    for _, pair in pairs.groupby("pair"):
        assert pair["label"].tolist() == [1, 0] and pair["n_tokens"].nunique() == 1
    if len(pairs):
        prompts, positive = review_prompts(pairs)
        p = projector(vectors_of(world, "das", 0))
        facts = {"eval_set": "reviews", "scaffold": "classification", "split": "test", "variant": "filtered"}
        check(
            rows_of(world, **facts, method="das", layer=0),
            literal(world.theirs, prompts, 0, lambda delta: delta @ p),
            positive,
        )


def test_fewer_pairs_are_spread_over_all_lengths(world):
    rows = world.reviews.query("scaffold == 'continuation' and split == 'test'")
    every, some = sst.paired(rows), patching.some_pairs(rows, 4)
    assert patching.some_pairs(rows, None).equals(every) and patching.some_pairs(rows, 99).equals(every)
    assert some["pair"].nunique() == 4 and len(some) == 8
    assert some["n_tokens"].min() == every["n_tokens"].min() and some["n_tokens"].max() == every["n_tokens"].max()
    assert some.groupby("pair")["label"].apply(list).tolist() == [[1, 0]] * 4


# ---- invariants -----------------------------------------------------------------------------------------------------


def test_everything_gives_all_back_and_nothing_none(world):
    batches = patching.toy_batches(world.setting.toy("movie", "test"))
    plan = {
        layer: [(Entry("paper", "das", WIDTH, "movie", layer), Patch(torch.eye(WIDTH, dtype=torch.float64))),
                (Entry("paper", "kmeans", 1, "movie", layer), Patch(torch.eye(WIDTH, dtype=torch.float64)[:, :1], 0.0))]
        for layer in range(LAYERS + 1)
    }  # fmt: skip
    outcome = patching.run(world.setting.model, batches, plan, 24)
    tested = patching.Tested("movie", "toy", "test", None, plan, outcome)
    found = patching_summary.patching_table(tested, 0, 100).dropna(subset="value").set_index("method")
    assert np.abs(found.loc["das", "value"] - 100).max() < 1e-8 and np.abs(found.loc["kmeans", "value"]).max() < 1e-8
    assert np.abs(found.loc["das", "share"] - 1).max() < 1e-12


def test_turning_the_list_of_prompts_changes_no_mean(world):
    (batch,) = patching.toy_batches(world.setting.toy("movie", "test"))
    plan = {2: [(Entry("paper", "das", 1, "movie", 2), Patch(torch.eye(WIDTH, dtype=torch.float64)[:, :1]))]}
    order = np.roll(np.arange(len(batch.positive)), 4)
    turned = patching.Batch(batch.pairs.rows(torch.from_numpy(order)), *(part[order] for part in batch[1:]))
    values = [
        patching_summary.patching_table(
            patching.Tested("movie", "toy", "test", None, plan, patching.run(world.setting.model, [some], plan, 24)), 0, 100
        )
        for some in (batch, turned)
    ]
    columns = ["value", "clean", "corrupted", "patched", "share"]
    assert np.abs(values[0][columns].to_numpy() - values[1][columns].to_numpy())[:1].max() < 1e-9
    corrupted, clean = values[0]["corrupted"].iloc[0], values[0]["clean"].iloc[0]
    assert corrupted == pytest.approx(-clean, abs=1e-9)  # corrupted prompts are the clean ones in another order


def test_the_tables_fit_their_schemas(world, tmp_path):
    for name in ("se_patching", "se_patching_prompts", "se_patching_best", "se_patching_null"):
        study_tables.write_table(getattr(world, name).assign(model="m"), tmp_path / f"{name}.parquet", name, {})
        assert len(study_tables.read_table(tmp_path / f"{name}.parquet", name)) == len(getattr(world, name)) > 0
    dosed = world.se_patching.query("scale != 1")
    assert set(dosed["scale"]) == set(SCALES) - {1.0} and dosed["layer"].nunique() in (1, 2)
    assert set(world.se_patching["eval_set"]) == {"movie", "adverb", "book", "reviews"}


# ---- intervals, layers, chance --------------------------------------------------------------------------------------


def outcome_of(patched, clean, corrupted, unit, positive):
    parts = (np.array(part) for part in (positive, unit, range(len(clean)), clean, corrupted))
    return patching.Outcome(*parts, {0: np.array(patched, dtype=float)}, {0: np.ones(len(patched))})


def test_with_two_pairs_the_interval_reaches_from_one_to_the_other():
    # Pair 7 closes all of its gap, pair 9 half; either is drawn twice in a quarter of the resamples.
    outcome = outcome_of(
        [[2.0, 4.0, 0.0, 0.0]], [2.0, 4.0, 1.0, 3.0], [-2.0, -4.0, -1.0, -3.0], [7, 7, 9, 9], [True, False] * 2
    )
    low, high = patching_summary.intervals(outcome, 0, "logit_diff", np.array([True]), stream(0, "t"), 400)
    assert (low[0], high[0]) == pytest.approx((50.0, 100.0))
    low, high = patching_summary.intervals(outcome, 0, "logit_flip_uncentred", np.array([True]), stream(0, "t"), 400)
    assert (low[0], high[0]) == pytest.approx((0.0, 100.0))
    same = outcome_of([[1.0, 1.0, 1.0, 1.0]], [3.0] * 4, [-1.0] * 4, [0, 0, 1, 1], [True, False] * 2)
    for metric, value in (("logit_diff", 50.0), ("logit_flip", 100.0), ("logit_flip_uncentred", 100.0)):
        found = patching_summary.intervals(same, 0, metric, np.array([True]), stream(0, "t"), 100)
        assert found[:, 0].tolist() == pytest.approx([value, value])


@pytest.mark.parametrize("centre", [True, False])
def test_intervals_of_flips_are_those_of_resampled_prompts(centre):
    rng = np.random.default_rng(1)
    positive = np.arange(24) % 2 == 0
    clean, corrupted, patched = rng.normal(size=24) + 1.5, rng.normal(size=24) - 1.5, rng.normal(size=(2, 24)) + 0.3
    outcome = outcome_of(patched, clean, corrupted, np.arange(24) // 2, positive)
    metric = "logit_flip" if centre else "logit_flip_uncentred"
    low, high = patching_summary.intervals(outcome, 0, metric, np.array([True, True]), stream(4, "t"), 300)
    drawn = stream(4, "t").multinomial(12, np.full(12, 1 / 12), size=300)
    values = []
    for counts in drawn:
        rows = np.repeat(np.arange(24), counts[np.arange(24) // 2])
        parts = [torch.from_numpy(part[..., rows]) for part in (patched, clean, corrupted)]
        values.append(logit_flip(*parts, torch.from_numpy(positive[rows]) if centre else None).numpy())
    expected = np.quantile(values, (0.025, 0.975), axis=0)
    assert np.abs(np.stack([low, high]) - expected).max() < 1e-9


def test_without_a_gap_there_is_no_percentage():
    outcome = outcome_of([[1.0, -1.0]], [1.0, 1.0], [2.0, 3.0], [0, 1], [True, False])
    plan = {0: [(Entry("paper", "das", 1, "movie", 0), None)]}
    found = patching_summary.patching_table(patching.Tested("movie", "toy", "test", None, plan, outcome), 0, 100)
    found = found.set_index("metric")
    assert np.isnan(found.loc["logit_flip_uncentred", ["value", "ci_lo", "ci_hi"]].to_numpy(float)).all()
    assert found.loc["logit_diff", "value"] == pytest.approx(100 * (0 - 2.5) / (1 - 2.5))


def patching_rows(values, metric="logit_diff", **facts):
    """Rows of se_patching with these values by layer."""
    base = {"variant": "paper", "eval_set": "movie", "scaffold": "toy", "split": "test", "method": "das", "d_das": 1,
            "set": "movie", "projection": "none", "scale": 1.0, "draw": -1, "metric": metric, "clean": 1.0, "corrupted": -1.0,
            "patched": 0.0, "share": 0.1, "ci_lo": 0.0, "ci_hi": 1.0, "n": 4}  # fmt: skip
    rows = pd.DataFrame({"layer": range(len(values)), "from_layer": range(len(values)), "value": values})
    return rows.assign(**{**base, **facts})


def test_layers_are_picked_on_the_prompts_that_the_rule_names():
    reviews_of = {"eval_set": "reviews", "scaffold": "continuation"}
    table = pd.concat([
        patching_rows([10.0, 60.0, 60.0, 99.0], split="train"), patching_rows([70.0, 30.0, 20.0, 95.0]),
        patching_rows([80.0, 10.0, 15.0, 5.0], "logit_flip"), patching_rows([1.0, 2.0, 9.0, 50.0], **reviews_of, split="dev"),
        patching_rows([40.0, 8.0, 7.0, 3.0], **reviews_of), patching_rows([4.0, 5.0, 6.0, 7.0], **reviews_of, variant="strict"),
    ])  # fmt: skip
    found = patching_summary.best_table(table, 3).set_index(["rule", "eval_set", "split", "variant", "metric"])

    def one(*key):
        row = found.loc[key]
        return row["layer"], row["value"], row["readout"]

    assert one("max", "movie", "test", "paper", "logit_diff") == (3, 95.0, True)
    assert one("train", "movie", "test", "paper", "logit_diff") == (1, 30.0, False)  # the lower of two equal layers
    assert one("train", "movie", "test", "paper", "logit_flip") == (1, 10.0, False)  # of logit differences, not of flips
    assert one("train", "reviews", "test", "paper", "logit_diff") == (1, 8.0, False)
    assert one("dev", "reviews", "test", "paper", "logit_diff") == (2, 7.0, False)  # not the final stream
    assert one("dev", "reviews", "test", "strict", "logit_diff") == (2, 6.0, False)
    assert ("dev", "movie", "test", "paper", "logit_diff") not in found.index
    assert ("train", "movie", "train", "paper", "logit_diff") not in found.index


def test_chance_is_counted_with_the_direction_itself():
    table = pd.concat([
        patching_rows([50.0, 2.0]), patching_rows([9.0, 9.0], method="das2d", d_das=2),
        *(patching_rows([float(v), 3.0], method="random", draw=i) for i, v in enumerate((1, 50, 60, 4))),
        *(patching_rows([0.0, 0.0], method="shuffled", draw=i) for i in range(2)),
    ])  # fmt: skip
    found = patching_summary.null_table(table).set_index(["method", "null", "layer"])
    assert found.loc[("das", "random", 0), "p"] == pytest.approx(3 / 5)
    assert found.loc[("das", "random", 1), "p"] == 1.0
    assert found.loc[("das", "shuffled", 0), "p"] == pytest.approx(1 / 3)
    assert found.loc[("das", "random", 0), ["mean", "lowest", "highest", "draws"]].tolist() == [28.75, 1.0, 60.0, 4]
    assert set(found.index.get_level_values("method")) == {"das"}
