"""Fitted directions, DAS and their tables against scikit-learn, SciPy and plain transformers whose weights are centred."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import binomtest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity
from torch import nn

import oracle
from recircuit.core.families import load
from recircuit.core.model import Spec
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sentiment import das, fits
from recircuit.experiments.sentiment.cosines import direction_cosines
from recircuit.experiments.sentiment.setting import Setting
from recircuit.methods.direction_hooks import centred_width
from recircuit.study.tables import write_table
from recircuit.tasks.corpus import vocabulary
from recircuit.tasks.sentiment import toy_tables
from sentiment_oracle import by_steps

LAYERS, WIDTH = 3, 24
SETS = ("movie", "adverb", "book", "res", "product")
EPOCHS = 3


def quiet(line):
    return None


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(word_level(list(vocabulary())), "words")


@pytest.fixture(scope="module")
def theirs():
    """A random model that reads its unembedding from other weights than its embedding, so that one alone can be centred."""
    size = len(vocabulary()) + 1
    model = oracle.random_gpt2(layers=LAYERS, heads=2, d=WIDTH, vocab=size, positions=32, seed=5, std=0.3)
    return model.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def setting(tokenizer, theirs, tmp_path_factory):
    model = load(oracle.save(theirs, tmp_path_factory.mktemp("directions")), dtype=torch.float64)
    return Setting(model, *toy_tables(tokenizer, quiet, SETS), chunk=8)


@pytest.fixture(scope="module")
def centred(theirs, setting):
    """The same model with centred writing weights, as the authors' library makes it: the oracle of all that follows."""
    size = len(vocabulary()) + 1
    model = oracle.random_gpt2(layers=LAYERS, heads=2, d=WIDTH, vocab=size, positions=32, seed=5, std=0.3)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(("transformer.wte", "transformer.wpe")) or "c_proj" in name:
                weight -= weight.mean(-1, keepdim=True)
    return model.requires_grad_(requires_grad=False)


def entering(model, tokens, layer):
    """Return the stream entering a layer, or the final norm, by a hook: [n T d]."""
    module, kept = [*model.transformer.h, model.transformer.ln_f][layer], []
    handle = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model(tokens)
    handle.remove()
    return kept[0]


class Words:
    """The words of a split, by reading the prompts' tokens: streams at them, labels and the words themselves."""

    def __init__(self, tokenizer, setting, model, name, split, variant, column="word_adj"):
        self.toy = setting.toy(name, split, variant)
        self.words = self.toy.rows[column].tolist()
        self.tokens = torch.tensor(self.toy.rows["tokens"].tolist())
        ids = torch.tensor([tokenizer.single(f" {word}") for word in self.words])
        self.places = (self.tokens == ids[:, None]).double().argmax(1)
        self.labels = self.toy.rows["label"].to_numpy() == 1
        rows = torch.arange(len(ids))
        self.x = [entering(model, self.tokens, layer)[rows, self.places].numpy() for layer in range(LAYERS + 1)]


@pytest.fixture(scope="module")
def words(tokenizer, setting, centred):
    def of(name="movie", split="train", variant="paper", column="word_adj"):
        return Words(tokenizer, setting, centred, name, split, variant, column)

    return of


def by_scikit_learn(method, x, labels):
    if method == "mean_diff":
        return x[labels].mean(0) - x[~labels].mean(0)
    if method == "kmeans":
        centres = KMeans(2, n_init=10, random_state=0, tol=0).fit(x).cluster_centers_
        return centres[1] - centres[0]
    if method == "pca":
        return PCA(1, svd_solver="full").fit(x).components_[0]
    if method == "svd":
        return TruncatedSVD(1, algorithm="arpack").fit(x).components_[0]
    return LogisticRegression(solver="liblinear", tol=1e-12, max_iter=10000).fit(x, labels).coef_[0]


METHODS = ("mean_diff", "kmeans", "pca", "svd", "logistic_regression")


def oriented(vector, x, labels):
    return vector if (x[labels] @ vector).mean() > (x[~labels] @ vector).mean() else -vector


