"""Circuit probing's shortcuts against plain transformers, on the one-layer model of Exp. 1 with all its rows.

plain: the whole model on every batch, at all positions and with its unembedding, as the authors' code runs it; scaled weights
and autograd for a mask, activations taken anew for a probe, torch's orthogonal parametrisation for an alignment, the
concept-erasure package for an eraser. Steps are timed on a sample of batches and multiplied by the number of a whole run.
"""

from functools import partial

import torch
import torch.nn.functional as F
from concept_erasure import LeaceFitter
from torch.func import functional_call
from torch.nn.utils.parametrizations import orthogonal

from bench.timing import cpu
from recircuit.experiments.circuit_probing.arithmetic import Run, parts_of
from recircuit.experiments.circuit_probing.training import recipe_of, start_of, train_rows
from recircuit.methods import alignment, masks
from recircuit.methods.alignment import Pairs, align
from recircuit.methods.erasure import published_leace
from recircuit.methods.full_batch import train
from recircuit.methods.probes import EPOCHS, fit_probe, fresh_probe
from recircuit.tasks.arithmetic import P, rows_table, variables_table
from unit.test_one_layer import hugging_face

MATRICES = {"attn": ("attn.c_attn", "attn.c_proj"), "mlp": ("mlp.c_fc", "mlp.c_proj")}
VARIABLES = ("a2", "minus_b2", "a_plus_b", "a_minus_b")
BATCH, SAMPLE = 500, 3


def plain_training_step(theirs, optimizer, tokens, answers) -> None:
    """One full-batch update."""
    loss = F.cross_entropy(theirs(tokens).logits[:, -1].double(), answers)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def autograd_loss(u, labels) -> torch.Tensor:
    """Return the soft-nearest-neighbour loss, its gradient left to autograd."""
    unit = F.normalize(u)
    near = torch.exp(unit @ unit.T - 1)
    near = near * (1 - torch.eye(len(u)))
    same = (labels[:, None] == labels).float()
    return -torch.log(((near * same).sum(1) + 1e-5) / (near.sum(1) + 1e-5)).mean()


class PlainMask:
    """A mask on transformers' model: the weights of a block scaled by sigmoids, the whole model run on every batch."""

    def __init__(self, theirs, component: str) -> None:
        self.theirs, self.names = theirs, [f"transformer.h.0.{name}.weight" for name in MATRICES[component]]
        self.weights = {name: value.detach() for name, value in theirs.named_parameters()}
        self.scores = [torch.zeros(self.weights[name].shape[1], requires_grad=True) for name in self.names]
        self.optimizer = torch.optim.AdamW(self.scores, lr=1e-3)
        self.writer = theirs.transformer.h[0].get_submodule(MATRICES[component][1])

    def step(self, tokens, labels) -> None:
        """Take one step on a batch."""
        found, gates = [], [torch.sigmoid(score) for score in self.scores]
        handle = self.writer.register_forward_hook(lambda module, args, out: found.append(out[:, -1]))
        scaled = {name: self.weights[name] * gate for name, gate in zip(self.names, gates, strict=True)}
        functional_call(self.theirs, scaled, (tokens,))
        handle.remove()
        price = sum(self.weights[name].shape[0] * gate.sum() for name, gate in zip(self.names, gates, strict=True))
        self.optimizer.zero_grad()
        (autograd_loss(found[0], labels) + 1e-6 * price).backward()
        self.optimizer.step()


def stream_of(theirs, tokens) -> torch.Tensor:
    """Return the stream after attention at the last position, from a run of the whole model."""
    found, reader = [], theirs.transformer.h[0].ln_2
    handle = reader.register_forward_pre_hook(lambda module, args: found.append(args[0][:, -1]))
    with torch.no_grad():
        theirs(tokens)
    handle.remove()
    return found[0]


class PlainAlignment:
    """Boundless DAS with torch's orthogonal parametrisation; base and source go through the whole model."""

    def __init__(self, theirs) -> None:
        self.theirs, self.rotation = theirs, orthogonal(torch.nn.Linear(128, 128, bias=False))
        self.boundary = torch.tensor([1.0, 0.0], requires_grad=True)
        self.optimizer = torch.optim.Adam([*self.rotation.parameters(), self.boundary], lr=1e-2)

    def step(self, base, source, answers) -> None:
        """Take one step on a batch of pairs."""
        rotation, gate = self.rotation.weight, alignment.gates(self.boundary, 128, 50.0)
        model, block = self.theirs.transformer, self.theirs.transformer.h[0]
        mid = alignment.exchange(stream_of(self.theirs, base), stream_of(self.theirs, source), rotation, gate)
        logits = self.theirs.lm_head(model.ln_f(mid + block.mlp(block.ln_2(mid))))
        loss = F.cross_entropy(logits, answers)
        self.optimizer.zero_grad()
        (loss + alignment.regulariser(self.boundary, rotation)).backward()
        self.optimizer.step()


def line(label: str, plain: float, ours: float, goal: str) -> None:
    """Print one comparison."""
    print(f"  {label}: plain {plain:.3g} s, ours {ours:.3g} s, {plain / ours:.1f} x ({goal})", flush=True)


