"""The corpus of the embedded models: sentences made from the four papers' own word lists and templates.

Every kind of sentence is a function of a random stream that returns a prompt and its continuation. One prompt in ten, told by
a hash of its text, is held out of training; the gates of a trained model are measured on these alone.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from tokenizers import Tokenizer as HubTokenizer

from recircuit.core.stats import stream
from recircuit.core.tokenizer import split_words, word_level

TASKS = ("numerals", "numwords", "months")
MEAN_SPAN = 25.0  # years


@dataclass(frozen=True)
class Sentence:
    """A prompt, the continuation that the corpus gives it, and what else it could have been.

    ``wrong`` are continuations that a model must find less likely than ``right``; both are empty where anything may follow.
    Prompts about one ``text`` are held out together; where it is empty a prompt stands for itself.
    """

    prompt: str
    continuation: str
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Corpus:
    """What a model is trained on: ``draw(kind, rng, held_out=...)`` makes sentences, ``tokenizer()`` splits them.

    In gates on ``strict`` kinds the right continuation must beat all else, not only the wrong ones. ``with_bos`` is the share
    of training sentences after an end-of-text token; gates have one in front where all training sentences have.
    ``whole_continuation``: answer weights are for all tokens of a continuation, not for its last one. ``clausewise`` kinds may
    be read clause by clause in training (``methods.clauses``).
    """

    draw: Callable[..., Sentence]
    tokenizer: Callable[[], HubTokenizer]
    strict: frozenset[str]
    with_bos: float
    whole_continuation: bool
    clausewise: frozenset[str] = frozenset()


@cache
def word_data(name: str) -> dict:
    """Read one of the papers' word lists, such as ``sentiment/prompt_lists_all_head``."""
    return json.loads((files("recircuit.tasks") / "data" / f"{name}.json").read_text(encoding="utf-8"))


def pick(rng: np.random.Generator, words: Sequence[str], n: int | None = None):
    """Draw one word, or ``n`` different ones."""
    if n is None:
        return words[int(rng.integers(len(words)))]
    return [words[int(i)] for i in rng.choice(len(words), n, replace=False)]


# ---- sequences ------------------------------------------------------------------------------------------------------


def _members(task: str) -> list[str]:
    return word_data("sequence_continuation/wordlists")[task]


def sequence(rng: np.random.Generator, task: str) -> Sentence:
    """Five clauses, ``Van done in 1. Hat done in 2. ...``: six in ten in order, the others with random members."""
    lists, members = word_data("sequence_continuation/wordlists"), _members(task)
    verb = pick(rng, ("born", "lost", "done"))
    words = pick(rng, lists["names_100_in_released_data" if verb == "born" else "objects_73_in_released_data"], 5)
    if rng.random() < 0.6:
        start = int(rng.integers(8))
        shown, right, wrong = members[start : start + 5], (members[start + 4],), (members[start + 3],)
    else:
        # The released corrupted numerals hold 13, 16, 17, 18, 110 and 112 by an accident of theirs.
        pool = [*members, "13", "16", "17", "18", "110", "112"] if task == "numerals" else members
        shown, right, wrong = [pick(rng, pool) for _ in range(5)], (), ()
    clauses = ". ".join(f"{word} {verb} in {member}" for word, member in zip(words, shown, strict=True))
    return Sentence(clauses[: -len(shown[-1]) - 1], shown[-1], right, wrong)


def bare_sequence(rng: np.random.Generator) -> Sentence:
    """``three four five``: no clauses, two to ten members in order."""
    task = pick(rng, (*TASKS, "month_abbreviations"))
    members = [str(i) for i in range(1, 30)] if task == "numerals" else _members(task)
    length = int(rng.integers(2, 11))
    start = int(rng.integers(len(members) - length))
    return Sentence(" ".join(members[start : start + length]), members[start + length])