def near(a, b, tolerance=1e-9):
    return np.abs(np.asarray(a, float) - b).max() <= tolerance * max(1.0, np.abs(b).max())


# ---- closed forms ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directions(setting):
    return fits.directions(setting, quiet)


@pytest.mark.parametrize("variant", ["paper", "full"])
@pytest.mark.parametrize("method", METHODS)
def test_every_layer_s_direction_is_scikit_learns_on_the_centred_models_adjectives(directions, words, method, variant):
    data = words(variant=variant)
    assert len(data.words) == {"paper": 30, "full": 48}[variant] and not (data.places - data.places[0]).any()
    rows = directions.query("set == 'movie' and variant == @variant and method == @method").sort_values("layer")
    assert list(rows["layer"]) == list(range(LAYERS + 1)) and (rows["n"] == len(data.words)).all()
    for row in rows.itertuples():
        x = data.x[row.layer]
        expected = oriented(by_scikit_learn(method, x, data.labels), x, data.labels)
        assert near(row.vector, expected, 2e-6)  # stored in single precision
        assert row.raw_norm == pytest.approx(np.linalg.norm(expected), rel=1e-6)
        scores = x @ expected
        middle = (scores[data.labels].mean() + scores[~data.labels].mean()) / 2
        hits = sum((score > middle) == label for score, label in zip(scores, data.labels, strict=True))
        assert row.train_accuracy == pytest.approx(hits / len(scores))


def test_other_sets_are_fitted_at_their_own_words_in_the_paper_s_time_where_it_has_them(directions, words):
    found = directions.groupby("set")[["variant", "position"]].agg(lambda column: " ".join(sorted(set(column))))
    expected = {
        "adverb": "paper ADV",
        "book": "full ADJ",
        "movie": "full paper ADJ",
        "product": "paper FEEL",
        "res": "full NOUN",
    }
    assert found.agg(" ".join, axis=1).to_dict() == expected
    for name, (variant, _) in {name: text.split() for name, text in expected.items() if name != "movie"}.items():
        data = words(name, "all", variant)
        for method, layer in itertools.product(("mean_diff", "logistic_regression"), range(LAYERS + 1)):
            row = directions.query("set == @name and method == @method and layer == @layer").iloc[0]
            expected_vector = oriented(by_scikit_learn(method, data.x[layer], data.labels), data.x[layer], data.labels)
            assert near(row["vector"], expected_vector, 2e-6)
        assert set(directions.query("set == @name")["method"]) == {"mean_diff", "logistic_regression"}


def test_random_directions_are_drawn_layer_after_layer_and_not_turned(directions):
    rng = torch.Generator().manual_seed(42)
    for variant in ("paper", "full"):
        rows = directions[(directions["method"] == "random") & (directions["variant"] == variant)].sort_values("layer")
        rng.manual_seed(42)
        for row in rows.itertuples():
            drawn = torch.randn(WIDTH, generator=rng)
            assert near(row.vector, (drawn / drawn.norm()).numpy(), 1e-6) and not row.sign_flipped and row.seed == 42
        assert len(rows) == LAYERS + 1


def test_what_a_norm_reads_is_not_centred_away(setting, tmp_path):
    model = load(oracle.save(oracle.random_llama(), tmp_path), dtype=torch.float64)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert (centred_width(model, x) == x).all()
    assert centred_width(setting.model, x).mean(-1).abs().max() < 1e-15 and x.mean(-1).abs().min() > 1e-3


def test_frames_are_the_stored_columns_in_order_of_the_lowest_seed():
    columns = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(1))).Q.T
    rows = [
        {"set": "movie", "variant": "paper", "method": "das2d", "layer": layer, "component": i, "seed": seed,
         "vector": 3 * (columns[i] if seed == 2 else torch.ones(6)).numpy()}
        for layer, i, seed in itertools.product((1, 0), (1, 0), (5, 2))
    ]  # fmt: skip
    found = fits.frames(pd.DataFrame(rows), "das2d")
    assert list(found) == [0, 1] and all(near(frame, columns.T.numpy(), 1e-6) for frame in found.values())
    assert fits.frames(pd.DataFrame(rows), "das2d", variant="full") == {}


