"""The loss of running text with projections exchanged, and steered texts: transformers' GPT-2 with hooks in float64."""

import numpy as np
import pytest
import torch

import sentiment_text
from recircuit.core.stats import stream
from recircuit.experiments.sentiment import steering, text_labels, text_loss
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.running_text import axes_of
from recircuit.methods.direction_hooks import partners
from recircuit.runs.generation import Sampling
from sentiment_oracle import LAYERS, WIDTH
from sentiment_text import hidden

gpt2, worded = sentiment_text.gpt2, sentiment_text.worded
tokens, tokenizer, directions = sentiment_text.tokens, sentiment_text.tokenizer, sentiment_text.directions


# ---- loss -----------------------------------------------------------------------------------------------------------


def literal_losses(theirs, tokens, change=None):
    """The loss of each next token, with a change of the stream leaving each block."""
    ids = torch.as_tensor(tokens).long()

    def hook(layer):
        return lambda module, args, out: change(layer, out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(theirs.transformer.h)] if change else []
    logits = theirs(ids).logits
    for handle in handles:
        handle.remove()
    chosen = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return -chosen.numpy()


def test_losses_are_those_of_rows_that_exchange_projections(gpt2, tokens, directions, monkeypatch):
    monkeypatch.setattr(text_loss, "BATCH", 8)  # 20 rows: two batches and a half
    theirs, ours = gpt2
    stacks = text_loss.stacks(ours, Axes(directions, LAYERS))
    assert len(stacks) == 8 and all(stack.shape == (LAYERS, WIDTH) for stack in stacks.values())
    found = text_loss.losses(ours, tokens, stacks, 7, lambda line: None)
    assert np.abs(found[text_loss.BASELINE] - literal_losses(theirs, tokens)).max() < 1e-10
    own = {"first": [1] * LAYERS, "matched": [1, 2, 3]}
    for key in (("kmeans", "first", 0), ("kmeans", "matched", 0)):
        parts = []
        for batch, start in enumerate(range(0, 20, 8)):
            rows = tokens[start : start + 8]
            orders = partners(len(rows), LAYERS, int(stream(7, "moved projections", batch).integers(2**31)))

            def change(layer, x, key=key, orders=orders):
                d = directions["kmeans"][own[key[1]][layer]]
                d = (d - d.mean()) / (d - d.mean()).norm()
                y = x.clone()
                for i, j in enumerate(orders[layer].tolist()):
                    y[i] += ((x[j] @ d) - (x[i] @ d))[:, None] * d
                return y

            parts.append(literal_losses(theirs, rows, change))
        assert np.abs(found[key] - np.concatenate(parts)).max() < 1e-9, key
    assert not np.allclose(found["kmeans", "first", 0], found[text_loss.BASELINE])
    random = [stack for (name, *_), stack in stacks.items() if name == "random"]
    assert len(random) == 4 and all(torch.equal(stack, stack[:1].expand(LAYERS, -1)) for stack in random)


def test_the_last_layer_without_a_direction_of_its_own_has_the_one_before(gpt2, directions):
    stacks = text_loss.stacks(gpt2[1], Axes(directions, LAYERS))
    expected = axes_of(gpt2[1], [directions["das"][i] for i in (1, 2, 2)])
    assert torch.allclose(stacks["das", "matched", 0], expected)


