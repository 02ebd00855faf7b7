"""The judge: a model is used only when our logits equal TransformerLens' and transformers' on its own prompts.

The one module of the pipeline that imports transformer_lens and transformers' model classes; both take seconds to import.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.methods.training import logits_everywhere

BATCH = 16


@torch.inference_mode()
def certify(
    model: Model, folder: Path, bos: int | None, tasks: Mapping[str, Tensor], limit: float, log: Callable[[str], None]
) -> list[dict]:
    """Compare logits at all positions, with and without an end-of-text token in front; all in the model's own precision.

    ``tasks`` maps a task to tokens [n T]. Returns rows (task, against, n, max_abs_diff, limit); raises UserError above the
    limit.
    """
    judges = {"transformers": _transformers(folder, model), "transformer_lens": _transformer_lens(folder, model)}
    rows = []
    for task, tokens in tasks.items():
        for name, judge in judges.items():
            worst = max(_difference(model, judge, batch, bos) for batch in tokens.split(BATCH))
            log(f"{task}: largest logit difference to {name} {worst:.2e} over {len(tokens)} prompts")
            rows.append({"task": task, "against": name, "n": len(tokens), "max_abs_diff": worst, "limit": limit})
    bad = max(rows, key=lambda row: row["max_abs_diff"])
    if not bad["max_abs_diff"] <= limit:
        raise UserError(
            f"{folder}: our logits differ from those of {bad['against']} by {bad['max_abs_diff']:.2e} on {bad['task']}, "
            f"more than {limit:.0e}; the model is not used"
        )
    return rows


def _difference(model: Model, judge: Callable[[Tensor], Tensor], tokens: Tensor, bos: int | None) -> float:
    variants = [tokens]
    if bos is not None:
        variants.append(torch.cat([torch.full_like(tokens[:, :1], bos), tokens], 1))
    return max(float((logits_everywhere(model, t) - judge(t)).abs().max()) for t in variants)


def _hub_model(folder: Path, model: Model):
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=model.dtype, use_safetensors=True)
    return loaded.to(model.device).eval()


def _transformers(folder: Path, model: Model) -> Callable[[Tensor], Tensor]:
    hub_model = _hub_model(folder, model)
    return lambda tokens: hub_model(tokens).logits


def _transformer_lens(folder: Path, model: Model) -> Callable[[Tensor], Tensor]:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    # It is handed ids only, but asks for a tokenizer; one without a beginning-of-text token is not loaded again from a name.
    only_ids = Tokenizer(WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=only_ids, eos_token="<|endoftext|>")
    # A second copy of the model: the bridge edits the one that it is given.
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=_hub_model(folder, model), tokenizer=tokenizer, device=str(model.device), dtype=model.dtype
    )
    return lambda tokens: bridge(tokens, return_type="logits", prepend_bos=False)