# ---- accuracy -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accuracies(setting):
    return fits.accuracies(setting, quiet)


def row_of(table, **keys):
    rows = table
    for name, value in keys.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1, keys
    return rows.iloc[0]


TESTS = {
    ("ADJ", "train", "ADJ"): ("word_adj", "train", "word_adj"), ("ADJ", "test", "ADJ"): ("word_adj", "test", "word_adj"),
    ("ADJ", "test", "VRB"): ("word_adj", "test", "word_vrb"), ("VRB", "train", "VRB"): ("word_vrb", "train", "word_vrb"),
    ("VRB", "test", "ADJ"): ("word_vrb", "test", "word_adj"), ("VRB", "test", "VRB"): ("word_vrb", "test", "word_vrb"),
}  # fmt: skip


def by_own_rule(method, x, labels, y):
    """Predict as published, by scikit-learn's own classes."""
    if method == "logistic_regression":
        return LogisticRegression(solver="liblinear", tol=1e-12, max_iter=10000).fit(x, labels).predict(y)
    if method in ("pca", "svd"):
        line = PCA(1, svd_solver="full") if method == "pca" else TruncatedSVD(1, algorithm="arpack")
        x, y = line.fit_transform(x), line.transform(y)
    model = KMeans(2, n_init=10, random_state=0, tol=0).fit(x)
    turned = (model.labels_ == labels).mean() < 0.5
    return (model.predict(y) == 1) != turned


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("test", TESTS, ids=" ".join)
def test_accuracies_are_scikit_learns_word_by_word(accuracies, words, method, test):
    column, split, other = TESTS[test]
    train, found = words(column=column), words(split=split, column=other)
    where = dict(zip(("position", "test_set", "test_position"), test, strict=True)) | {"variant": "paper", "method": method}
    for layer in range(LAYERS + 1):
        x, y = train.x[layer], found.x[layer]
        direction = oriented(by_scikit_learn(method, x, train.labels), x, train.labels)
        own = row_of(accuracies, **where, layer=layer, rule="published")
        assert own["correct"] == (by_own_rule(method, x, train.labels, y) == found.labels).sum() and np.isnan(
            own["auc"] or np.nan
        )
        row = row_of(accuracies, **where, layer=layer, rule="midpoint")
        middle = np.mean([(x[train.labels] @ direction).mean(), (x[~train.labels] @ direction).mean()])
        assert row["correct"] == ((y @ direction > middle) == found.labels).sum()
        assert row["accuracy"] == row["correct"] / row["n"] and row["n"] == len(found.words)
        assert row["n_words"] == len(set(found.words)) and (row["n_words"] == 8) == (test[2] == "VRB")
        assert row["auc"] == pytest.approx(roc_auc_score(found.labels, np.round(y @ direction, 9)), abs=1e-9)
        interval = binomtest(int(row["correct"]), int(row["n"])).proportion_ci(method="wilson")
        assert (row["ci_lo"], row["ci_hi"]) == pytest.approx((interval.low, interval.high), abs=1e-9)
        theirs = oriented(by_scikit_learn(method, y, found.labels), y, found.labels)
        cosine = direction @ theirs / np.linalg.norm(direction) / np.linalg.norm(theirs)
        assert row["similarity"] == pytest.approx(cosine, abs=1e-6) and own["similarity"] == row["similarity"]


@pytest.mark.parametrize("method", ["mean_diff", "logistic_regression", "pca"])
def test_a_word_that_is_left_out_is_judged_by_a_fit_to_the_others(accuracies, words, method):
    data = words()
    for layer in range(LAYERS + 1):
        x, hits = data.x[layer], 0
        for i, label in enumerate(data.labels):
            kept = np.arange(len(x)) != i
            a, b = x[kept], data.labels[kept]
            direction = oriented(by_scikit_learn(method, a, b), a, b)
            hits += (x[i] @ direction > ((a[b] @ direction).mean() + (a[~b] @ direction).mean()) / 2) == label
        row = row_of(accuracies, method=method, layer=layer, test_set="left out", variant="paper")
        assert (row["correct"], row["n"], row["rule"]) == (hits, 30, "midpoint")


