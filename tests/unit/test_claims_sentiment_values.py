"""The claims of the sentiment paper find their numbers: on tables with the published values they match, on others they are off.

Where a published value belongs is read here from what a claim says that it is, never from its query. Beside each planted value
stand rows that a wider query would find.
"""

import hashlib
import re
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import sentiment_claims
from recircuit.study.scorecard import score
from recircuit.study.tables import read_table, schema, write_table
from sentiment_claims import GPT2, PYTHIA, STORIES, STORY, pair

WRONG = 9.0
# By source, how many numbers were published there and a digest of them: value and unit, in order.
PUBLISHED = {
    "git history ae14ca1: 'Circuit Analysis - Simple Sentiment.ipynb' (50 prompts; amazing/terrible)": (
        2155,
        "a6e2c664c2e0ce97",
    ),
    "git history f5bfc93 commit message": (2, "94666bb20bb78897"),
    "computed from data/gpt2-small/das_simple_train_ADJ_layer*.json": (78, "459bbad080ebda84"),
    "computed from vectors in the git history and the released ones": (7, "fbebbb96b91295f4"),
    "data/gpt2-small/das_simple_train_ADJ_layer*.json": (48, "2c7c14525d2a15b7"),
    "random_directions.py, run again on a CPU": (12, "06d35f48afa9f1a9"),
    "computed by the rules of prompts.yaml and utils/prompts.py": (72, "43b8a7431a80d634"),
    "git history 0b438f2: prompts.yaml; the paper says 85 adjectives and 8 verbs": (8, "60cdd9afdefd21a0"),
    "stanfordSentimentTreebank/": (16, "75fa7f22a97dad4b"),
    "stanfordSentimentTreebank/ (counted)": (7, "512cac4416906614"),
    "git history, notebook that prints the data set": (4, "3165bf55b8f2b923"),
    "computed from the sentences in the authors' repository": (16, "868ea03092732123"),
    "mood_inference_names.txt": (2, "dea58477762d36e8"),
    "negation_experiment.py": (1, "f16727a5755442b1"),
    "git history 57e740d: comma_ablation_experiments_sst.ipynb": (41, "b941988b6d74e92d"),
    "git history 2182a99/1c63bb5 runs again of comma_ablation_experiments_sst.ipynb": (15, "7bdb7ee13e09aacb"),
    "the paper's abstract and text, as a review quotes them": (5, "43d5a338c77099e8"),
    "git history 1c63bb5: comma_ablation_experiments notebooks": (12, "2b373e4255504608"),
    "git history, notebook": (4, "ae62219ae0031a58"),
    "git history 57e740d: comma_ablation_experiments_imdb.ipynb": (10, "e0a693394c8ec569"),
    "another text that quotes version 2 of the paper": (1, "e9b85983015c176b"),
    "git history 57e740d: comma_ablation_experiments_sst.ipynb, points of a picture": (5, "97a3cd726450c950"),
    "git history 57e740d/2182a99: comma_patching_experiments_tms.ipynb": (16, "00ac63972640276f"),
    "git history, notebooks on the mood circuit": (4, "c7e0f9f70b9d11ab"),
    "the paper, recalled; two of the three agree with the authors' notebook": (3, "ad087c69608b448c"),
    "the paper, recalled": (4, "efdd3a3dc6f12487"),
    "a note that quotes the paper; 53.5 also in a review of it": (4, "7effb4a4a9192c54"),
    "another text that quotes the paper": (2, "ff604304da0887ae"),
    "git history 8ef240c: circuit_analysis_sentiment_classification_pythia1_4b.ipynb": (7, "fe47767bc358ecfc"),
    "finetuning-imdb.ipynb output": (1, "1671f782e086f9f6"),
}
WORDS = {"output": "z", "queries": "q", "keys": "k", "values": "v", "attention pattern": "pattern"}
PATCHED = {
    "phrases with commas and periods": "full_phrase", "phrases before the commas": "pre_comma",
    "commas and periods": "commas_and_periods", "commas": "commas",
}  # fmt: skip
ABLATED = {
    "nothing ablated": "none", "direction ablated": "direction", "random direction ablated": "random direction",
    "mean ablation": "mean", "mean ablation, mean of running text": "mean of running text",
    "mean ablation, mean of the other class": "mean of the other class", "mean ablation but for the direction": "inverse",
}  # fmt: skip
METHODS = {"K-means": "kmeans", "PCA": "pca"}
HEAD = r"head (\d+)\.(\d+)"
DRAWS = 20