def made_losses(n=60, length=5, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.random((n, length))
    return {text_loss.BASELINE: base, ("kmeans", "first", 0): base + rng.normal(0.3, 0.2, (n, length)),
            ("random", "first", 1): base + 0.01, ("random", "first", 2): base + 0.03}  # fmt: skip


def test_added_losses_have_errors_over_rows():
    found, rng = made_losses(), np.random.default_rng(1)
    codes = rng.choice(3, (60, 6), p=[0.1, 0.2, 0.7])  # no unlabelled one
    table = text_loss.loss_table(found, codes).set_index(["subset", "direction", "seed"])
    delta = found["kmeans", "first", 0] - found[text_loss.BASELINE]
    row = table.loc[("all", "kmeans", 0)]
    assert (row["delta"], row["n_tokens"], row["n_rows"]) == (pytest.approx(delta.mean()), 300, 60)
    assert row["se"] == pytest.approx(delta.mean(1).std(ddof=1) / 60**0.5)
    negative = codes[:, 1:] == 0
    row = table.loc[("negative", "kmeans", 0)]
    assert (row["delta"], row["n_tokens"]) == (pytest.approx(delta[negative].mean()), negative.sum())
    left_out = [delta[np.arange(60) != i][negative[np.arange(60) != i]].mean() for i in range(60)]
    jackknife = (59 / 60 * np.square(left_out - np.mean(left_out)).sum()) ** 0.5
    assert row["se"] == pytest.approx(jackknife, rel=0.1)
    assert table.loc[("positive", "none", 0), "delta"] == 0 and "unlabelled" not in table.index.get_level_values("subset")
    assert text_loss.ratio(np.array([3.0]), np.array([4])) == (0.75, 0.0)


def test_tokens_are_ranked_by_what_their_loss_grew(monkeypatch):
    monkeypatch.setattr(text_loss, "SHOWN", 2)
    tokens = np.array([[0, 1, 1, 1, 1, 1], [9, 1, 1, 1, 1, 1], [9, 2, 2, 2, 2, 2], [9, 2, 2, 2, 2, 2], [9, 3, 4, 4, 4, 4],
                       [9, 3, 4, 4, 4, 4], [9, 4, 4, 3, 3, 3]])  # fmt: skip
    base = np.ones((7, 5))
    grown = base + np.where(tokens[:, 1:] == 2, 0.5, 0.2) + np.where(tokens[:, 1:] == 3, 9.0, 0.0)
    found = {text_loss.BASELINE: base, ("das", "first", 0): grown, ("random", "first", 1): base + 0.1,
             ("random", "first", 2): base + 0.3}  # fmt: skip
    table = text_loss.token_table(found, tokens)
    assert table["token_id"].tolist() == [2, 1], "3 is no frequent token: it occurs five times"
    assert table["delta"].tolist() == pytest.approx([0.5, 0.2]) and table["rank"].tolist() == [1, 2]
    assert table["delta_random"].tolist() == pytest.approx([0.2, 0.2]) and table["count"].tolist() == [10, 10]


# ---- steering -------------------------------------------------------------------------------------------------------


def test_drawn_tokens_follow_the_cumulated_odds():
    logits = torch.tensor([[0.1, 0.5, 0.2, 0.2]] * 6).log() + 3
    draws = torch.tensor([[0.0], [0.55], [0.56], [0.76], [0.79], [1.0]])
    chosen = Sampling(draws, top=3).choose(logits, 0).tolist()  # 1 with odds 5/9; 2 and 3 with 2/9 each; 0 never
    assert chosen[:2] == [1, 1] and set(chosen[2:4]) != {1} and 0 not in chosen
    assert chosen[2] != chosen[4] and {chosen[2], chosen[4]} == {2, 3} and chosen[5] == chosen[4]
    assert Sampling(draws, top=1).choose(logits, 0).tolist() == [1] * 6
    assert 0 in Sampling(draws, top=9).choose(logits, 0).tolist()


def literal_text(theirs, prompt, added, draws):
    """Write token by token, the whole text read again each time, with something added to the stream leaving block 0."""

    def hook(module, args, out):
        return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

    ids, handle = list(prompt), theirs.transformer.h[0].register_forward_hook(hook)
    for draw in draws:
        logits = theirs(torch.tensor([ids])).logits[0, -1]
        odds = sorted(((float(v), i) for i, v in enumerate(logits)), reverse=True)[: steering.TOP]
        weights = np.exp(np.array([v for v, _ in odds]) - odds[0][0])
        ids.append(odds[int((np.cumsum(weights / weights.sum())[:-1] <= draw).sum())][1])
    handle.remove()
    return ids[len(prompt) :]


def test_steered_texts_are_those_of_a_hook_at_every_position(gpt2, directions, monkeypatch):
    monkeypatch.setattr(steering, "COEFFICIENTS", (-6, 0, 5))
    monkeypatch.setattr(steering, "STEPS", 7)
    theirs, ours = gpt2
    prompt = torch.tensor([3, 14, 15, 9, 2])
    axis = axes_of(ours, [directions["kmeans"][1]])[0]
    draws = torch.from_numpy(stream(0, "steering").random((3, 10, 7)))
    written = {}
    for i, (c, found, losses) in enumerate(steering.texts(ours, prompt, axis, draws, chunk=8)):
        expected = [literal_text(theirs, prompt.tolist(), c * axis, row) for row in draws[i].tolist()]
        assert found.tolist() == expected
        whole = torch.cat([prompt.expand(10, -1), found], 1)
        assert np.abs(losses.numpy() - literal_losses(theirs, whole)[:, -7:]).max() < 1e-10
        written[c] = found
    assert not torch.equal(written[0], written[5]) and not torch.equal(written[0], written[-6])


def test_the_streams_length_leaves_the_first_token_out(gpt2):
    theirs, ours = gpt2
    prompt = torch.tensor([0, 7, 8, 9])
    x = hidden(theirs, prompt[None])[1][0]
    expected = np.mean([float((v - v.mean()).norm()) for v in x[1:]])
    assert steering.stream_length(ours, prompt) == pytest.approx(expected, abs=1e-10)


def test_the_table_of_steering(worded, tokenizer, directions, monkeypatch):
    monkeypatch.setattr(steering, "COEFFICIENTS", (-20, 0))
    words = {"great": "positive", "awful": "negative"}
    for published in (True, False):
        plan = steering.Steering(words, published=published, samples=3, seed=0)
        table = plan.table(worded[1], tokenizer, directions, 8, lambda line: None)
        assert len(table) == 2 * 2 * 3 and (table["prompt"] == "I thought this movie was").all()
        prompt = torch.tensor([tokenizer.bos, *tokenizer.encode("I thought this movie was")])
        length = steering.stream_length(worded[1], prompt)
        assert set(table["relative"].round(9)) == {0.0, round(-20 / length, 9) if published else -1.0}
        zero = table[table["coef"] == 0]
        assert zero.query("method == 'das'")["text"].tolist() == zero.query("method == 'kmeans'")["text"].tolist()
        for row in table.itertuples():
            assert row.label == text_labels.text_label(row.text, words)[0]
            assert row.n_tokens == len(tokenizer.encode(row.text)) and "<|" not in row.text


def test_a_text_is_labelled_and_measured_up_to_its_end(tokenizer):
    words, (great, awful) = {"great": "positive", "awful": "negative"}, (tokenizer.single(w) for w in ("great", "awful"))
    written = torch.tensor([[great, tokenizer.bos, awful, awful], [awful, great, awful, awful]])
    losses = torch.tensor([[1.0, 2.0, 50.0, 50.0], [1.0, 2.0, 3.0, 6.0]])
    plan = steering.Steering(words, published=True, samples=2, seed=0)
    first, second = plan._rows(tokenizer, written, losses)
    assert (first["text"], first["label"], first["n_tokens"], first["loss"]) == ("great", "positive", 1, 1.5)
    assert (second["label"], second["positive"], second["negative"], second["loss"]) == ("negative", 1, 3, 3.0)
