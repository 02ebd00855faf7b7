"""Metrics of a prediction, always one value per prompt."""

from jaxtyping import Float, Int
from torch import Tensor


def logit_diff(logits: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """Return logit[correct] - logit[incorrect], from columns (correct, incorrect)."""
    return logits[:, 0] - logits[:, 1]


def answer_stats(logits: Float[Tensor, "n v"], answers: Int[Tensor, "n 2"]) -> dict[str, Tensor]:
    """Return what the full distribution says of the correct and the incorrect answer.

    Keys: ``logit_corr``, ``logit_incorr``, ``ld``, ``p_corr``, ``p_incorr`` (probabilities) and ``rank_corr`` (0 = top).
    """
    picked = logits.gather(1, answers)
    probs = (picked.double() - logits.double().logsumexp(1, keepdim=True)).exp()
    rank = (logits > picked[:, :1]).sum(1)
    return {
        "logit_corr": picked[:, 0],
        "logit_incorr": picked[:, 1],
        "ld": logit_diff(picked),
        "p_corr": probs[:, 0],
        "p_incorr": probs[:, 1],
        "rank_corr": rank,
    }


def percent_of(score: Float[Tensor, " n"], full: Float[Tensor, " n"]) -> float:
    """Return 100 * mean(score) / mean(full), in float64 (sequence continuation, section 3, E1)."""
    return float(100 * score.double().mean() / full.double().mean())


def top_one_of_two(logits: Float[Tensor, "n 2"]) -> float:
    """Return the share of prompts whose correct answer beats the incorrect one."""
    return float((logit_diff(logits) > 0).double().mean())