def bench_training(theirs, rows) -> None:
    """Compare one full-batch update."""
    parts, steps = train_rows(rows, "cpu"), 6
    chosen = rows[rows["split"] == "train"].sort_values("row")
    tokens, answers = torch.tensor(chosen[["t0", "t1", "t2"]].to_numpy("int64")), parts[0].answers
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    work = partial(plain_training_step, theirs, optimizer, tokens, answers)
    recipe = recipe_of({"epochs": steps, "evaluate_every": 10 * steps})

    def ours() -> None:
        train(start_of("disambiguation", 0), *parts, recipe, lambda text: None)

    work(), ours()
    plain = cpu(work)[0]
    spent = cpu(ours)[0] / steps
    line("one training step", (plain + cpu(work)[0]) / 2, spent, "goal 3.5")


def bench_masks(theirs, run: Run) -> None:
    """Compare eight circuit probes: four variables in attention and in the MLP, 90 epochs of 15 steps."""
    part, recipe = run.parts[0, "train"], masks.Recipe(1e-6, epochs=2)
    steps, plain, ours = 90 * (len(part.tokens) // BATCH), 0.0, 0.0
    labels = part.values["a2"]
    for component in MATRICES:
        plain_mask = PlainMask(theirs, component)
        batches = [slice(i * BATCH, (i + 1) * BATCH) for i in range(SAMPLE + 1)]
        plain_mask.step(part.tokens[batches[0]], labels[batches[0]])
        seconds, _ = cpu(lambda m=plain_mask, b=batches: [m.step(part.tokens[r], labels[r]) for r in b[1:]])
        plain += 4 * seconds / SAMPLE * steps
        cached, block = cpu(lambda c=component: run.block(0, "train", c))
        masks.train_mask(block, labels, masks.Recipe(1e-6, epochs=1), 0)
        seconds, _ = cpu(lambda b=block: masks.train_mask(b, labels, recipe, 0))
        ours += 4 * (cached + seconds / 2 * 90)
    line("eight circuit probes", plain, ours, "goal 5")


def bench_probes(theirs, run: Run) -> None:
    """Compare eight probes of the stream after attention: four variables, linear and not, 100 epochs of 15 steps."""
    part, plain, ours = run.parts[0, "train"], 0.0, 0.0
    steps, rows, labels = EPOCHS * (len(part.tokens) // BATCH), slice(0, BATCH), part.values["a2"]
    for kind in ("linear", "nonlinear"):
        probe = fresh_probe(kind, 128, P, 0)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=0.1)

        def step(probe=probe, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(probe(stream_of(theirs, part.tokens[rows])), labels[rows]).backward()
            optimizer.step()

        step()
        plain += 4 * cpu(lambda: [step() for _ in range(10 * SAMPLE)])[0] / (10 * SAMPLE) * steps
        ours += 4 * cpu(lambda k=kind: fit_probe(k, run.stream(0, "train", "attn"), labels, P, 0))[0]
    line("eight linear and non-linear probes", plain, ours, "goal 5")


def bench_eraser(run: Run) -> None:
    """Compare one LEACE fit."""
    x, z = run.stream(0, "train", "attn"), F.one_hot(run.parts[0, "train"].values["a2"], P)

    def theirs():
        return LeaceFitter.fit(x, z.float()).eraser.P

    for work in (theirs, partial(published_leace, x, z)):
        work()
    line("one LEACE fit", cpu(theirs)[0], cpu(partial(published_leace, x, z))[0], "the package: no goal")


def bench_alignment(theirs, run: Run) -> None:
    """Compare one step of boundless DAS on 128 pairs."""
    part, plain = run.parts[0, "train"], PlainAlignment(theirs)
    rows = slice(0, 128)
    batch = part.tokens[rows], part.partners[rows], part.cf_answers["a2"][rows]
    plain.step(*batch)
    spent = cpu(lambda: [plain.step(*batch) for _ in range(30)])[0] / 30
    streams = [run.stream(0, "train", "attn", partners=partners)[rows] for partners in (False, True)]
    pairs = Pairs(*streams, batch[2])
    work = partial(run.logits_from, "attn")
    recipe, rng = alignment.Recipe(epochs=100, evaluations=1), torch.Generator().manual_seed(0)
    align(work, pairs, pairs, alignment.Recipe(epochs=10, evaluations=1), rng)
    seconds, _ = cpu(lambda: align(work, pairs, pairs, recipe, rng))
    line("one DAS step", spent, seconds / 100, "no goal")


def bench_probing() -> None:
    """Print how much faster training, circuit probes, probes, an eraser and an alignment are than the plain way."""
    rows = rows_table("disambiguation")
    parts = parts_of(rows, variables_table("disambiguation", rows), "cpu")
    print(f"\none-layer model of a^2 - b^2 mod {P}: {len(parts[0, 'train'].tokens)} rows")
    theirs = hugging_face()
    bench_training(theirs, rows)
    theirs = hugging_face().requires_grad_(requires_grad=False)
    run = Run(start_of("disambiguation", 0), 0, 0, parts)
    bench_masks(theirs, run)
    bench_probes(theirs, run)
    bench_eraser(run)
    bench_alignment(theirs, run)
