"""The offline stand-ins: held out from training, balanced, in pairs, with classes told by the paper's own lists."""

import json
import re
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.tasks import corpus, reviews, sst
from recircuit.tasks.running_text import rows, token_labels

LISTS = [
    json.loads((Path(corpus.__file__).parent / f"data/sentiment/prompt_lists_all_{version}.json").read_text(encoding="utf-8"))
    for version in ("paper_era", "head")
]
PAIRS = {"train": 40, "dev": 20, "test": 60}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(corpus.PAPERS.tokenizer(), "pocket")


@pytest.fixture(scope="module")
def found(tokenizer):
    return reviews.reviews(tokenizer, PAIRS, 0)


def test_reviews_look_like_the_treebanks_sentences(found):
    assert list(found.columns) == sst.COLUMNS
    assert found["sentence_index"].tolist() == [*range(1, 241)]
    assert found["text"].is_unique
    assert found.groupby(["split", "score"]).size().to_dict() == {
        (split, score): n for split, n in PAIRS.items() for score in (0.0, 1.0)
    }
    assert sst.usable(found, lambda line: None).equals(found)


def signed_words():
    words = {}
    for lists in LISTS:
        for sign, value in (("positive", 1), ("negative", -1)):
            for kind in ("core_adjectives", "adjectives_train", "adjectives_test"):
                words |= {word.strip(): value for word in lists[f"{sign}_{kind}"]}
    return words


def test_most_clauses_of_a_review_have_its_sign(found):
    words, seen = signed_words(), Counter()
    for row in found.itertuples():
        assert row.text[0].isupper() and "overall" not in row.text
        total = 0
        for clause in row.text.lower().split(", "):
            _, _, said = clause.partition(" was ")
            adjective = [words[word] for word in said.split() if word in words]
            turns = len(re.findall(r"^(?:not|never|hardly) ", said)) + len(re.findall(r" (?:on paper|at first)$", said))
            total += sum(adjective) * (-1) ** turns
            seen[len(adjective), turns] += 1
        assert (total > 0) == bool(row.score) and total != 0, row.text
    assert set(seen) == {(0, 0), (1, 0), (1, 1), (1, 2)}, "neutral, plain, turned and turned twice"
    assert {text.count(",") for text in found["text"]} >= {0, 1, 2, 3}


def test_reviews_are_held_out_of_training_whatever_they_end_in(found):
    texts = set(found["text"])
    assert all(corpus.is_held_out(corpus.Sentence("", "", text=text)) for text in texts)
    ends = Counter()
    for i in range(300):
        sentence = corpus.draw("long_reviews", corpus.stream(i, "x"))
        assert sentence.prompt.startswith(sentence.text) and not corpus.is_held_out(sentence)
        assert sentence.text not in texts
        ends[reviews.OVERALL in sentence.prompt, reviews.LABEL in sentence.prompt] += 1
    assert set(ends) == {(True, False), (False, True), (True, True)}


@pytest.mark.parametrize("name", reviews.SCAFFOLDS)
def test_all_reviews_stand_in_pairs_of_equal_length(found, tokenizer, name):
    prompts = sst.prompts(found, tokenizer, name, reviews.SCAFFOLDS)
    pairs = sst.paired(prompts)
    assert len(pairs) == len(found) == 240
    assert (pairs["n_tokens"][::2].to_numpy() == pairs["n_tokens"][1::2].to_numpy()).all()
    assert (prompts["n_commas"] == found["text"].str.count(",")).all(), "the comma of the scaffold is not the review's"
    answers = {tokenizer.decode([row.right])[0] for row in prompts[prompts["label"] == 1].itertuples()}
    assert answers == {"good" if name == "continuation" else "Positive"}
    assert (prompts["n_tokens"] <= 64).all(), "no longer than the embedded models can read"


