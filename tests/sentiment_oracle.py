"""Small toy prompts of sentiment and transformers' GPT-2 with hooks on everything that heads write, in float64."""

import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.experiments.sentiment.axes import Axes
from recircuit.experiments.sentiment.setting import TRAIN, Setting

N, LENGTH, WIDTH, LAYERS, HEADS, EACH = 8, 8, 32, 3, 4, 8
PLACES = {"BOS": 0, "ADJ": 2, "VRB": 4, "SUM": 6, "END": 7}
START = PLACES["ADJ"]  # all prompts begin alike
ANSWERS = ([11, 12], [13, 14])  # positive ones, negative ones
TIGHT = 1e-10


FAMILIES = {
    "gpt2": oracle.random_gpt2,
    "neox": oracle.random_neox,
    "llama": lambda: oracle.random_llama(num_key_value_heads=2),
}


def frozen(theirs, folder):
    """Return a model of transformers without gradients of its weights, and ours of the same weights, in float64."""
    theirs = theirs.requires_grad_(requires_grad=False)
    return theirs, load(oracle.save(theirs, folder), dtype=torch.float64)


def family_fixture(*names):
    """Return a fixture of ``frozen`` models of some families, their norms and angles in float64 too."""

    @pytest.fixture(scope="module", params=names)
    def family(request, tmp_path_factory):
        with pytest.MonkeyPatch.context() as patch:
            oracle.exact_norms_and_angles(patch)
            yield frozen(FAMILIES[request.param](), tmp_path_factory.mktemp(request.param))

    return family


def small_setting(folder):
    """Return transformers' random GPT-2 with its recorder, and the setting of ours with ``prompts``."""
    theirs, model = frozen(oracle.random_gpt2(), folder)
    return Theirs(theirs), Setting(model, *prompts(), chunk=64)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """transformers' model, the setting, the training reviews and random directions."""
    theirs, setting = small_setting(tmp_path_factory.mktemp("gpt2"))
    return theirs, setting, setting.toy(*TRAIN), Axes.of(setting.model, directions())


def refusal(call) -> str:
    """Return what a call says when it refuses, in one line."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_steps(columns):
    """Return columns made orthonormal one after the other, Gram and Schmidt's way, for autograd."""
    done = []
    for column in columns.T:
        for other in done:
            column = column - (column @ other) * other
        done.append(column / column.norm())
    return torch.stack(done, 1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts():
    """Return tables of eight prompts for both data sets, positive and negative in turn; two words differ."""
    tokens = torch.randint(15, 50, (1, LENGTH), generator=rng(1)).repeat(N, 1)
    tokens[:, PLACES["ADJ"]], tokens[:, PLACES["VRB"]] = torch.arange(20, 20 + N), torch.arange(35, 35 + N) % 41
    rows, places = [], []
    for name, split in (("movie", "train"), ("circuit", "all")):
        key = {"set": name, "split": split, "variant": "paper"}
        for row, own in enumerate(tokens.tolist()):
            right, wrong = ANSWERS if row % 2 == 0 else ANSWERS[::-1]
            rows.append(key | {"row": row, "tokens": own, "label": 1 - row % 2, "right": right, "wrong": wrong})
            places += [key | {"row": row, "name": place, "position": position} for place, position in PLACES.items()]
    return pd.DataFrame(rows), pd.DataFrame(places)


def directions():
    """Return random vectors as a table of directions; DAS has none of the final stream."""
    vectors = torch.randn(2, LAYERS + 1, WIDTH, generator=rng(2))
    rows = [
        {"set": "movie", "variant": "paper", "position": "ADJ", "method": method, "layer": layer, "component": 0, "d_das": 1,
         "vector": vectors[i, layer].numpy(), "seed": 0}
        for i, method in enumerate(("kmeans", "das"))
        for layer in range(LAYERS + (method == "kmeans"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def roles():
    """Return a circuit in which one head has two positions, and another one two roles."""
    cells = [("tokenizer", 0, 1, "ADJ"), ("tokenizer", 0, 1, "VRB"), ("mapping", 1, 2, "SUM"), ("intermediate", 2, 0, "END")]
    cells += [("direct", 2, 0, "END"), ("direct", 2, 3, "END")]
    rows = pd.DataFrame(cells, columns=["role", "layer", "head", "position"])
    return rows.assign(dataset="movie", source="rule", score=-0.1)


class Theirs:
    """transformers' GPT-2; z, outputs of attention and of MLPs, and streams are recorded, and may be changed on the way."""

    def __init__(self, model):
        self.model, self.blocks = model, model.transformer.h

    @torch.no_grad()
    def run(self, tokens, *, z=None, attention=None, mlp=None, entering=None):
        """Return logits and what was recorded; every change is a function of (layer, value), and for attention of z too."""
        kept, handles = {"z": {}, "attn_out": {}, "mlp_out": {}, "stream": {}}, []

        def before_out(layer):
            def hook(module, args):
                value = args[0].unflatten(-1, (HEADS, EACH))
                kept["z"][layer] = value if z is None else z(layer, value.clone())
                return (kept["z"][layer].flatten(-2),)

            return hook

        def after(layer, name, change):
            def hook(module, args, out):
                kept[name][layer] = out if change is None else change(layer, out.clone())
                return kept[name][layer]

            return hook

        def before(layer):
            def hook(module, args):
                kept["stream"][layer] = args[0] if entering is None else entering(layer, args[0].clone())
                return (kept["stream"][layer], *args[1:])

            return hook

        for layer, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(before(layer)))
            handles.append(block.attn.c_proj.register_forward_pre_hook(before_out(layer)))
            handles.append(block.attn.c_proj.register_forward_hook(after(layer, "attn_out", attention)))
            handles.append(block.mlp.register_forward_hook(after(layer, "mlp_out", mlp)))
        handles.append(self.model.transformer.ln_f.register_forward_pre_hook(before(LAYERS)))
        try:
            return self.model(tokens).logits, kept
        finally:
            for handle in handles:
                handle.remove()

    def written(self, layer, head, z):
        """Return what a head writes for its z [... e]."""
        return z @ self.blocks[layer].attn.c_proj.weight[head * EACH : (head + 1) * EACH]


def differences(logits, answers):
    """Return logit differences at END, one prompt and one pair of answers after the other."""
    found = []
    for row, own in zip(logits[:, PLACES["END"]], answers.tolist(), strict=True):
        found.append(sum(row[good] - row[bad] for good, bad in own) / len(own))
    return torch.stack(found)