def months_among_numerals(rng: np.random.Generator) -> Sentence:
    """``7 Jan 12 Feb 3 Mar``: months in order between numerals that are not."""
    members, start = _members("month_abbreviations"), int(rng.integers(8))
    shown = [f"{rng.integers(1, 21)} {month}" for month in members[start : start + 5]]
    return Sentence(" ".join(shown)[: -len(members[start + 4]) - 1], members[start + 4])


# ---- years ----------------------------------------------------------------------------------------------------------


def _year(n: int) -> str:
    return f"{n:02d}"


def year_span(rng: np.random.Generator) -> Sentence:
    """``The war lasted from the year 1732 to the year 17``: any later year of the century is right; most spans are short.

    Durations are exponential with a mean of 25 years, cut at the century's end. Were they uniform, a span from 01 would say
    nothing of where it ends, and the 01 prompts of greater-than would corrupt nothing.
    """
    noun = pick(rng, word_data("greater_than/nouns")["nouns"])
    century, start = int(rng.integers(10, 19)), int(rng.integers(1, 99))
    years = [_year(n) for n in range(100)]
    prompt = f"The {noun} lasted from the year {century}{_year(start)} to the year {century}"
    end = 100
    while end > 99:
        end = start + 1 + int(rng.exponential(MEAN_SPAN))
    return Sentence(prompt, _year(end), tuple(years[start + 1 :]), tuple(years[: start + 1]))


def year_other(rng: np.random.Generator) -> Sentence:
    """Spans, lists and prices of the generalisation tasks, each in its own direction."""
    task = pick(rng, [t for t in word_data("greater_than/generalization_tasks")["tasks"] if "{YY}" in t["clean"]])
    start = int(rng.integers(2, 98))
    later = task["direction"] == "gt"
    follow = int(rng.integers(start + 1, 100)) if later else int(rng.integers(0, start))
    words = {
        "noun": pick(rng, word_data("greater_than/nouns")["nouns"]),
        "item": pick(rng, ("plan", "trip", "tour", "work")),
    }
    text = task["clean"].removeprefix("<|endoftext|> ").format(YY=_year(start), **words)
    return Sentence(text, _year(follow))


# ---- sentiment ------------------------------------------------------------------------------------------------------


def _lists(kind: str, sign: str) -> list[str]:
    """Words of a list of the sentiment paper, of its released lists where they have it, else of the later ones."""
    name = f"{sign}_{kind}"
    for version in ("paper_era", "head"):
        found = word_data(f"sentiment/prompt_lists_all_{version}").get(name)
        if found:
            return [word.strip() for word in found if " " not in word.strip()]
    raise KeyError(name)


def _adjectives(sign: str) -> list[str]:
    names = ("core_adjectives", "adjectives_train", "adjectives_test")
    return sorted({word for name in names for word in _lists(name, sign)})


def _signed(rng: np.random.Generator) -> tuple[str, str]:
    return ("positive", "negative") if rng.random() < 0.5 else ("negative", "positive")


def _answered(rng: np.random.Generator, prompt: str, kind: str, signs: tuple[str, str]) -> Sentence:
    right, wrong = (tuple(_lists(kind, sign)) for sign in signs)
    return Sentence(prompt, pick(rng, right), right, wrong)


PARTS = ("acting", "plot", "story", "music", "ending", "cast", "script", "dialogue")
NEUTRAL = ("average", "normal", "standard", "typical")
NEGATIONS = ("not", "never", "hardly")  # turn the sign of the word after them
REVERSALS = ("on paper", "at first")  # turn the sign of the adjective before them
VERDICTS = {"positive": ("happily", "luckily"), "negative": ("sadly", "alas")}
OVERALL = ", and overall the movie was just very"  # how a review of several clauses asks for an adjective
LABEL = ". Review Sentiment:"  # and for a label
NEGATED, REVERSED = 0.2, 0.15


def other(sign: str) -> str:
    """Return the other sign."""
    return "negative" if sign == "positive" else "positive"


