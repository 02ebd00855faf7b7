"""The toy prompts of the sentiment paper: published counts, token ids and positions, with GPT-2's own tokens and pocket's."""

import json
import re
from collections import Counter

import pandas as pd
import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders

import sentiment_tokens
from recircuit.core.tokenizer import Tokenizer, split_words, word_level
from recircuit.tasks.corpus import vocabulary, word_data
from recircuit.tasks.sentiment import (
    SETS,
    answer_ids,
    check_lengths,
    corrupted_rows,
    fit_position,
    lay_out,
    negation_table,
    negation_text,
    toy_tables,
    word_groups,
)
from sentiment_oracle import refusal
from sentiment_tokens import DATA, byte_pairs

REFERENCE = json.loads((DATA / "toy_movie_review.json").read_text(encoding="utf-8"))
PAPER, HEAD = (word_data(f"sentiment/prompt_lists_all_{version}") for version in ("paper_era", "head"))
# Names of positions: the published one, ours.
NAMES = {"SBJ1_movie": "SBJ1", "ADJ_plus1_comma": "ADJ+1", "VRB_plus1": "VRB+1", "SBJ2_movie_SUM": "SUM"}
REVIEW = "I thought this movie was {}, I {} it. \nConclusion: This movie is"


def whole_words(words: list[str]) -> HubTokenizer:
    """Return a byte-level tokenizer in which exactly these words after a space, and the review's own, are one token."""
    own = ("thought", "this", "movie", "was", "I", "it", "This", "is")
    pieces = [*(f"Ġ{word}" for word in (*words, *own)), "Conclusion"]
    pairs = dict.fromkeys(f"{piece[:i]} {piece[i]}" for piece in pieces for i in range(1, len(piece)))
    return byte_pairs({pair: 300 + i for i, pair in enumerate(pairs)})


gpt2, pocket = sentiment_tokens.gpt2, sentiment_tokens.pocket


@pytest.fixture(scope="module", params=["gpt2", "pocket"])
def found(request):
    """(tokenizer, prompts, positions, what was said) of all toy sets."""
    tokenizer, said = request.getfixturevalue(request.param), []
    return tokenizer, *toy_tables(tokenizer, said.append), said


@pytest.fixture(scope="module")
def in_gpt2(gpt2):
    return toy_tables(gpt2, lambda line: None)


def part(table, name, split="all", variant="paper"):
    return table[(table["set"] == name) & (table["split"] == split) & (table["variant"] == variant)].reset_index(drop=True)


def places(positions, row):
    return positions[positions["row"] == row].set_index("name")["position"].to_dict()


# ---- what was published ---------------------------------------------------------------------------------------------


def test_the_words_have_their_published_tokens(gpt2):
    assert len(REFERENCE["ids"]) == 141
    assert {word: gpt2.encode(f" {word}") for word in REFERENCE["ids"]} == {w: ids[0] for w, ids in REFERENCE["ids"].items()}


@pytest.mark.parametrize("key", [key for key in REFERENCE["counts"] if key.startswith("gpt2")])
def test_sets_have_their_published_sizes(in_gpt2, key):
    _, name, split, variant = key.split(", ")
    pairs, size, *first = REFERENCE["counts"][key]
    rows = part(in_gpt2[0], name, split, variant)
    assert rows["pair"].tolist() == [i for i in range(pairs) for _ in range(2)]
    assert rows["row"].tolist() == list(range(2 * pairs))
    assert rows["label"].tolist() == [1, 0] * pairs
    assert set(rows["tokens"].map(len)) == {size}
    assert rows["text"].tolist()[:2] == first