def test_random_directions_are_scored_by_the_middle_alone_turned_to_the_training_words_side(accuracies, directions, words):
    rows = accuracies[accuracies["method"] == "random"]
    assert set(rows["rule"]) == {"midpoint"} and len(rows) == 2 * len(TESTS) * (LAYERS + 1) and rows["auc"].notna().all()
    drawn = directions[(directions["method"] == "random") & (directions["variant"] == "paper")].set_index("layer")["vector"]
    train, test, turned = words(), words(split="test", column="word_vrb"), 0
    for layer in range(LAYERS + 1):
        x, y = train.x[layer], test.x[layer]
        vector = oriented(np.asarray(drawn[layer], float), x, train.labels)
        turned += vector[0] != drawn[layer][0]
        middle = ((x[train.labels] @ vector).mean() + (x[~train.labels] @ vector).mean()) / 2
        row = row_of(rows, variant="paper", layer=layer, position="ADJ", test_position="VRB")
        assert row["correct"] == ((y @ vector > middle) == test.labels).sum()
        assert row["auc"] == pytest.approx(roc_auc_score(test.labels, np.round(y @ vector, 5)), abs=1e-9)
    assert 0 < turned <= LAYERS


# ---- principal components -------------------------------------------------------------------------------------------


def test_points_are_the_words_on_scikit_learns_components(setting, words):
    table = fits.pca_points(setting)
    assert sorted(table["layer"].unique()) == [0, 1]
    train, test, verbs = words(), words(split="test"), words(split="test", column="word_vrb")
    for layer in (0, 1):
        rows = table[table["layer"] == layer].set_index(["set", "position", "word"])
        pca = PCA(2, svd_solver="full").fit(train.x[layer])
        scores = pca.transform(train.x[layer])
        signs = np.sign([(scores[train.labels] - scores[~train.labels]).mean(0)[0], 1])
        theirs = rows.loc["train"].loc["ADJ"].loc[train.words[0], "pc2"]
        signs[1] = np.sign(theirs * scores[0, 1])
        for name, position, data in (("train", "ADJ", train), ("test", "ADJ", test), ("test", "VRB", verbs)):
            expected = pd.DataFrame(pca.transform(data.x[layer]) * signs).groupby(np.array(data.words)).mean()
            found = rows.loc[name].loc[position]
            assert near(found.loc[expected.index, ["pc1", "pc2"]], expected.to_numpy())
            assert found["label"].to_dict() == dict(zip(data.words, data.labels.astype(int), strict=True))
        assert near(rows[["share1", "share2"]], pca.explained_variance_ratio_[None])
        clusters = KMeans(2, n_init=10, random_state=0, tol=0).fit(scores * signs)
        order = [0, 1] if (clusters.labels_ == train.labels).mean() >= 0.5 else [1, 0]
        centres = rows.loc["centroid"].loc["ADJ"].loc[["negative", "positive"]]
        assert near(centres[["pc1", "pc2"]], clusters.cluster_centers_[order])
        assert list(centres["label"]) == list(centres["cluster"]) == [0, 1]
        own = rows.loc["train"].loc["ADJ"].loc[train.words, "cluster"].to_numpy()
        assert (own == np.array(order)[clusters.labels_]).all()
        assert pca.components_[1][np.abs(pca.components_[1]).argmax()] * signs[1] > 0


# ---- DAS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(setting):
    return das.searches(setting, [4, 1], EPOCHS, quiet)