claims = sentiment_claims.claims


# ---- where a value belongs ------------------------------------------------------------------------------------------


def circuit(text):
    """Return (table, keys, column, scale) of a number about the circuit, or None."""
    on = {"dataset": "circuit"}
    if m := re.match(r"(classification: )?clean (.+) of head (\d+)\.(\d+) in the corrupted run$", text):
        on = {"dataset": "classification" if m[1] else "circuit", "convention": "denoising", "position": None}
        return "se_act_patching", on | {"component": WORDS[m[2]], "layer": int(m[3]), "head": int(m[4])}, "value", 1
    if m := re.match(r"clean (\w+) of layer (\d+) at position (\d+) in", text):
        keys = {"convention": "denoising", "component": m[1], "layer": int(m[2]), "position": int(m[3]), "head": None}
        return "se_act_patching", on | keys, "value", 1
    if m := re.match(rf"path from {HEAD}(?: at position (\d+))? to (the final stream|the values of (.*))$", text):
        keys = {"sender_layer": int(m[1]), "sender_head": int(m[2]), "sender_position": int(m[3]) if m[3] else None}
        return "se_path_patching", on | keys | {"receivers": f"v: {m[5]}" if m[5] else "final"}, "value", 0.01 if m[5] else 1
    if m := re.match(r"logit difference of prompt (\d+) \((\w+), (\w+)\)", text):
        return "se_regression", {"row": int(m[1]), "word_adj": m[2], "word_vrb": m[3]}, "ld_clean", 1
    if m := re.match(r"logit lens at ([\d.]+) ", text):
        return "se_dla", on | {"kind": "lens", "label": f"x={m[1]}", "layer": int(float(m[1])), "head": None}, "value", 1
    if m := re.match(rf"direct attribution of (?:{HEAD}|(\w+))$", text):
        if m[3] is None:
            head = {"kind": "head", "layer": int(m[1]), "head": int(m[2]), "label": f"L{m[1]}H{m[2]}"}
            return "se_dla", on | head, "value", 1
        layer = int(m[3].split("_")[0]) if m[3][0].isdigit() else None
        return "se_dla", on | {"kind": "layer", "label": m[3], "layer": layer, "head": None}, "value", 1
    if m := re.match(r"logit flips when patching (?:only )?(circuit|the complement)", text):
        keys = {"node_set": m[1].removeprefix("the "), "restriction": "all", "direction": "none", "alignment": "none"}
        return "se_sufficiency", on | keys | {"base": "resample", "metric": "flips", "draw": 0}, "value", 1
    return None


def directions(text):
    """Return the same of a number about directions."""
    if m := re.match(r"cosine of the released DAS directions of layers (\d+) and (\d+)", text):
        return "se_cosines", pair("das", "das", map(int, m.groups())), "cosine", 1
    if m := re.match(r"\|cosine\| of an older (\S+) direction .* DAS direction of layer (\d)", text):
        return "se_cosines", pair(METHODS[m[1]], "das", [int(m[2])] * 2), "abs_cosine", 1
    if text.startswith("cosine of what head 10.4"):
        keys = {"dataset": "movie", "kind": "ov", "reader": "a10.h4", "layer": 10, "direction": "das"}
        return "se_gradients", keys, "cosine", 1
    if m := re.match(r"DAS best-layer (LD metric|flips), (ToyMovieReview test|SST)$", text):
        keys = ("paper", "movie", "toy") if m[2] != "SST" else ("filtered", "reviews", "classification")
        keys = dict(zip(("variant", "eval_set", "scaffold"), keys, strict=True)) | {"rule": "max", "split": "test"}
        metric = "logit_flip" if m[1] == "flips" else "logit_diff"
        return "se_patching_best", keys | {"method": "das", "metric": metric}, "value", 1
    return None