@pytest.mark.parametrize("key", [key for key in REFERENCE["counts"] if key.startswith("pythia, movie")])
def test_reviews_have_their_published_sizes_where_fewer_words_are_one_token(key):
    tokenizer = Tokenizer(whole_words([w for w, (_, ids) in REFERENCE["ids"].items() if len(ids) == 1]), "pythia's words")
    prompts, positions = toy_tables(tokenizer, lambda line: None, ["movie"])
    _, name, split, variant = key.split(", ")
    pairs, size, *first = REFERENCE["counts"][key]
    rows = part(prompts, name, split, variant)
    assert len(rows) == 2 * pairs and rows["text"].tolist()[:2] == first
    assert set(rows["tokens"].map(len)) == {size}
    if variant == "paper":  # one negative verb is left
        assert set(rows["word_vrb"][1::2]) == {"hated"}
        assert not set(rows["word_adj"]) & {"vile", "appalling", "dismal"}
    assert places(part(positions, name, split, variant), 1)["SUM"] == 17


def test_the_paper_counts_85_adjectives_and_8_verbs():
    sizes = {key: len(PAPER[key]) for key in PAPER if "adjectives_t" in key or key.endswith("e_verbs")}
    assert sizes == {"positive_adjectives_train": 31, "negative_adjectives_train": 24, "positive_adjectives_test": 16,
                     "negative_adjectives_test": 14, "positive_verbs": 5, "negative_verbs": 3}  # fmt: skip


def test_reviews_are_the_published_ones_token_by_token(in_gpt2):
    """Rebuilt from stored ids: the template's with a word's in the two gaps; the list of verbs begins again."""
    prompts, positions = in_gpt2
    ids = {word: gpt2_ids[0] for word, (gpt2_ids, _) in REFERENCE["ids"].items()}
    cases = [
        ("train", "paper", PAPER, 15),
        ("train", "full", PAPER, 24),
        ("test", "paper", PAPER, 14),
        ("test", "head", HEAD, 14),
    ]
    for split, variant, lists, pairs in cases:
        rows, expected = part(prompts, "movie", split, variant), []
        for i in range(pairs):
            for sign in ("positive", "negative"):
                verbs = [word for word in lists[f"{sign}_verbs"] if len(REFERENCE["ids"][word][0]) == 1]
                words = {"ADJ": lists[f"{sign}_adjectives_{split}"][i], "VRB": verbs[i % len(verbs)]}
                expected.append((words["ADJ"], words["VRB"], [ids.get(words.get(t), t) for t in REFERENCE["template_gpt2"]]))
        assert list(zip(rows["word_adj"], rows["word_vrb"], rows["tokens"], strict=True)) == expected
        assert rows["text"].tolist() == [REVIEW.format(adjective, verb) for adjective, verb, _ in expected]
        at = part(positions, "movie", split, variant)
        published = {NAMES.get(name, name): i for name, i in REFERENCE["positions"].items()}
        assert all(places(at, row) == published for row in range(2 * pairs))


def test_answers_are_five_pairs_that_negative_prompts_have_the_other_way_round(in_gpt2):
    rows, (good, bad) = part(in_gpt2[0], "movie", "test"), map(list, zip(*REFERENCE["answers_gpt2"], strict=True))
    assert all((right, wrong) == ((good, bad) if label else (bad, good))
               for right, wrong, label in zip(rows["right"], rows["wrong"], rows["label"], strict=True))  # fmt: skip


def test_the_circuits_prompts_have_the_notebooks_order(in_gpt2):
    rows = part(in_gpt2[0], "circuit")
    assert len(rows) == 50
    assert rows[["word_adj", "word_vrb"]].to_numpy().tolist() == REFERENCE["circuit_order"]
    assert rows["text"].tolist() == [REVIEW.format(*words) for words in REFERENCE["circuit_order"]]
    assert rows["right"].tolist() == [[4998], [7818]] * 25 and rows["wrong"].tolist() == [[7818], [4998]] * 25