def test_every_search_that_is_asked_for_is_there_and_none_of_the_final_stream(searched):
    history = searched["se_das_history"]
    assert history["layer"].max() == LAYERS - 1
    keys = ["set", "variant", "layer", "d_das", "kind", "seed"]
    found = set(history[keys].drop_duplicates().itertuples(index=False, name=None))
    layers = range(LAYERS)
    expected = {("movie", "paper", layer, d, "frame", seed) for layer in layers for d in (1, 2, 3) for seed in (1, 4)}
    expected |= {("movie", "paper", layer, d, "frame", 1) for layer in (0, 1) for d in (4, 8, 16)}
    expected |= {("movie", "paper", layer, 1, "rotation", 1) for layer in (0, 1)}
    others = (("movie", "full"), ("adverb", "paper"), ("product", "paper"), ("book", "full"), ("res", "full"))
    expected |= {(*key, layer, 1, "frame", 1) for key in others for layer in layers}
    assert found == expected
    assert (history.groupby(keys)["step"].agg(lambda steps: sorted(steps) == list(range(EPOCHS + 1)))).all()
    looked = history[history["eval_loss"].notna()]
    assert set(looked["layer"]) == {0, 1} and set(looked["set"] + looked["variant"]) == {"moviepaper"}


def test_tables_fit_their_schemas(searched, directions, accuracies, setting, tmp_path):
    tables = [*searched.items(), ("se_directions", directions), ("se_fit_accuracy", accuracies)]
    tables += [("se_pca_points", fits.pca_points(setting)), ("se_cosines", direction_cosines(directions))]
    for i, (name, table) in enumerate(tables):
        write_table(table.assign(model="m"), tmp_path / f"{i}.parquet", name, {})


def differences(model, toy_tokens, rights, wrongs, layer=None, place=None, vector=None):
    """Return the logit differences at the last token, with one vector of the stream replaced by a hook."""

    def replace(module, args):
        x = args[0].clone()
        x[:, place] = vector
        return (x, *args[1:])

    handles = [] if vector is None else [model.transformer.h[layer].register_forward_pre_hook(replace)]
    logits = model(toy_tokens).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits.gather(1, rights).mean(1) - logits.gather(1, wrongs).mean(1)


@pytest.mark.parametrize(("layer", "dims"), [(0, 1), (1, 3), (2, 2)])
def test_a_search_on_the_centred_model_from_the_tokens_finds_the_same_subspace(searched, centred, words, layer, dims):
    data = words()
    rights, wrongs = (torch.tensor(data.toy.rows[column].tolist()) for column in ("right", "wrong"))
    corrupted = torch.cat([data.tokens[1:], data.tokens[:1]])
    place = int(data.places[0])
    clean, old = (entering(centred, tokens, layer)[:, place] for tokens in (data.tokens, corrupted))
    good, bad = (differences(centred, tokens, rights, wrongs).mean() for tokens in (data.tokens, corrupted))
    torch.manual_seed(1)
    start = nn.init.orthogonal_(torch.empty(WIDTH, WIDTH)).double()
    parameter = torch.matrix_exp(start.tril(-1) - start.tril(-1).T)[:, :dims].clone().requires_grad_()
    optimizer, losses = torch.optim.Adam([parameter], lr=1e-2, foreach=False), []

    def loss():
        now = by_steps(parameter)
        found = differences(centred, corrupted, rights, wrongs, layer, place, old + (clean - old) @ now @ now.T)
        return (found.mean() - good) / (bad - good)

    for _ in range(EPOCHS):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        losses.append(value.item())
    losses.append(loss().item())
    key = f"set == 'movie' and variant == 'paper' and layer == {layer} and d_das == {dims} and seed == 1"
    history = searched["se_das_history"].query(f"{key} and kind == 'frame'").sort_values("step")
    assert history["train_loss"].to_numpy() == pytest.approx(np.array(losses), abs=1e-9)
    rows = searched["se_directions"].query(key).sort_values("component")
    assert list(rows["component"]) == list(range(dims)) and set(rows["method"]) == {das.METHOD_NAMES[dims]}
    for row, column in zip(rows.itertuples(), by_steps(parameter).detach().numpy().T, strict=True):
        turned = oriented(column, data.x[layer], data.labels)
        assert near(row.vector, turned, 2e-6) and row.sign_flipped == bool(turned[0] != column[0])
        assert row.raw_norm == pytest.approx(1)
    assert rows["train_accuracy"].notna().any() == (dims == 1)