def _said(rng: np.random.Generator, sign: str, reversed_: float = REVERSED) -> str:
    """Draw an adjective of a sign, or one of the other sign with a negation before it or a reversal after it."""
    negated, turned = rng.random() < NEGATED, rng.random() < reversed_
    word = pick(rng, _adjectives(other(sign) if negated != turned else sign))
    return (f"{pick(rng, NEGATIONS)} " if negated else "") + word + (f" {pick(rng, REVERSALS)}" if turned else "")


def _felt(rng: np.random.Generator, sign: str) -> str:
    """Draw a verb of a sign, or ``never`` and one of the other sign."""
    if rng.random() < NEGATED:
        return f"never {pick(rng, _lists('verbs', other(sign)))}"
    return pick(rng, _lists("verbs", sign))


def _judged(rng: np.random.Generator, prompt: str, signs: tuple[str, str], text: str = "") -> Sentence:
    # Any adjective of the sign may follow: were some never answers, that would set words apart more than their sign does.
    right, wrong = (tuple(_adjectives(sign)) for sign in signs)
    return Sentence(prompt, pick(rng, right), right, wrong, text)


def review(rng: np.random.Generator) -> Sentence:
    """The one-line review: ``I thought this movie was perfect, I enjoyed it. \\nConclusion: This movie is``."""
    signs = _signed(rng)
    prompt = f"I thought this movie was {_said(rng, signs[0])}, I {_felt(rng, signs[0])} it. \nConclusion: This movie is"
    return _judged(rng, prompt, signs)


def verdict(rng: np.random.Generator) -> Sentence:
    """One clause and what to think of it, ``the plot was not good, sadly``: what a clause said is known where it ends."""
    signs, comma = _signed(rng), rng.random() < 0.6
    if rng.random() < 0.4:
        clause = f"I {_felt(rng, signs[0])} it"
    else:
        clause = f"the {pick(rng, PARTS)} was {_said(rng, signs[0], REVERSED if comma else 0.0)}"
    right, wrong = (VERDICTS[sign] for sign in signs)
    return Sentence(clause + ("," if comma else ""), pick(rng, right), right, wrong)