def test_french_answers_are_first_tokens_each_once(in_gpt2, gpt2):
    row = part(in_gpt2[0], "french").iloc[0]
    firsts = [[gpt2.encode(f" {word}")[0] for word in PAPER[f"{sign}_french_answers"]] for sign in ("positive", "negative")]
    assert gpt2.decode(firsts[0]) == ["Ġb", "Ġbon", "Ġbe", "Ġag", "Ġam", "Ġdr", "ĠÃ©", "Ġsymp"]
    assert (row["right"], row["wrong"]) == (firsts[0][:7], firsts[1])
    assert answer_ids(gpt2, ["bien", "bon", "bon", "bien"], first_token=True) == firsts[0][:2]
    assert answer_ids(gpt2, ["bien", "bon", "bon"]) == firsts[0][1:2]


# ---- what holds in every tokenizer ----------------------------------------------------------------------------------


def test_a_corrupted_prompt_is_the_next_one(found):
    _, prompts, _, _ = found
    rows = part(prompts, "movie", "train")
    twins = rows.iloc[corrupted_rows(len(rows))].reset_index(drop=True)
    assert (twins["label"] != rows["label"]).all() and twins["right"].tolist() == rows["wrong"].tolist()
    positive = rows["label"] == 1
    assert (twins["pair"] == rows["pair"])[positive].all()
    assert (twins["pair"] == (rows["pair"] + 1) % 15)[~positive].all()
    assert sorted(corrupted_rows(7)) == list(range(7)) and twins["text"].iloc[-1] == rows["text"].iloc[0]


def test_variants_differ_where_they_should(found):
    tokenizer, prompts, _, _ = found
    keys = set(prompts.groupby(["set", "split", "variant"]).groups)
    both = {"movie", "adverb", "product", "french", "proper_nouns", "medical", "classification"}
    assert {name for name, _, variant in keys if variant == "paper"} == both | {"circuit"}
    assert {name for name, _, variant in keys if variant == "full"} == both | {"book", "res"}
    assert {name for name, _, variant in keys if variant == "head"} == both | {"book", "res"}
    assert len(keys) == 32 and not prompts.duplicated(["set", "split", "variant", "row"]).any()
    assert set(prompts["set"]) == set(SETS)
    train = [part(prompts, "movie", "train", variant) for variant in ("paper", "full", "head")]
    assert [len(rows) for rows in train] == [30, 48, 26]
    assert train[1]["text"].tolist()[:30] == train[0]["text"].tolist()
    assert train[2]["word_adj"].tolist()[:4] == ["adequate", "annoying", "amazing", "awful"]
    last, fixed = (part(prompts, "classification", variant=variant) for variant in ("head", "paper"))
    assert last["text"].str.contains("very  ").all() and not fixed["text"].str.contains("  ").any()
    assert last["text"].str.contains("very  adore.", regex=False).sum() == 1  # a slip: infinitives among negative adjectives
    assert fixed["text"][1::2].str.contains("very bad. Review Sentiment:", regex=False).all()
    if tokenizer.where == "pocket":
        assert "playfuly" in set(part(prompts, "adverb", variant="head")["word_adj"])
    assert "playfuly" not in set(part(prompts, "adverb", variant="full")["word_adj"])


def test_classifications_have_three_adjectives_in_turn(found):
    rows = part(found[1], "classification")
    core = {1: PAPER["positive_core_adjectives"], 0: PAPER["negative_core_adjectives"]}
    for row in rows.itertuples():
        words, pool = row.text.replace(",", "").replace(".", "").split(), core[row.label]
        asked = [words[words.index("was") + 1], words[words.index("acting") + 2], words[words.index("plot") + 2]]
        assert asked == [pool[(row.pair + shift) % len(pool)] for shift in range(3)]