def test_prompts_have_the_treebanks_columns(found, tokenizer):
    theirs = sst.prompts(found, tokenizer, "review", {"review": sst.Scaffold("{text}.", " good", " bad", bos=True)})
    ours = sst.prompts(found, tokenizer, "suffix", reviews.SCAFFOLDS)
    assert list(ours.columns) == list(theirs.columns)


def test_the_corpus_itself_ends_reviews_as_the_scaffolds_do(tokenizer):
    drawn = [corpus.draw("long_reviews", corpus.stream(i, "ends"), held_out=True) for i in range(60)]
    asked = {scaffold.template.format(text=sentence.text) for sentence in drawn for scaffold in reviews.SCAFFOLDS.values()}
    assert sum(sentence.prompt in asked for sentence in drawn) > 30
    assert all(tokenizer.encode(sentence.prompt) for sentence in drawn)


def test_reviews_depend_on_the_seed_alone(found, tokenizer):
    assert reviews.reviews(tokenizer, PAIRS, 0).equals(found)
    other = reviews.reviews(tokenizer, PAIRS, 1)
    assert len(set(other["text"]) & set(found["text"])) < 20


def test_any_tokenizer_gets_pairs(found):
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(found["text"], vocab_size=400, show_progress=False)
    inner._tokenizer.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(inner._tokenizer, "bytes")
    some = reviews.reviews(tokenizer, {"test": 15}, 0)
    lengths = some["text"].map(lambda text: len(tokenizer.encode(text))).to_numpy().reshape(-1, 2)
    assert len(lengths) == 15 and (lengths[:, 0] == lengths[:, 1]).all()
    assert set(some["score"].to_numpy().reshape(-1, 2).sum(1)) == {1.0}


def test_a_corpus_that_is_used_up_ends_in_one_sentence(monkeypatch):
    made = cycle([("It was fine", ("positive", "negative")), ("It was foul", ("negative", "positive"))])
    monkeypatch.setattr(reviews, "opinion", lambda rng: next(made))
    monkeypatch.setattr(reviews, "is_held_out", lambda sentence: True)
    tokenizer = Tokenizer(word_level(["It", "was", "fine", "foul"]), "four")
    assert reviews.reviews(tokenizer, {"test": 1}, 0)["text"].tolist() == ["It was foul", "It was fine"]
    with pytest.raises(UserError, match="the corpus gives only 1 pairs of test reviews; expected 3"):
        reviews.reviews(tokenizer, {"test": 3}, 0)


# ---- running text ---------------------------------------------------------------------------------------------------


def test_running_text_is_the_corpus_without_its_reviews(tokenizer):
    documents = reviews.documents(900, 0)
    assert documents == reviews.documents(900, 0) != reviews.documents(900, 1)
    assert len(documents) == 900 and not any("I thought this movie" in text for text in documents)
    patterns = ("done in|lost in|born in", "lasted from the year", "hear", "restaurant", "feels very", "themsel|himsel|hersel")
    for pattern in patterns:
        assert sum(bool(re.search(pattern, text)) for text in documents) > 10, pattern
    cut = rows(documents, tokenizer, length=64)
    assert cut.shape[1] == 64 and len(cut) > 50
    assert (cut[:, 0] == tokenizer.bos).all()
    labels = token_labels(tokenizer, reviews.word_labels())[cut]
    assert all((labels == sign).sum() > 30 for sign in ("positive", "negative", "neutral", "unlabelled"))


def test_words_have_the_class_of_their_list():
    labels = reviews.word_labels()
    signed = {"great": "positive", "awful": "negative", "loved": "positive", "hated": "negative", "average": "neutral",
              "masterpiece": "positive", "flop": "negative", "adore": "positive", "detest": "negative"}  # fmt: skip
    assert {word: labels[word] for word in signed} == signed
    assert labels["the"] == labels["17"] == labels["March"] == "neutral"
    assert "decent" not in labels and "satisfactory" not in labels, "positive in one list, neutral in another"
    assert set(labels) < set(corpus.vocabulary())
    assert reviews.word_labels(["great", "quixotic"]) == {"great": "positive", "quixotic": "neutral"}
