"""Slow, independent routes for edges: transformers' GPT-2 with plain hooks, one edge at a time, in float64."""

import torch

import oracle


class Circuit:
    """A circuit of a Hugging Face GPT-2: heads outside it write their mean, and so do MLPs outside it."""

    def __init__(self, model, heads, mlps, head_means, mlp_means):
        self.model, self.blocks, self.heads, self.mlps = model, model.transformer.h, heads, mlps
        self.n_heads, self.d = model.config.n_head, model.config.n_embd
        self.head_means, self.mlp_means = head_means, mlp_means

    @torch.no_grad()
    def run(self, tokens, patch=None):
        """Return (logits, record); ``patch`` maps a name to a function of the value there.

        Names: ("z", l) [n T H e], ("mlp", l) [n T d], ("qkv", l) [n T 3 H e], ("final",) the stream before the last LayerNorm.
        The permanent ablation comes first, as in the authors' code.
        """
        patch, seen, handles = patch or {}, {}, []

        def visit(name, value):
            seen[name] = patch[name](value.clone()) if name in patch else value
            return seen[name]

        def z_hook(layer):
            def hook(module, args):
                z = args[0].clone().unflatten(-1, (self.n_heads, -1))
                for h in range(self.n_heads):
                    if (layer, h) not in self.heads:
                        z[:, :, h] = self.head_means[layer][:, h]
                return (visit(("z", layer), z).flatten(-2),)

            return hook

        def mlp_hook(layer):
            def hook(module, args, out):
                return visit(("mlp", layer), out if layer in self.mlps else self.mlp_means[layer].expand_as(out))

            return hook

        def qkv_hook(layer):
            def hook(module, args, out):
                return visit(("qkv", layer), out.unflatten(-1, (3, self.n_heads, -1))).flatten(-3)

            return hook

        for layer, block in enumerate(self.blocks):
            handles.append(block.attn.c_attn.register_forward_hook(qkv_hook(layer)))
            handles.append(block.attn.c_proj.register_forward_pre_hook(z_hook(layer)))
            handles.append(block.mlp.register_forward_hook(mlp_hook(layer)))
        handles.append(self.model.transformer.ln_f.register_forward_pre_hook(lambda m, a: (visit(("final",), a[0]),)))
        try:
            return self.model(tokens).logits, seen
        finally:
            for handle in handles:
                handle.remove()


def put(value, index=None):
    """Return a patch that writes ``value``, or only that of one head (``index``) or of one of q, k, v of a head."""

    def patch(x):
        if index is None:
            return value
        x[index] = value[index]
        return x

    return patch


def head_at(h):
    """Return the index of a head in z."""
    return (slice(None), slice(None), h)


def path_patch(circuit, clean_tokens, corrupted_tokens, edge, variant):
    """The three steps, word for word; return the logits [n T V] with one edge patched."""
    _, clean = circuit.run(clean_tokens)
    _, corrupted = circuit.run(corrupted_tokens)
    src, dst = edge.src, edge.dst
    layers = range(len(circuit.blocks))
    frozen_heads = {("z", l): put(clean["z", l]) for l in layers}
    mlp_sender = {("mlp", src.layer): put(corrupted["mlp", src.layer])}

    if src.kind == "attn":
        mixed = clean["z", src.layer].clone()
        mixed[:, :, src.head] = corrupted["z", src.layer][:, :, src.head]
        step = {**frozen_heads, ("z", src.layer): put(mixed)}
        if variant == "fixed" and dst.kind == "logits":
            step |= {("mlp", l): put(clean["mlp", l]) for l in layers}
    elif variant == "fixed":
        step = {**frozen_heads, **mlp_sender}
        if dst.kind == "logits":
            step = {("mlp", l): put(clean["mlp", l]) for l in layers} | step
    elif dst.kind == "mlp":
        step = mlp_sender
    elif dst.kind == "attn":  # the filter that never matches an MLP
        step = {("z", src.layer): put(corrupted["z", src.layer])}
    else:  # hooks that stay: every MLP of the circuit up to this one, attention output and MLP output
        so_far = [l for l in sorted(circuit.mlps) if l <= src.layer]
        step = {(what, l): put(corrupted[what, l]) for l in so_far for what in ("z", "mlp")}
    logits, patched = circuit.run(clean_tokens, step)
    if dst.kind == "logits":
        return logits
    if dst.kind == "mlp":
        return circuit.run(clean_tokens, {("mlp", dst.layer): put(patched["mlp", dst.layer])})[0]
    index = (slice(None), slice(None), "qkv".index(dst.input), dst.head)
    return circuit.run(clean_tokens, {("qkv", dst.layer): put(patched["qkv", dst.layer], index)})[0]


def split_run(circuit, tokens, extra=None):
    """Run a circuit with an input of its own for every receiver; return (logits, what every sender wrote).

    ``extra(receiver, written)`` is added to what a receiver reads (None: nothing); receivers and senders are names such as
    ``a1.h2<q>``, ``m1``, ``logits``, ``embed``. Attention is written out, softmax and all.
    """
    extra = extra or (lambda receiver, written: None)
    model, n_heads = circuit.model.transformer, circuit.n_heads
    n, length = tokens.shape
    e = circuit.d // n_heads
    x = model.wte(tokens) + model.wpe(torch.arange(length))
    written = {"embed": x}

    def reads(receiver, stream):
        more = extra(receiver, written)
        return stream if more is None else stream + more

    for layer, block in enumerate(circuit.blocks):
        entered = x
        added = 0
        for h in range(n_heads):
            if (layer, h) in circuit.heads:
                parts = []
                for i, which in enumerate("qkv"):
                    own = block.ln_1(reads(f"a{layer}.h{h}<{which}>", entered))
                    columns = slice(i * circuit.d + h * e, i * circuit.d + (h + 1) * e)
                    parts.append(own @ block.attn.c_attn.weight[:, columns] + block.attn.c_attn.bias[columns])
                q, k, v = parts
                scores = q @ k.transpose(1, 2) / e**0.5
                scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), float("-inf"))
                z = scores.softmax(-1) @ v
            else:
                z = circuit.head_means[layer][:, h].expand(n, length, e)
            write = z @ block.attn.c_proj.weight[h * e : (h + 1) * e]
            written[f"a{layer}.h{h}"] = write
            added = added + write
        mid = x + added + block.attn.c_proj.bias
        if layer in circuit.mlps:
            out = block.mlp(block.ln_2(reads(f"m{layer}", mid)))
            written[f"m{layer}"] = out
        else:
            out = circuit.mlp_means[layer].expand_as(mid)
        x = mid + out
    return circuit.model.lm_head(model.ln_f(reads("logits", x))), written


def difference(logits, end, answers):
    """Return the logit differences [n]."""
    picked = oracle.answer_logits(logits, end, answers)
    return picked[:, 0] - picked[:, 1]
