"""Greater-than's shortcuts against hooks and full forwards: path patching to the logits, patches at the end, the metric.

plain: transformers, one forward per sender with hooks that hold every other head (and MLP) at its clean value, all logits.
"""

from functools import partial

import torch

from bench.timing import cpu, matmul_rate
from recircuit.core.model import mlp, unembed
from recircuit.experiments.greater_than.setting import Pair
from recircuit.methods.end_paths import delta, end_suffix, plain_run, through_mlps
from recircuit.methods.years import year_probabilities


class Frozen:
    """transformers' model with hooks that give the last position of chosen modules a stored value."""

    def __init__(self, slow, good, bad) -> None:
        self.slow, self.blocks, self.good = slow, slow.transformer.h, good
        self.values = {"good": self._record(good), "bad": self._record(bad)}

    @torch.inference_mode()
    def _record(self, tokens):
        found, handles = {}, []
        for layer, block in enumerate(self.blocks):
            handles.append(block.attn.c_proj.register_forward_pre_hook(lambda m, a, l=layer: found.update({("z", l): a[0]})))
            handles.append(block.mlp.register_forward_hook(lambda m, a, out, l=layer: found.update({("m", l): out})))
        self.slow(tokens)
        for handle in handles:
            handle.remove()
        return found

    @torch.inference_mode()
    def sender(self, layer: int, index: int | None, *, mlps: bool) -> torch.Tensor:
        """Return the logits at the end with one sender's other run, heads (and ``mlps``) elsewhere held clean."""
        e, handles, good, bad = self.blocks[0].attn.head_dim, [], self.values["good"], self.values["bad"]

        def z_of(module, args, l):
            z = good["z", l].clone()
            if l == layer and index is not None:
                z[:, -1, index * e : (index + 1) * e] = bad["z", l][:, -1, index * e : (index + 1) * e]
            return (z,)

        def m_of(module, args, out, l):
            if l == layer and index is None:
                out = good["m", l].clone()
                out[:, -1] = bad["m", l][:, -1]
                return out
            return good["m", l] if mlps else out

        for l, block in enumerate(self.blocks):
            handles.append(block.attn.c_proj.register_forward_pre_hook(partial(z_of, l=l)))
            handles.append(block.mlp.register_forward_hook(partial(m_of, l=l)))
        try:
            return self.slow(self.good).logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def at_the_end(self, layer: int, index: int) -> torch.Tensor:
        """Return the logits with one head's other run at the end, everything after it recomputed."""
        e, bad = self.blocks[0].attn.head_dim, self.values["bad"]

        def z_of(module, args):
            z = args[0].clone()
            z[:, -1, index * e : (index + 1) * e] = bad["z", layer][:, -1, index * e : (index + 1) * e]
            return (z,)

        handle = self.blocks[layer].attn.c_proj.register_forward_pre_hook(z_of)
        try:
            return self.slow(self.good).logits[:, -1]
        finally:
            handle.remove()


def senders(model) -> list[tuple[int, int | None]]:
    """Return every head and MLP as (layer, head or None)."""
    spec = model.spec
    return [(l, h) for l in range(spec.n_layers) for h in (*range(spec.n_heads), None)]


@torch.inference_mode()
def to_logits(model, pair: Pair, answers) -> torch.Tensor:
    """All frozen: every sender's change goes to two logits directly, [s n 2]."""
    end = pair.good.at["end"]
    finals = torch.stack([end.final + delta(model, end, pair.bad.at["end"], l, h) for l, h in senders(model)])
    return unembed(model, finals.flatten(0, 1), answers.repeat(len(finals), 1)).unflatten(0, finals.shape[:2])


