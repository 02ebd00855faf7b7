"""The judge: a model is used only when our logits equal TransformerLens' and transformers' on its own prompts.

The one module of the pipeline that imports transformer_lens and transformers' model classes; both take seconds to import.
"""

import gc
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model
from recircuit.methods.training import logits_everywhere

BATCH = 16
COPIES = 2  # of the weights at once: ours and a judge's
STEPS = 16  # rounding steps of a half-precision type, of the largest logit, that two correct computations may lie apart
Judge = Callable[[Tensor], Tensor]


@torch.inference_mode()
def certify(
    model: Model, folder: Path, bos: int | None, tasks: Mapping[str, Tensor], limit: float, log: Callable[[str], None]
) -> list[dict]:
    """Compare logits at all positions, with and without an end-of-text token in front; all in the model's own precision.

    ``tasks`` maps a task to tokens [n T]. ``limit`` is for float32 and float64; bfloat16 may differ by STEPS of its rounding
    steps of the largest logit: a few are what rounding does, whereas a wrong reading of the weights moves logits by about
    their own size. One judge is held at a time, beside the model itself.

    Returns rows (task, against, n, max_abs_diff, limit); raises UserError above the limit.
    """
    rows = []
    for name, make in (("transformers", _transformers), ("transformer_lens", _transformer_lens)):
        rows += _compare(name, make, model, folder, bos, tasks, limit, log)
        gc.collect()  # modules refer to each other in circles, and the next judge needs the room
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
    for bad in (row for row in rows if not row["max_abs_diff"] <= row["limit"]):  # a NaN is no pass
        raise UserError(
            f"{folder}: our logits differ from those of {bad['against']} by {bad['max_abs_diff']:.2e} on {bad['task']}, "
            f"more than {bad['limit']:.0e}; the model is not used"
        )
    return sorted(rows, key=lambda row: list(tasks).index(row["task"]))


def _compare(
    name: str,
    make: Callable[[Path, Model], Judge],
    model: Model,
    folder: Path,
    bos: int | None,
    tasks: Mapping[str, Tensor],
    limit: float,
    log: Callable[[str], None],
) -> list[dict]:
    judge, rows, step = _opened(name, make, folder, model), [], torch.finfo(model.dtype).eps
    for task, tokens in tasks.items():
        found = [_difference(model, judge, batch, bos) for batch in tokens.split(BATCH)]
        worst, largest = torch.tensor(found, dtype=torch.float64).amax(0).tolist()  # unlike max, it keeps a NaN
        allowed = limit if step <= torch.finfo(torch.float32).eps else max(limit, STEPS * step * largest)
        log(f"{task}: largest logit difference to {name} {worst:.2e} over {len(tokens)} prompts")
        rows.append({"task": task, "against": name, "n": len(tokens), "max_abs_diff": worst, "limit": allowed})
    return rows


def _opened(name: str, make: Callable[[Path, Model], Judge], folder: Path, model: Model) -> Judge:
    try:
        judge = make(folder, model)
    except Exception as error:  # whatever another library makes of a model that ours could read
        raise _uncertified(folder, name, "open", error) from error

    def ask(tokens: Tensor) -> Tensor:
        try:
            return judge(tokens)
        except Exception as error:
            raise _uncertified(folder, name, "run", error) from error

    return ask


def _uncertified(folder: Path, name: str, what: str, error: Exception) -> UserError:
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return UserError(f"{folder}: {name} cannot {what} the model ({why}), so that it is not certified")


def _difference(model: Model, judge: Judge, tokens: Tensor, bos: int | None) -> tuple[float, float]:
    """Return the largest difference of logits, and the largest logit."""
    variants = [tokens]
    if bos is not None:
        variants.append(torch.cat([torch.full_like(tokens[:, :1], bos), tokens], 1))
    pairs = [(logits_everywhere(model, t), judge(t)) for t in variants]
    worst = torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max()
    return float(worst), max(float(theirs.abs().max()) for _, theirs in pairs)


def _hub_model(folder: Path, model: Model):
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=model.dtype, use_safetensors=True)
    return loaded.to(model.device).eval()


def _transformers(folder: Path, model: Model) -> Judge:
    hub_model = _hub_model(folder, model)
    return lambda tokens: hub_model(tokens).logits


def transformer_bridge(folder: Path, model: Model):
    """Return transformer-lens' own model of a folder, in the type and on the device of ``model``."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    # It is handed ids only, but asks for a tokenizer; one without a beginning-of-text token is not loaded again from a name.
    only_ids = Tokenizer(WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=only_ids, eos_token="<|endoftext|>")
    # A second copy of the model: the bridge edits the one that it is given.
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=_hub_model(folder, model), tokenizer=tokenizer, device=str(model.device), dtype=model.dtype
    )


def _transformer_lens(folder: Path, model: Model) -> Judge:
    bridge = transformer_bridge(folder, model)
    return lambda tokens: bridge(tokens, return_type="logits", prepend_bos=False)