def ablation(text):
    """Return the same of a number about reviews with a direction ablated."""
    text = re.sub(r" \((?!text|filtered).*\)$", "", text)  # which run of the authors' it was
    keys = {"scaffold": "suffix", "frozen": "frozen attention" in text, "draw": 0, "subset": "all"}
    everywhere = keys | {"condition": "direction", "direction": "das", "alignment": "published"}
    nothing = keys | dict.fromkeys(("condition", "mask", "direction", "alignment"), "none")
    if m := re.match(r"share of above-chance accuracy lost, (commas|all tokens)", text):
        return "se_ablation_summary", everywhere | {"mask": m[1].split()[0]}, "lost", 0.01
    if m := re.match(r"accuracy(?:, direction ablated at (commas|all tokens))?.*\(text\)$", text):
        own = everywhere | {"mask": m[1].split()[0]} if m[1] else nothing
        return "se_ablation_summary", own, "accuracy_raw", 0.01
    if text.startswith("reviews in a balanced sample"):
        return "se_ablation_summary", nothing, "n", 1
    if not (m := re.match(r"(mean logit difference|accuracy|relative change of the logit difference), (.*)$", text)):
        return None
    column, scale = {"m": ("mean_ld", 1), "a": ("accuracy_raw", 1), "r": ("relative", 0.01)}[m[1][0]]
    what = m[2].replace(", frozen attention", "")
    for subset in ("positive", "negative"):
        if what.endswith(f", {subset} reviews"):
            what, keys["subset"] = what.removesuffix(f", {subset} reviews"), subset
    place = re.search(r" at (commas|all tokens)", what)
    condition = ABLATED.get(what.replace(place[0], "") if place else what)
    if condition is None:
        return None
    own = {"condition": condition, "mask": place[1].split()[0] if place else "none", "direction": "none", "alignment": "none"}
    if condition in ("direction", "inverse"):
        own |= {"direction": "das", "alignment": "published"}
    if condition == "random direction":
        own |= {"direction": "random", "draw": range(DRAWS)}
    return "se_ablation_summary", keys | own, column, scale


def stories(text):
    """Return the same of a number about mood stories, or about the distance of commas."""
    if m := re.match(r"logit difference of mood stories(?:, (\w+(?: person)?))?", text):
        return "se_mood_summary", STORY | {"subset": STORIES[m[1]] if m[1] else "all", "condition": range(3)}, "ld_clean", 1
    if m := re.match(r"(relative change of the )?logit difference, values of (.*) patched( \(table 1a\))?$", text):
        keys = STORY | {"condition": PATCHED[m[2]], "layer_range": "all"}
        return "se_mood_summary", keys, *(("relative", 0.01) if m[1] else ("ld_patched", 1))
    if m := re.match(rf"path from the commas to the values of {HEAD}", text):
        return "se_mood_paths", {"people": 2, "kind": "reads", "layer": int(m[1]), "head": int(m[2])}, "value", 0.01
    if m := re.match(r"comma effect / pre-comma effect, (\d+) irrelevant", text):
        keys = {"people": 2, "layer_range": "all", "numerator": "commas_and_periods", "k": int(m[1])}
        return "se_mood_ratios", keys, "mean", 1
    if m := re.match(r"comma distance: (.*)$", text):
        columns = {"points": "n", "mean LD drop": "mean_drop", "slope vs average distance": "slope"}
        distance = "first" if "first" in m[1] else "average"
        return "se_comma_distance", {"scaffold": "suffix", "distance": distance}, columns.get(m[1], "r"), 1
    return None


def place_of(claim):
    """Return where the number of a claim belongs, by what it says: (table, keys, column, scale), or None for counts."""
    text = claim["quantity"]
    for kind in (circuit, directions, ablation, stories):
        if claim["table"] and not claim["table"].startswith(("se_prompts", "se_examples")) and (found := kind(text)):
            table, keys, column, scale = found
            if "layers 9 to 14" in claim["note"]:
                keys = keys | {"layer_range": "9-14"}
            return table, keys, column, scale
    return None


# ---- tables with planted values -------------------------------------------------------------------------------------


def planted(claims, *, beyond):
    """Return the values to plant, by id: within the tolerance of what was published, or beyond it and all different."""
    rng, values = np.random.default_rng(0), {}
    for i, claim in enumerate(claims.to_dict("records")):
        size = float(claim["tolerance"]) if claim["tolerance"] not in ("exact", "none") else 0.0
        share = 1.01 + 0.1 * rng.uniform() if beyond else rng.uniform(0.5, 0.99)
        move = round(share * 1000) + i if claim["unit"] == "rows" and beyond else rng.choice([-1, 1]) * share * size
        values[claim["id"]] = float(claim["value"]) + move
    return values


def rounds(claims):
    """Yield claims in rounds, of which each has at most one claim for a cell: some numbers were published more than once.

    The clean logit difference of stories, which stands in every condition's row, has a round of its own.
    """
    found, alone = defaultdict(list), []
    for claim in claims.to_dict("records"):
        table, keys, column, _ = place_of(claim)
        cell = repr((claim["model"], table, sorted(keys.items(), key=str), column))
        (alone if (table, column) == ("se_mood_summary", "ld_clean") else found[cell]).append(claim["id"])
    for turn in range(max(map(len, found.values()))):
        yield claims[claims["id"].isin({ids[turn] for ids in found.values() if len(ids) > turn})]
    yield claims[claims["id"].isin(alone)]