def test_the_other_kind_and_other_seeds_say_how_near_they_came(searched, setting):
    history = searched["se_das_history"]
    rows = history[history["nearness"].notna()]
    assert set(zip(rows["kind"], rows["seed"], strict=True)) == {("rotation", 1), ("frame", 4)}
    assert (rows["step"] == EPOCHS).all() and len(rows) == 2 + 3 * LAYERS
    found = searched["se_directions"].query("set == 'movie' and variant == 'paper'")
    for layer, (d, method) in itertools.product(range(LAYERS), das.METHOD_NAMES.items()):
        vectors = found[(found["layer"] == layer) & (found["method"] == method)]
        a, b = (np.stack(vectors[vectors["seed"] == seed]["vector"]).T for seed in (4, 1))
        near_one = rows[(rows["layer"] == layer) & (rows["d_das"] == d) & (rows["seed"] == 4)]["nearness"]
        assert near_one.item() == pytest.approx(np.cos(subspace_angles(a, b).max()), abs=1e-5)


def test_steps_have_the_published_sizes():
    published = {
        (12, 768): 128, (24, 1024): 64, (36, 1280): 32, (48, 1600): 8, (24, 2048): 32, (32, 2560): 8, (32, 4096): 4,
    }  # fmt: skip
    for (layers, width), size in published.items():
        spec = Spec("gpt2", layers, 1, width, width, 4 * width, 64, 100, 1e-5, "gelu_new")
        assert das.batch_size(spec) == size


def test_a_pass_of_several_steps_has_every_prompt_with_its_own_twin(setting, centred, words, monkeypatch):
    monkeypatch.setattr(das, "batch_size", lambda spec: 7)
    data = words()
    parts = das.batches(setting, data.toy, 1, "ADJ")
    assert [len(part.clean) for part in parts] == [7, 7, 7, 7, 2]
    x = torch.from_numpy(data.x[1])
    assert (torch.cat([part.clean for part in parts]) - x).abs().max() < 1e-10
    place, tokens = int(data.places[0]), torch.cat([data.tokens[1:], data.tokens[:1]])
    assert (torch.cat([part.corrupted for part in parts]) - entering(centred, tokens, 1)[:, place]).abs().max() < 1e-10


def test_das_is_scored_on_other_words_too(searched, words):
    rows = searched["se_fit_accuracy"]
    assert len(rows) == 2 * 3 * LAYERS and set(rows["method"]) == {"das"}
    train, verbs = words(), words(split="test", column="word_vrb")
    for layer in range(LAYERS):
        vector = (
            searched["se_directions"]
            .query("set == 'movie' and variant == 'paper' and layer == @layer and d_das == 1 and seed == 1")["vector"]
            .item()
        )
        x, y = train.x[layer], verbs.x[layer]
        middle = ((x[train.labels] @ vector).mean() + (x[~train.labels] @ vector).mean()) / 2
        row = row_of(rows, layer=layer, variant="paper", test_position="VRB")
        assert row["correct"] == ((y @ vector > middle) == verbs.labels).sum()


# ---- cosines --------------------------------------------------------------------------------------------------------


def test_cosines_are_scikit_learns_of_the_pairs_that_are_asked_for(directions, searched):
    table = pd.concat([directions, searched["se_directions"]])
    found = direction_cosines(table)
    single = table[(table["d_das"] == 1) & (table["seed"] != 4)].reset_index(drop=True)
    every = cosine_similarity(np.stack(single["vector"]))
    keys = list(single[["method", "layer", "set", "variant"]].itertuples(index=False, name=None))
    expected = {
        (*a, *b): every[i, j]
        for (i, a), (j, b) in itertools.product(enumerate(keys), repeat=2)
        if a[1] == b[1] or (a[0], *a[2:]) == (b[0], *b[2:])
    }
    names = [f"{name}_{side}" for side in "ab" for name in ("method", "layer", "set", "variant")]
    ours = found.set_index(names)["cosine"]
    assert len(ours) == len(expected) and near(ours.loc[list(expected)], np.array(list(expected.values())), 1e-6)
    assert (found["abs_cosine"] == found["cosine"].abs()).all() and (found["cosine"] < -0.1).any()
