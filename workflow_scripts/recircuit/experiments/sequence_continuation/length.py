"""E10: the probability of the next numeral against how many are shown (sequence continuation, section 3)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.model import Model
from recircuit.core.tokenizer import Tokenizer
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import forward

Log = Callable[[str], None]


@torch.inference_mode()
def next_probability(model: Model, tokenizer: Tokenizer, probes: pd.DataFrame, chunk: int, log: Log) -> pd.DataFrame:
    """Return the table ``seq_len``: P(next numeral) after ``start``, start + 1, ..., ``length`` of them; no token in front."""
    parts = []
    for length, rows in probes[probes["dataset"] == "length"].groupby("n_tokens"):
        tokens = torch.from_numpy(np.stack(rows["tokens"])).long().to(model.device)
        answers = torch.tensor([tokenizer.single(f" {answer}") for answer in rows["answer"]], device=model.device)
        end = torch.full_like(answers, length - 1)

        def work(part: slice, tokens: Tensor = tokens, end: Tensor = end, answers: Tensor = answers) -> Tensor:
            logits = forward(model, tokens[part], end[part]).double()
            return logits.log_softmax(-1).gather(1, answers[part, None])[:, 0].exp()

        p = torch.cat([found for _, found in in_chunks(work, len(tokens), chunk)]).cpu().numpy()
        starts = [int(text.split()[0]) for text in rows["text"]]
        parts.append(pd.DataFrame({"start": starts, "length": length, "p_next": p}))
        log(f"{length} numerals: mean probability of the next {p.mean():.3f} over {len(p)} starts")
    return pd.concat(parts, ignore_index=True)