def spread(keys):
    """Return the rows of one place: several where a number is a mean over draws, or stands in every row of a kind."""
    several = next((key for key, value in keys.items() if isinstance(value, range)), None)
    if several is None:
        return [keys]
    return [
        keys | {several: i if several == "draw" else ("full_phrase", "pre_comma", "task not solved")[i]} for i in keys[several]
    ]


def spoilt(rows, name):
    """Return, for each row and each of its keys, a wrong row with another value of this key: what a wider query would find."""
    fields, keys = schema(name)
    wrong = {field.name: WRONG for field in fields if pa.types.is_floating(field.type)}
    known, made = {tuple(row.get(key) for key in keys) for row in rows}, {}
    for row in rows:
        for key in set(keys) & set(row):
            value = row[key]
            if several_of(name, key, row):
                continue
            other = (not value) if isinstance(value, bool) else "another" if isinstance(value, str) else 99
            copy = {k: v for k, v in row.items() if k in keys} | wrong | {key: other}
            place = tuple(copy.get(k) for k in keys)
            if place not in known:
                made[place] = copy
    return list(made.values())


def several_of(name, key, row):
    """Tell whether a key has no other value beside a row's own: it follows from the others, or the number is of all of them."""
    if name == "se_dla":
        return row[key] is None or key == ("label" if row["kind"] == "head" else "layer")
    if name == "se_act_patching":
        return row[key] is None
    if name == "se_mood_summary":
        return key in ("condition", "layer_range") and "ld_clean" in row
    return name == "se_ablation_summary" and key == "draw" and row["condition"] == "random direction"


def as_written(frame, model, name, folder):
    """Fill the columns that no claim reads, write the table and read it back: the types are those of a finished study."""
    for field in schema(name)[0]:
        plain = "" if pa.types.is_string(field.type) else WRONG if pa.types.is_floating(field.type) else 0
        plain = [] if pa.types.is_list(field.type) else False if pa.types.is_boolean(field.type) else plain
        if field.name not in frame:
            frame[field.name] = None if field.nullable else [plain] * len(frame)
        elif not field.nullable:
            frame[field.name] = frame[field.name].fillna(plain)
    write_table(frame.assign(model=model), folder / f"{name}.parquet", name, {})
    return read_table(folder / f"{name}.parquet", name)


def tables_of(claims, values, folder):
    """Return tables in which each number stands where it belongs, beside wrong ones."""
    cells = defaultdict(dict)
    for claim in claims.to_dict("records"):
        table, keys, column, scale = place_of(claim)
        for row in spread(keys):
            own = cells[claim["model"], table].setdefault(tuple(sorted(row.items(), key=str)), dict(row))
            assert column not in own, claim["id"]
            own[column] = values[claim["id"]] * scale
    found = {}
    for (model, name), rows in cells.items():
        rows = list(rows.values())
        found[model, name] = as_written(pd.DataFrame([*rows, *spoilt(rows, name)]), model, name, folder)
    return found


@pytest.fixture(scope="module")
def placed(claims):
    """The claims of which one cell, or the mean of some, is the number."""
    return claims[[place_of(claim) is not None for claim in claims.to_dict("records")]]


def card_of(claims, folder, *, beyond):
    """Return the scorecard of planted tables, and each claim's planted value beside it."""
    parts, values = [], planted(claims, beyond=beyond)
    for own in rounds(claims):
        parts.append(score(own, tables_of(own, values, folder)))
    card = pd.concat(parts)
    assert len(card) == len(claims)
    return card.assign(planted=card["id"].map(values))


# ---- the file -------------------------------------------------------------------------------------------------------


def test_every_published_number_has_its_claim(claims):
    found = {}
    for source, part in claims.groupby("source", sort=False):
        lines = [f"{value}|{unit}" for value, unit in part[["value", "unit"]].to_numpy()]
        found[source] = len(part), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert found == PUBLISHED and list(found) == list(PUBLISHED)
    assert len(claims) == 2562


