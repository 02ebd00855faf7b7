"""The offline stand-ins: held out from training, balanced, in pairs, with classes told by the paper's own lists."""

import json
import re
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


def test_a_review_has_words_of_its_class_and_commas(found):
    words = {sign: set() for sign in ("positive", "negative")}
    for lists in LISTS:
        for sign, kept in words.items():
            for kind in ("core_adjectives", "adjectives_train", "adjectives_test", "verbs"):
                kept.update(word.strip() for word in lists[f"{sign}_{kind}"])
    clauses = set()
    for row in found.itertuples():
        said = set(re.findall(r"\w+", row.text))
        sign, other = ("positive", "negative") if row.score else ("negative", "positive")
        assert said & words[sign] and not said & words[other]
        assert row.text.startswith("I thought this movie was ") and "overall" not in row.text
        clauses.add(row.text.count(","))
    assert clauses >= {1, 2, 3, 4}


def test_reviews_are_held_out_of_training(found):
    for row in found.itertuples():
        prompt = f"{row.text}, and overall the movie was just very"
        assert corpus.is_held_out(corpus.Sentence(prompt, ""))
    assert not any(corpus.is_held_out(corpus.draw("long_reviews", corpus.stream(i, "x"))) for i in range(20))


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
    assert list(sst.examples(ours).columns) == list(sst.EXAMPLES)


def test_the_corpus_itself_ends_reviews_as_the_scaffold_does(tokenizer):
    drawn = [corpus.draw("long_reviews", corpus.stream(0, "ends"), held_out=True).prompt for _ in range(5)]
    assert all(reviews.OVERALL in prompt for prompt in drawn)
    assert all(tokenizer.encode(prompt) for prompt in drawn)


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
    ends = {"great": "It was fine", "awful": "It was foul"}
    made = cycle([corpus.Sentence(text + reviews.OVERALL, word, (word,)) for word, text in ends.items()])
    monkeypatch.setattr(reviews, "long_review", lambda rng: next(made))
    monkeypatch.setattr(reviews, "is_held_out", lambda sentence: True)
    tokenizer = Tokenizer(word_level(["It", "was", "fine", "foul"]), "four")
    assert reviews.reviews(tokenizer, {"test": 1}, 0)["text"].tolist() == ["It was foul", "It was fine"]
    with pytest.raises(UserError, match="the corpus gives only 1 pairs of test reviews; expected 3"):
        reviews.reviews(tokenizer, {"test": 3}, 0)


# ---- running text ---------------------------------------------------------------------------------------------------


def test_running_text_is_the_corpus_without_its_reviews(tokenizer):
    documents = reviews.documents(600, 0)
    assert documents == reviews.documents(600, 0) != reviews.documents(600, 1)
    assert len(documents) == 600 and not any("I thought this movie" in text for text in documents)
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
