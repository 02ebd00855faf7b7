"""The same numbers on a GPU as on the CPU, to fp32 rounding; skipped where there is none."""

import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.methods.ablation import Prompts, mean_reference
from recircuit.methods.pruning import Pruner
from recircuit.methods.sweep import sweep_nodes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def results(folder, device):
    """Return the sweep's logits and the pruning's decisions on a device."""
    model = load(folder, device=device)
    rng = torch.Generator().manual_seed(0)
    tokens, corrupted = (torch.randint(50, (64, 12), generator=rng).to(device) for _ in range(2))
    prompts = Prompts(tokens, torch.full((64,), 11, device=device), tokens[:, :2].clone())
    reference = mean_reference(model, corrupted, "position", 32)
    decisions = Pruner(model, prompts, reference, 30, 32, corrupted=corrupted).run()
    return sweep_nodes(model, prompts, reference, 32).ablated.cpu(), decisions


def test_gpu_agrees_with_cpu(tmp_path):
    folder = oracle.save(oracle.random_gpt2(layers=4), tmp_path)
    (cpu, cpu_decisions), (gpu, gpu_decisions) = results(folder, "cpu"), results(folder, "cuda")
    assert (cpu - gpu).abs().max() < 1e-5
    assert [(d.node, d.removed) for d in cpu_decisions] == [(d.node, d.removed) for d in gpu_decisions]