def test_the_file(claims):
    assert claims["id"].str.fullmatch(r"se-[a-z0-9.-]+").all()
    assert set(claims["compare"]) == {"number"}
    models = {GPT2, PYTHIA, "pythia-1.4b", "pythia-6.9b", "stablelm-base-alpha-3b", "gpt2-xl", "-"}
    assert set(claims["model"]) == models and set(claims.loc[claims["model"] == "-", "table"]) == {""}
    # A line of the scorecard says what it is about.
    assert not claims.duplicated(["item", "quantity", "model"]).any()
    asking = claims["table"] != ""
    assert asking.sum() == 2456
    assert (claims.loc[~asking, "tolerance"] == "none").all() and claims.loc[~asking, "note"].str.contains("no query").all()
    assert (claims.loc[claims["tolerance"] == "none", "note"] != "").all()
    for other, tolerances in {"recalled": {"none"}, "quotes": {"none", "1", "2", "3", "5"}}.items():
        rows = claims[claims["source"].str.contains(other)]
        assert set(rows["tolerance"]) <= tolerances and len(rows)
        assert rows["note"].str.contains("not verified|without a seed").all()


# Worked out by hand from the reference's suggestions, one for each of their kinds.
TOLERANCES = {
    "se-circuit-ld-clean": "0.005", "se-circuit-ld-0-perfect": "0.01", "se-lens-0.5": "0.01", "se-dla-0-attn": "0.01",
    "se-dla-10.4": "0.005", "se-patch-z-10.4": "0.5", "se-patch-resid-pre-8-at-6": "0.5", "se-path-final-10.4": "0.01",
    "se-path-direct-7.1": "0.3", "se-path-summary-7.1": "0.3", "se-flips-circuit": "10", "se-flips-complement": "15",
    "se-das-cosine-1-2": "none", "se-old-pca-das-0": "0.1", "se-das-released-0-0": "none", "se-random-0-0": "0.000001",
    "se-pairs-pythia-movie-train-paper": "exact", "se-length-gpt2-french-head": "exact", "se-sst-used-total": "exact",
    "se-sst-joined-total": "none", "se-ablation-2.8b-kept": "none", "se-ablation-2.8b-commas-ld": "0.03",
    "se-ablation-2.8b-commas-accuracy": "0.015", "se-ablation-2.8b-commas-negative-accuracy": "0.02",
    "se-ablation-2.8b-commas-relative": "2", "se-ablation-2.8b-commas-ld-again": "none", "se-ablation-2.8b-lost-all": "2",
    "se-ablation-1.4b-all-ld": "0.03", "se-ablation-1.4b-all-accuracy": "0.02", "se-ablation-gpt2-xl-kept": "exact",
    "se-distance-r-first": "0.03", "se-mood-2.8b-clean": "0.02", "se-mood-2.8b-pre-comma-relative": "2",
    "se-mood-stablelm-commas-ld": "0.03", "se-mood-path-10.26": "0.5", "se-t1a-pre-comma": "none", "se-t1b-ratio-10": "none",
    "se-f3a-das-sst-ld": "5", "se-f2a-lowest": "3", "se-f2a-highest": "1", "se-1.4b-ld": "none",
}  # fmt: skip


def test_tolerances_are_those_of_the_reference(claims):
    assert claims.set_index("id").loc[list(TOLERANCES), "tolerance"].to_dict() == TOLERANCES


# ---- one number each ------------------------------------------------------------------------------------------------


def test_values_within_the_tolerance_match(placed, tmp_path):
    card = card_of(placed, tmp_path, beyond=False)
    assert np.allclose(card["ours_value"], card["planted"], rtol=0, atol=1e-12)
    free = card["tolerance"] == "none"
    assert (len(card), free.sum()) == (2333, 97)
    assert set(card.loc[~free, "verdict"]) == {"match"} and set(card.loc[free, "verdict"]) == {"not judged"}


def test_values_beyond_the_tolerance_are_off(placed, tmp_path):
    """Each claim reads its own number, of numbers that are all different, and is off with it."""
    card = card_of(placed, tmp_path, beyond=True)
    assert np.allclose(card["ours_value"], card["planted"], rtol=0, atol=1e-12)
    free = card["tolerance"] == "none"
    assert set(card.loc[~free, "verdict"]) == {"off"} and set(card.loc[free, "verdict"]) == {"not judged"}


def test_another_model_judges_nothing(placed, tmp_path):
    tables = tables_of(next(rounds(placed)), planted(placed, beyond=False), tmp_path)
    pocket = {("pocket", name): table.assign(model="pocket") for (_, name), table in tables.items()}
    assert set(score(placed, pocket)["verdict"]) == {"not run"}
