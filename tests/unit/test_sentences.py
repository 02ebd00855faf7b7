"""The sentences of circuit probing: digests of the released files, the published splits, and tokens with two answers each."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.tasks.corpus import PAPERS, vocabulary
from recircuit.tasks.sentences import SETS, TASKS, parts_of, released, sentences_table, split_order

CHECKSUMS = pd.read_csv(
    Path(__file__).parents[1] / "data" / "circuit_probing_checksums.csv", comment="#", keep_default_na=False
)
FILES = {f"{name.removesuffix('_gen')}/{name}": name for name in SETS}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(PAPERS.tokenizer(), "pocket")


@pytest.fixture(scope="module")
def table(tokenizer):
    return sentences_table(tokenizer, lambda line: None)


def digest(lines) -> str:
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()


@pytest.mark.parametrize("file", FILES)
def test_sets_are_the_released_ones(file):
    row, found = CHECKSUMS.set_index("dataset").loc[file], released(FILES[file])
    assert len(found) == row["n_rows"]
    data, other = ([" ".join([s.text, word]).strip() for s, word in zip(found, words, strict=True)]
                   for words in ([s.right for s in found], [s.wrong for s in found]))  # fmt: skip
    assert data[0] == row["first"]
    assert digest(data) == row["sha256_data"]
    assert digest(s.subject for s in found) == row["sha256_labels"]
    assert "Reflexive" not in file or digest(other) == row["sha256_counterfactual"]


def numbers(text: str) -> list[bool]:
    """Tell for every noun of a sentence whether it is plural; ``to the side of`` is a preposition."""
    words = text.replace("taxi driver", "taxi-driver").replace("to the side of", "beside").split()
    return [words[i + 1].endswith("s") for i, word in enumerate(words) if word == "the"]


def test_numbers_and_genders_are_told_by_the_words():
    for s in (sentence for name in SETS for sentence in released(name)):
        nouns = numbers(s.text)
        subject = nouns.pop(-1 if s.template == "complement" else 0)
        assert subject == s.subject and set(nouns) == {bool(s.attractor)}
        if s.right:
            assert s.gender == int("herself" in (s.right, s.wrong))
            assert (s.right == "themselves") == subject != (s.wrong == "themselves")


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_cut_from_one_permutation(name):
    def permuted(sentences):
        order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(0)).tolist()
        return [sentences[i] for i in order]

    task, expected = TASKS[name], {}
    genders = {"male_": 0, "female_": 1} if name == "reflexives" else {"": None}
    for prefix, gender in genders.items():
        whole = permuted([s for s in released(task.released) if gender is None or s.gender == gender])
        if gender != 1:
            expected["train"] = whole[:2000]
        expected[f"{prefix}iid"] = whole[2000:3000]
        if task.generalisation:
            general = permuted([s for s in released(task.generalisation) if gender is None or s.gender == gender])
            expected[f"{prefix}gen"] = general[:1000]
    assert dict(parts_of(name)) == expected


def test_the_order_of_a_split_leaves_the_global_stream_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert (split_order(50) == torch.randperm(50, generator=torch.Generator().manual_seed(0))).all()
    assert (torch.random.get_rng_state() == before).all()


def test_the_test_sets_have_the_published_share_of_singulars(table):
    for task, part, share in (("agreement", "iid", 0.520), ("reflexives", "male_iid", 0.511), ("number", "iid", 0.500)):
        labels = table.loc[(table["task"] == task) & (table["part"] == part), "label"]
        assert len(labels) == 1000 and (labels == 0).mean() == share
    assert table.groupby(["task", "part"], sort=False).size().to_dict() == {
        ("agreement", "train"): 2000, ("agreement", "iid"): 1000, ("agreement", "gen"): 1000,
        ("reflexives", "train"): 2000, ("reflexives", "male_iid"): 1000, ("reflexives", "male_gen"): 1000,
        ("reflexives", "female_iid"): 1000, ("reflexives", "female_gen"): 1000,
        ("number", "train"): 2000, ("number", "iid"): 1000,
    }  # fmt: skip


def test_sentences_have_their_own_tokens_and_answers_of_one_token(table, tokenizer):
    for row in table.sample(500, random_state=0).itertuples():
        assert tokenizer.decode(row.tokens) == row.text.split()
        right, wrong = tokenizer.decode([row.right, row.wrong])
        if row.task == "reflexives":
            assert {right, wrong} in ({"himself", "themselves"}, {"herself", "themselves"})
            assert (right == "themselves") == bool(row.label)
        else:  # with object number as the label the answer is still the subject's verb
            assert (right, wrong) == (("are", "is") if numbers(row.text)[0] else ("is", "are"))
        assert row.matched == (len(set(numbers(row.text))) == 1)


def test_the_label_of_number_is_the_attractors(table):
    rows = table[table["task"] == "number"]
    last = rows["text"].str.split().str[-1].str.endswith("s").astype(int)
    assert (rows["label"] == last).all()


def test_a_tokenizer_without_the_answer_is_refused_in_one_sentence():
    lacking = Tokenizer(word_level([word for word in vocabulary() if word != "is"]), "here")
    with pytest.raises(UserError, match="the word 'is' is not in the vocabulary of here") as caught:
        sentences_table(lacking, lambda line: None)
    assert "\n" not in str(caught.value)
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(["x"], vocab_size=257, show_progress=False)
    with pytest.raises(UserError, match="' are' is 4 tokens in the tokenizer of bytes; expected exactly one"):
        sentences_table(Tokenizer(inner._tokenizer, "bytes"), lambda line: None)