@torch.inference_mode()
def through_live_mlps(model, pair: Pair, answers) -> torch.Tensor:
    """Heads frozen, MLPs live: every sender's change goes through all later MLPs, [s n 2]."""
    end, spec, found = pair.good.at["end"], model.spec, []
    for layer in range(spec.n_layers):
        heads = torch.stack([delta(model, end, pair.bad.at["end"], layer, h) for h in range(spec.n_heads)])
        own = delta(model, end, pair.bad.at["end"], layer, None)[None]
        for change, first in ((heads, layer), (own, layer + 1)):
            later = range(first, spec.n_layers)
            final = through_mlps(model, end, later, dict.fromkeys(later, change), change)
            found.append(unembed(model, final.flatten(0, 1), answers.repeat(len(final), 1)).unflatten(0, final.shape[:2]))
    return torch.cat(found)


@torch.inference_mode()
def heads_at_the_end(model, pair: Pair, answers) -> torch.Tensor:
    """Every head's other run at the end, everything after it recomputed with the other positions' keys and values, [s n 2]."""
    end, spec, found = pair.good.at["end"], model.spec, []
    for layer in range(spec.n_layers):
        changes = torch.stack([delta(model, end, pair.bad.at["end"], layer, h) for h in range(spec.n_heads)])
        reads = end.reads[layer] + changes
        out = end.pre[layer + 1] - end.out[layer] + changes + mlp(model, layer, reads)
        final = end_suffix(model, pair.good, out, layer + 1)
        found.append(unembed(model, final.flatten(0, 1), answers.repeat(len(final), 1)).unflatten(0, final.shape[:2]))
    return torch.cat(found)


def bench_years(name: str, slow, model, good, bad, samples: int = 6) -> None:
    """Print how much faster each shortcut is than hooks, and how far its logits are from theirs."""
    n, length = good.shape
    print(f"\n{name}, paths of greater-than: {n} prompts of {length} tokens, {len(senders(model))} senders")
    rng = torch.Generator().manual_seed(3)
    answers = torch.randint(model.spec.n_vocab, (n, 2), generator=rng)
    end = {"end": torch.full((n,), length - 1), "yy": torch.full((n,), length // 2)}
    pair = Pair(plain_run(model, good, end), plain_run(model, bad, end), end["yy"], "gt", torch.arange(n))
    frozen, every = Frozen(slow, good, bad), senders(model)
    picked = every[:: max(1, len(every) // samples)][:samples]
    heads_only = [s for s in every if s[1] is not None]
    jobs = [
        ("senders to the logits, all frozen", to_logits, partial(frozen.sender, mlps=True), every, picked, 500),
        ("senders to the logits, MLPs live", through_live_mlps, partial(frozen.sender, mlps=False), every, picked, 50),
        ("heads at the end", heads_at_the_end, frozen.at_the_end, heads_only, [s for s in picked if s[1] is not None], 30),
    ]
    for label, ours_way, plain_way, listed, chosen, goal in jobs:
        ours_way(model, pair, answers)  # the first call pays for what later ones reuse
        repeats = 5 if label.endswith("all frozen") else 1
        ours, result = cpu(lambda way=ours_way, k=repeats: [way(model, pair, answers) for _ in range(k)][-1])
        ours, spent, error = ours / repeats, 0.0, 0.0
        for sender in chosen:
            seconds, logits = cpu(lambda way=plain_way, s=sender: way(*s))
            spent += seconds
            error = max(error, float((logits.gather(1, answers) - result[listed.index(sender)]).abs().max()))
        plain = spent / len(chosen) * len(listed)
        print(f"  {label}: plain {plain:.1f} s, ours {ours:.3f} s: {plain / ours:.0f} x (goal {goal}), error {error:.1e}")
    _metric(model, pair, matmul_rate())


def _metric(model, pair: Pair, rate: float) -> None:
    end = pair.good.at["end"]
    finals = torch.stack([end.final + delta(model, end, pair.bad.at["end"], l, h) for l, h in senders(model)])
    ids = torch.arange(100)
    seconds, _ = cpu(lambda: year_probabilities(model, finals, ids))
    floor = 2 * finals.shape[0] * finals.shape[1] * model.spec.d_model * model.spec.n_vocab / rate / 1e9
    share = f"{seconds / floor:.2f} x its matrix products ({floor:.2f} s)"
    print(f"  probability difference of every sender: {seconds:.2f} s, {share}")
