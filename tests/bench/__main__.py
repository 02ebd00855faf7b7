"""``make bench``: the plain way against ours, interleaved, in CPU time of one thread.

plain: transformers with one forward hook, one full forward per node, logits of all tokens, no gradients.
published: as the paper's code does it, three such forwards per candidate (means of heads, means of MLPs, the ablated run) with
autograd left on. Both are timed on a sample of nodes, one head and one MLP of layers spread over the model, and multiplied by
the number of candidates that ours evaluates; ours is timed whole.
"""

import argparse
import resource
import tempfile
from functools import partial
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

import oracle
from bench.component_patching import bench_component_patching
from bench.directions import bench_directions
from bench.edges import bench_edges
from bench.generation import bench_generation
from bench.probing import bench_probing
from bench.timing import cpu, matmul_rate
from bench.years import bench_years
from recircuit.core.families import load
from recircuit.core.metrics import logit_diff
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.setting import prompts_of, select
from recircuit.methods.ablation import Prompts, mean_reference
from recircuit.methods.pruning import Pruner
from recircuit.methods.sweep import sweep_nodes
from recircuit.tasks.sequence_continuation import prompts_table
from unit.test_cost import sweep_formula

CHUNK = 64


def sample(n_layers: int, n_heads: int, count: int) -> list[tuple[int, int | None]]:
    """Return (layer, head) and (layer, None) pairs for MLPs, spread over the model, in the proportion of all nodes."""
    layers = [round(i * (n_layers - 1) / max(1, count - 1)) for i in range(count)]
    return [(layer, (3 * i + 1) % n_heads if i % 4 else None) for i, layer in enumerate(layers)]


def plain_node(hooked, prompts, reference, layer, head):
    """Ablate one node the plain way; return the answers' logits."""
    heads = {(layer, head): reference.heads[layer, 0, :, head]} if head is not None else {}
    mlps = {layer: reference.mlps[layer, 0]} if head is None else {}
    with torch.inference_mode():
        logits = hooked.model_run(prompts.tokens, heads, mlps)
    return oracle.answer_logits(logits, prompts.end, prompts.answers)


class Plain(oracle.Hooked):
    """The oracle without recording, so that the plain way is not slowed by it."""

    def model_run(self, tokens, heads, mlps):
        """Return logits [n T V] with hooks on the ablated nodes only."""
        handles = []
        for (layer, h), value in heads.items():

            def before_out(module, args, h=h, value=value):
                z = args[0].clone().unflatten(-1, (self.n_heads, -1))
                z[:, :, h] = value
                return (z.flatten(-2),)

            handles.append(self.blocks[layer].attn.c_proj.register_forward_pre_hook(before_out))
        for layer, value in mlps.items():
            handles.append(self.blocks[layer].mlp.register_forward_hook(lambda m, a, out, value=value: value.expand_as(out)))
        try:
            return self.model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()


def published_candidate(hooked, prompts, corrupted):
    """Run one candidate the published way: three forwards with autograd on."""
    return [hooked.model(tokens).logits for tokens in (corrupted, corrupted, prompts.tokens)]


def bench(name: str, slow, model, prompts: Prompts, corrupted, samples: int = 12) -> None:
    """Print the node sweep's and the pruning's ratios, errors and share of the machine's matrix-product rate."""
    spec, n, length = model.spec, *prompts.tokens.shape
    hooked, nodes, rate = Plain(slow), sample(model.spec.n_layers, model.spec.n_heads, samples), matmul_rate()
    print(f"\n{name}: {spec.n_layers} layers, {spec.n_heads} heads, width {spec.d_model}; {n} prompts of {length} tokens")
    reference = mean_reference(model, corrupted, "position", CHUNK)
    published_candidate(hooked, prompts, corrupted)  # first calls pay for what later ones reuse
    plain, found, ours, sweep = interleaved(hooked, model, prompts, reference, nodes)
    published = sum(cpu(lambda: published_candidate(hooked, prompts, corrupted))[0] for _ in range(2)) / 2
    index = {(node.layer, node.head): i for i, node in enumerate(sweep.nodes)}
    error = max(
        float((logit_diff(sweep.ablated[index[key]]) - logit_diff(logits)).abs().max()) for key, logits in found.items()
    )
    total, achieved = len(sweep.nodes), sweep_formula(spec, n, length, 2) / ours / 1e9
    print(f"  sweep of {total} nodes: plain {plain * total:.1f} s, published {published * total:.1f} s, ours {ours:.1f} s")
    print(f"    {plain * total / ours:.1f} x plain (goal 3.5), {published * total / ours:.1f} x published (goal 10)")
    print(f"    largest error of a logit difference {error:.1e} (goal 1e-5), on {len(found)} nodes")
    print(f"    {achieved:.0f} GFLOP/s, {achieved / rate:.2f} of a 1024 x 1024 product's {rate:.0f} (goal 0.75)")
    for threshold in (20, 5):
        pruner = Pruner(model, prompts, reference, threshold, CHUNK, corrupted=corrupted)
        seconds, decisions = cpu(pruner.run)
        left = f"{len(pruner.circuit.heads())} heads and {len(pruner.circuit.mlps())} MLPs left"
        ratio = published * len(decisions) / seconds
        print(f"  pruning at T={threshold}: {len(decisions)} evaluations, {left}, {seconds:.1f} s")
        print(f"    {ratio:.1f} x published (goal 10)")
    print(f"  (matrix products at the end: {matmul_rate():.0f} GFLOP/s)", flush=True)