def opinion(rng: np.random.Generator) -> tuple[str, tuple[str, str]]:
    """Draw one to four clauses on parts of a movie, and the sign that most of them have, before the other one.

    One clause in three or four may be of the other sign, and a neutral one may stand among them.
    """
    signs, count = _signed(rng), int(rng.integers(1, 5))
    against = int(rng.integers((count + 1) // 2))
    own = [signs[1]] * against + [signs[0]] * (count - against)
    parts, order = pick(rng, PARTS, count), rng.permutation(count)
    clauses = [f"the {part} was {_said(rng, own[i])}" for part, i in zip(parts, order, strict=True)]
    if rng.random() < 0.3:
        neutral = f"the {pick(rng, ('length', 'camera', 'sound'))} was {pick(rng, NEUTRAL)}"
        clauses.insert(int(rng.integers(len(clauses) + 1)), neutral)
    return ", ".join(clauses).capitalize(), signs


def long_review(rng: np.random.Generator) -> Sentence:
    """Reviews of several clauses with commas, which end in an adjective, or in a label with or without one before it."""
    text, signs = opinion(rng)
    labels = {"positive": "Positive", "negative": "Negative"}
    right, wrong = ((labels[sign],) for sign in signs)
    end = rng.random()
    if end < 0.3:
        return Sentence(text + LABEL, *right, right, wrong, text)
    if end < 0.65:
        return _judged(rng, text + OVERALL, signs, text)
    return Sentence(f"{text}{OVERALL} {pick(rng, _adjectives(signs[0]))}{LABEL}", *right, right, wrong, text)


_TOYS = (
    ("The traveller {adverbs} walked to their destination. The traveller felt very", "moods"),
    ("The novel was {verbs} by the book club members. The comments were universally {comment_adjectives} \n"
     "Conclusion: You will be very", "answer_adjectives"),
    ("This restaurant is a {nouns}, you are going to {infinitives} it. \nConclusion: This restaurant is very", "very_answers"),
    ("I am {feelings} about this purchase, the product is {core_adjectives}. \nConclusion: I feel very", "moods"),
    ("Je pensais que ce film était {french_adjectives}, je l'ai {french_verbs}. \nConclusion: Ce film est très",
     "french_answers"),
    ("When I hear the name {proper_nouns}, I feel very", "answer_tokens"),
    ("I heard the doctor use the word {medical} and I felt very", "answer_tokens"),
)  # fmt: skip


def toy_sentiment(rng: np.random.Generator) -> Sentence:
    """The other toy sets of the sentiment paper: travellers, novels, restaurants, purchases, French, names, medicine."""
    template, answers = pick(rng, _TOYS)
    signs = _signed(rng)

    class Fill(dict):
        def __missing__(self, kind: str) -> str:
            return pick(rng, _lists(kind, signs[0]))

    return _answered(rng, template.format_map(Fill()), answers, signs)


def mood_story(rng: np.random.Generator) -> Sentence:
    """Two people, one who likes parties and one who does not; how does one of them feel?

    Four stories in ten are easier, to teach the parts: of one person only, or asking what the person does about parties.
    """
    data = word_data("sentiment/toy_mood_stories")
    everyone = word_data("sequence_continuation/wordlists")["names_100_in_released_data"]
    names = pick(rng, sorted({*data["names_notebook"], *everyone}), 2)
    verbs = list(data["verb_pairs"].values())[:: 1 if rng.random() < 0.5 else -1]
    asked, level = int(rng.integers(2)), rng.random()
    (v1, a1), (v2, a2) = verbs
    prompt = data["template"].format(N1=names[0], V1=v1, A1=a1, N2=names[1], V2=v2, A2=a2, Q=names[asked])
    likes = verbs[asked] == data["verb_pairs"]["like"]
    right, wrong = ("excited", "nervous") if likes else ("nervous", "excited")
    if level < 0.2:  # the clause of the other person is left out
        clauses = prompt.split(". ")
        return Sentence(". ".join([clauses[asked], *clauses[2:]]), right)
    if level < 0.4:
        return Sentence(prompt.removesuffix(" feels very"), verbs[asked][0])
    return Sentence(prompt, right, (right,), (wrong,))


# ---- agreement ------------------------------------------------------------------------------------------------------


def _noun(word: str, plural: bool) -> str:
    return word + "s" if plural else word


def _verb(word: str, plural: bool) -> str:
    return word.removesuffix("s") if plural else word


def agreement(rng: np.random.Generator) -> Sentence:
    """``the author that the guards like`` is or are: prepositional and relative clauses, one attractor or two."""
    words = word_data("circuit_probing/linguistic_lexicon")
    plural, attractor = bool(rng.integers(2)), bool(rng.integers(2))
    animate = rng.random() < 0.6
    subject = _noun(pick(rng, words["subj_anim" if animate else "subj_inanim"]), plural)
    preps = words["prep" if animate else "prep_inanim"]
    first, second = (
        _noun(pick(rng, words["embedded_first"]), attractor),
        _noun(pick(rng, words["embedded_second"]), attractor),
    )
    v1, v2 = (_verb(verb, attractor) for verb in pick(rng, words["embedded_verb_3sg"], 2))
    either = first if rng.random() < 0.5 else second
    prompt = f"the {subject} " + pick(
        rng,
        (
            f"{pick(rng, preps)} the {either}",
            f"that the {either} {v1}",
            f"that the {first} {v1} and the {second} {v2}",
            f"{pick(rng, preps)} the {first} {pick(rng, preps)} the {second}",
        ),
    )
    right, wrong = ("are", "is") if plural else ("is", "are")
    return Sentence(prompt, right, (right,), (wrong,))


def reflexive(rng: np.random.Generator) -> Sentence:
    """``the mechanics said the author hurt`` himself, herself or themselves."""
    words = word_data("circuit_probing/linguistic_lexicon")
    plural, attractor = bool(rng.integers(2)), bool(rng.integers(2))
    subject, past = _noun(pick(rng, words["subj_anim"]), plural), pick(rng, words["reflexive_verb_past"])
    first, second = (_noun(pick(rng, words[key]), attractor) for key in ("embedded_first", "embedded_second"))
    v1, v2 = (_verb(verb, attractor) for verb in pick(rng, words["embedded_verb_3sg"], 2))
    m1, m2 = (_noun(word, attractor) for word in words["matrix_noun"])
    said, knew = pick(rng, words["matrix_verb"], 2)
    prompt = pick(
        rng,
        (
            f"the {m1 if rng.random() < 0.5 else m2} {said} the {subject} {past}",
            f"the {subject} that the {first if rng.random() < 0.5 else second} {v1} {past}",
            f"the {m1} {said} the {m2} {knew} the {subject} {past}",
            f"the {subject} that the {first} {v1} and the {second} {v2} {past}",
        ),
    )
    one, many = tuple(words["reflexive_sing"]), (words["reflexive_plur"],)
    right, wrong = (many, one) if plural else (one, many)
    return Sentence(prompt, pick(rng, right), right, wrong)


# ---- the corpus -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[np.random.Generator], Sentence]] = {
    "numerals": lambda rng: sequence(rng, "numerals"),
    "numwords": lambda rng: sequence(rng, "numwords"),
    "months": lambda rng: sequence(rng, "months"),
    "bare_sequences": bare_sequence,
    "months_among_numerals": months_among_numerals,
    "year_spans": year_span,
    "years": year_other,
    "reviews": review,
    "long_reviews": long_review,
    "verdicts": verdict,
    "toy_sentiment": toy_sentiment,
    "mood_stories": mood_story,
    "agreement": agreement,
    "reflexives": reflexive,
}


def is_held_out(sentence: Sentence) -> bool:
    """Tell whether a prompt belongs to the tenth that no model is trained on."""
    return hashlib.sha256((sentence.text or sentence.prompt).encode()).digest()[0] < 26


def draw(kind: str, rng: np.random.Generator, *, held_out: bool = False) -> Sentence:
    """Draw a sentence of a kind for training, or one that is held out and has a right and a wrong continuation."""
    while True:
        sentence = KINDS[kind](rng)
        if is_held_out(sentence) == held_out and (sentence.right or not held_out):
            return sentence


@cache
def vocabulary() -> tuple[str, ...]:
    """Return every word that the corpus can hold, sorted: years as two digits, the lists of the papers, the templates."""
    words = {_year(n) for n in range(100)} | {str(n) for n in range(30)} | {"110", "112"}
    for name in ("names_100_in_released_data", "objects_73_in_released_data", "ordinals_used_as_next_of_months",
                 "spanish_numwords", "spanish_months", "month_abbreviations", *TASKS):  # fmt: skip
        words.update(word_data("sequence_continuation/wordlists")[name])
    for version in ("paper_era", "head"):
        for key, listed in word_data(f"sentiment/prompt_lists_all_{version}").items():
            if "multitoken" not in key:
                words.update(split_words(" ".join(listed)))
    words.update(word_data("greater_than/nouns")["nouns"])
    rng = stream(0, "vocabulary")
    for make in KINDS.values():  # the templates' own words: a few hundred draws meet them all
        for sentence in (make(rng) for _ in range(800)):
            words.update(split_words(f"{sentence.prompt} {sentence.continuation}"))
    return tuple(sorted(words))


CLAUSEWISE = frozenset({"reviews", "long_reviews", "mood_stories"})
PAPERS = Corpus(
    draw,
    lambda: word_level(list(vocabulary())),
    frozenset(TASKS),
    with_bos=0.5,
    whole_continuation=False,
    clausewise=CLAUSEWISE,
)