def test_positions_are_those_of_the_words(found):
    """By other means: what the tokens up to a position say ends with the word that stands there."""
    tokenizer, prompts, positions, _ = found
    byte_level, decoder = tokenizer.where == "gpt2", decoders.ByteLevel()

    def said(tokens):
        pieces = tokenizer.decode(tokens[1:])
        return decoder.decode(pieces) if byte_level else "".join(pieces)

    literal = {"SBJ1": "movie", "SUM": "movie", "ADJ+1": ",", "VRB+1": "it", "PERIOD": ".", "SPACE": " ", "NEWLINE": "\n",
               "CONCLUSION": "Conclusion", "COLON": ":", "THIS": "This"}  # fmt: skip
    keys = ["set", "split", "variant", "row"]
    tokens = prompts.set_index(keys)
    by_prompt = positions.groupby(keys, sort=False)
    assert len(by_prompt) == len(prompts)
    for key, group in by_prompt:
        row, at = tokens.loc[key], group.set_index("name")["position"]
        assert at["BOS"] == 0 and row.tokens[0] == tokenizer.bos and at["END"] == len(row.tokens) - 1
        words = literal | {fit_position(key[0]): row.word_adj, "VRB": row.word_vrb}
        for name in set(at.index) & set(words):
            assert said(row.tokens[: at[name] + 1]).endswith(words[name]), (key, name)
            assert not said(row.tokens[: at[name]]).endswith(words[name]), (key, name)  # its last token, no later one
        if key[0] in ("movie", "circuit"):
            assert at["SBJ1"] < at["ADJ"] < at["VRB"] < at["PERIOD"] < at["SUM"] == at["END"] - 1
            assert ("SPACE" in at.index) == byte_level


def test_words_of_several_tokens_stand_at_their_last(in_gpt2, gpt2):
    for name, size in (("adverb", 2), ("french", 3)):
        rows, at = part(in_gpt2[0], name), part(in_gpt2[1], name)
        for row in rows.itertuples():
            end = places(at, row.row)[fit_position(name)] + 1
            assert row.tokens[end - size : end] == gpt2.encode(f" {row.word_adj}")
    assert places(part(in_gpt2[1], "french"), 0)["ADJ"] != places(part(in_gpt2[1], "french"), 0)["VRB"]


def test_in_a_vocabulary_of_words_every_filler_is_one_token(pocket):
    said = []
    prompts, _ = toy_tables(pocket, said.append)
    for row in prompts.itertuples():
        assert len(row.tokens) == 1 + len(split_words(row.text))
        assert row.tokens[0] == pocket.bos and pocket.decode(row.tokens[1:]) == split_words(row.text)
    assert any("french, all, paper: words of 1 tokens, since fewer than 2 pairs are of 3" in line for line in said)
    assert len(part(prompts, "adverb")) == 38  # no word twice


def test_a_model_without_a_token_in_front_has_no_first_position():
    inner = word_level([])
    inner = HubTokenizer(type(inner.model)({word: i for i, word in enumerate(vocabulary())}))
    inner.pre_tokenizer = word_level([]).pre_tokenizer
    prompts, positions = toy_tables(Tokenizer(inner, "bare"), lambda line: None, ["movie"])
    assert "BOS" not in set(positions["name"])
    assert places(part(positions, "movie", "test"), 3)["ADJ"] == 5
    assert inner.id_to_token(part(prompts, "movie", "test")["tokens"][2][5]) == "impressive"