def interleaved(hooked, model, prompts, reference, nodes):
    """Time half of the sample the plain way, ours, the other half; return (plain s per node, its logits, ours s, sweep)."""
    found, seconds = {}, []

    def plain_way(chosen):
        for key in chosen:
            spent, found[key] = cpu(partial(plain_node, hooked, prompts, reference, *key))
            seconds.append(spent)

    plain_way(nodes[: len(nodes) // 2])
    ours, sweep = cpu(lambda: sweep_nodes(model, prompts, reference, CHUNK))
    plain_way(nodes[len(nodes) // 2 :])
    return sum(seconds) / len(seconds), found, ours, sweep


def random_prompts(n: int, length: int, vocabulary: int) -> tuple[Prompts, torch.Tensor]:
    """Return random prompts and corrupted tokens."""
    rng = torch.Generator().manual_seed(0)
    tokens, corrupted = (torch.randint(vocabulary, (n, length), generator=rng) for _ in range(2))
    return Prompts(tokens, torch.full((n,), length - 1), torch.randint(vocabulary, (n, 2), generator=rng)), corrupted


def numerals(folder: Path, n: int) -> tuple[Prompts, torch.Tensor]:
    """Return prompts of the numerals task and their corrupted twins, in a model's own tokens."""
    table = prompts_table(Tokenizer.load(folder), 512, 0, released=True)
    clean, corrupted = (select(table, "numerals", kind).iloc[:: 1536 // n].head(n) for kind in ("clean", "corrupted"))
    return prompts_of(clean, torch.device("cpu")), prompts_of(corrupted, torch.device("cpu")).tokens


def bench_all(name: str, slow, model, sequences: tuple[Prompts, torch.Tensor], n: int, edge_prompts: int) -> None:
    """Run every part that a GPT-2 has: nodes, edges and paths."""
    bench(name, slow, model, *sequences)
    few, corrupted = sequences[0], sequences[1][:edge_prompts]
    few = Prompts(few.tokens[:edge_prompts], few.end[:edge_prompts], few.answers[:edge_prompts])
    bench_edges(name, slow, model, few, corrupted)
    prompts, others = random_prompts(n, 13, model.spec.n_vocab)
    bench_years(name, slow, model, prompts.tokens, others)


def main() -> None:
    """Run the models of the default study, and a random one of gpt2-small's shape."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--models", type=Path, default=Path("cache/models"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench_probing()
    bench_component_patching()
    bench_directions()
    n, pocket, llama = options.prompts, options.models / "pocket", options.models / "pocket-llama"
    if (pocket / "model.safetensors").is_file() and (llama / "model.safetensors").is_file():
        slow = GPT2LMHeadModel.from_pretrained(pocket, local_files_only=True).eval()
        bench_all("pocket", slow, load(pocket), numerals(pocket, n), n, n)
        bench_generation("pocket-llama", load(llama), random_prompts(50, 10, 270)[0].tokens, 15)
    else:
        print(f"{pocket} or {llama} is not there; run make all first")
    with tempfile.TemporaryDirectory() as folder:
        shape = {"layers": 12, "heads": 12, "d": 768, "vocab": 50257, "positions": 1024}
        slow = oracle.random_gpt2(**shape, std=0.02, attention="sdpa").float()
        model = load(oracle.save(slow, Path(folder)))
        bench_all("random model of gpt2-small's shape", slow, model, random_prompts(n, 23, 50257), n, max(8, n // 8))
        bench_generation("random model of gpt2-small's shape", model, random_prompts(8, 23, 50257)[0].tokens, 5, repeats=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.1f} GiB, both ways together")


if __name__ == "__main__":
    main()