def test_words_that_a_vocabulary_lacks_are_left_out_and_pairs_move_up():
    lacking = {"stunning", "vile", "enjoyed", "great"}
    tokenizer, said = Tokenizer(word_level([w for w in vocabulary() if w not in lacking]), "small"), []
    rows = part(toy_tables(tokenizer, said.append, ["movie"])[0], "movie", "test")
    assert rows["word_adj"].tolist()[:4] == ["impressive", "foul", "admirable", "appalling"]
    assert rows["word_vrb"].tolist()[:4] == ["loved", "hated", "liked", "disliked"]
    assert len(rows) == 26 and "movie, test, paper: 13 pairs, words of 1 tokens, 3 words left out" in said
    # The list of answers without the missing one, beside the first of the other list.
    assert tokenizer.decode(rows["right"][0]) == ["amazing", "awesome", "good", "perfect"]
    assert tokenizer.decode(rows["wrong"][0]) == ["terrible", "awful", "bad", "horrible"]


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_built_is_refused_in_one_sentence(gpt2, pocket):
    few = set(PAPER["negative_adjectives_test"][1:]) | set(HEAD["negative_adjectives_test"])
    small = Tokenizer(word_level([w for w in vocabulary() if w not in few]), "small")
    assert refusal(lambda: toy_tables(small, print, ["movie"])) == (
        "the toy set 'movie, test, paper' has 0 pairs of words in the tokenizer of small; expected 2 or more"
    )
    one = Tokenizer(word_level([w for w in vocabulary() if w not in few - {"foul"}]), "one")
    assert "'movie, test, paper' has 1 pairs" in refusal(lambda: toy_tables(one, print, ["movie"]))
    assert refusal(lambda: lay_out(gpt2, "It was <ADJ>.", {"ADJ": "adored"}, {"ADJ": 1})) == (
        "'adored' is 2 tokens in 'It was adored.' with the tokenizer of gpt2; expected 1"
    )
    layouts = [lay_out(gpt2, "I <VRB> it", {"VRB": word}, {}) for word in ("loved", "adored")]
    assert refusal(lambda: check_lengths(gpt2, layouts, "'a set'")) == (
        "the prompts of 'a set' differ in length in the tokenizer of gpt2: 'I loved it' is 4 tokens and 'I adored it' 5; "
        "expected one length"
    )
    check_lengths(gpt2, layouts[:1] * 2, "'a set'")
    assert "there is no toy set films; choose from: movie, circuit" in refusal(lambda: toy_tables(gpt2, print, ["films"]))
    assert "none of the answers qwerty, zxcvb is one token" in refusal(lambda: answer_ids(pocket, ["qwerty", "zxcvb"]))


# ---- negated and counted words --------------------------------------------------------------------------------------


def test_negated_words_are_found_in_their_sentences(gpt2, pocket):
    table = negation_table(gpt2, print)
    assert len(table) == 27 and table["weak"].sum() == 5 and set(table["word"][table["weak"]]) == {"short"}
    for row in table.itertuples():
        assert row.text.split().count(row.word) + row.text.split().count(f"{row.word}.") == 1
        assert row.tokens == [50256, *gpt2.encode(row.text)]
        assert row.tokens[row.position] == gpt2.single(f" {row.word}")
    assert set(negation_text().split(". ")) <= {row.text.removesuffix(".") for row in table.itertuples()} | {
        "I don't like you."
    }


def test_a_vocabulary_without_them_gets_short_reviews(pocket, gpt2):
    said = []
    negated, plain = (negation_table(pocket, said.append, kind).set_index("item") for kind in ("negation", "plain"))
    assert said == [f"{kind}: all of {n} sentences have words that the tokenizer lacks; reviews of one clause instead"
                    for kind, n in (("negation", 27), ("plain", 22))]  # fmt: skip
    assert len(negated) == len(plain) == 18 and not negated["weak"].any()
    signs = {word.strip(): sign for sign in ("positive", "negative") for word in PAPER[f"{sign}_adjectives_train"]}
    signs |= {word.strip(): sign for sign in ("positive", "negative") for word in PAPER[f"{sign}_adjectives_test"]}
    assert Counter(signs[word] for word in negated["word"]) == {"positive": 9, "negative": 9}
    for item, row in negated.iterrows():
        text, count = re.subn(r" was (not|never|hardly) ", " was ", row["text"])
        assert (
            count == 1 and text == plain.loc[item, "text"] and pocket.decode([row["tokens"][row["position"]]]) == [row["word"]]
        )
    assert (
        pocket.encode(negation_text(stand_in=True)) and len(re.findall("not|never|hardly", negation_text(stand_in=True))) == 3
    )


def test_counted_words_are_one_token(gpt2, pocket):
    table = word_groups(gpt2)
    assert table.groupby("group").size().to_dict() == {"positive": 12, "negative": 7, "neutral": 5}
    assert gpt2.decode(table["token"].tolist()) == [f"Ġ{word}" for word in table["word"]]
    assert isinstance(word_groups(pocket), pd.DataFrame) and "evil" not in set(word_groups(pocket)["word"])
