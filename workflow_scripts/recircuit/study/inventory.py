"""Every figure and table of every paper, read from ``inventory.yaml``: what ``all`` builds, and what ``list`` shows.

Imported by the Snakefile: the standard library and YAML only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from recircuit.core.files import read_yaml

VARIANTS = ("published", "fixed")
SEQ_TASKS = ("numerals", "numwords", "months")
PUBLISHED_LISTS = ("llama-2-7b-chat",)  # models of which published circuits are compared without being run
# The experiments of circuit probing whose models are trained here; figures of theirs stand under the name of their models.
ARITHMETIC = ("disambiguation", "shared_nodes", "grokking", "shared_nodes_independent", "transfer_a2", "transfer_a_plus_b")
# The tables of sequence continuation, under cache/sequence_continuation/.
SEQ_TABLES = (
    "prompts/{model}/prompts",
    "baseline/{model}/baseline",
    "ablations/{model}/single_ablation",
    "pruning/{model}/{variant}/{task}/trace",
    "pruning/{model}/{variant}/{task}/circuit",
    "circuits/{model}/{variant}/scores",
    "circuits/{model}/{variant}/head_drop",
    "circuits/{model}/{variant}/overlaps",
    "edges/{model}/{variant}/edges",
    "edges/{model}/{variant}/edge_graphs",
    "edges/{model}/{variant}/edge_minimality",
    "attribution/{model}/edge_attribution",
    "probes/{model}/probe_prompts",
    "attention/{model}/attention",
    "ov/{model}/ov_score",
    "ov/{model}/ov_detail",
    "lens/{model}/logit_lens",
    "lens/{model}/logit_lens_count",
    "lens/{model}/logit_lens_blocks",
    "lens/{model}/seq_len",
)
LLAMA_TABLES = (
    "llama_prompts/{model}/llama_prompts",
    "llama_pruning/{model}/{variant}/llama_trace",
    "llama_pruning/{model}/{variant}/llama_circuits",
    "llama_pruning/{model}/{variant}/llama_drops",
    "llama_knockouts/{model}/knockouts",
    "llama_knockouts/{model}/knockout_scores",
    "llama_attention/{model}/attention",
)
# The tables of greater-than, under cache/greater_than/.
GT_TABLES = (
    "prompts/{model}/gt_prompts",
    "regression/{model}/gt_regression",
    "stages/{model}/ipp",
    "stages/{model}/gt_circuit",
    *(f"circuits/{{model}}/{name}" for name in ("behaviour_examples", "behaviour", "circuit_eval", "year_heatmap")),
    "random_circuits/{model}/gt_random_circuits",
    *(f"semantics/{{model}}/{name}" for name in ("gt_attention", "gt_attention_yy", "gt_lens", "mlp_split")),
    *(f"representations/{{model}}/{name}" for name in ("gt_pca", "gt_erasure")),
    *(f"neurons/{{model}}/{name}" for name in ("gt_neurons", "gt_neuron_lens", "gt_neuron_curve")),
    *(f"tasks/{{model}}/{name}" for name in ("gt_tasks", "year_heatmap", "ipp")),
    *(f"checks/{{model}}/{name}" for name in ("gt_topk", "gt_random_years")),
)
# The tables of circuit probing, under cache/circuit_probing/: of each arithmetic model, and of each language model.
CP_TABLES = (
    *(f"rows/{{model}}/{name}" for name in ("cp_rows", "cp_variables")),
    "training/{model}/cp_curves",
    *(f"masks/{{model}}/{name}" for name in ("cp_runs", "cp_masks", "cp_ablations", "cp_frames")),
    "probes/{model}/cp_probes",
    "erasers/{model}/cp_amnesic",
    "alignments/{model}/cp_alignments",
)
CP_EXTRA = (  # of some arithmetic models alone
    "training/transfer/cp_transfer",
    *(f"rows/{name}/{table}" for name in ("transfer_a2", "transfer_a_plus_b") for table in ("cp_rows", "cp_variables")),
    *(f"embeddings/{name}/cp_embeddings" for name in ("disambiguation", "shared_nodes")),
    "overlaps/shared_nodes/cp_overlaps",
)
CP_LM_TABLES = (
    "sentences/{model}/cp_sentences",
    *(f"lm_masks/{{model}}/{name}" for name in ("cp_lm_runs", "cp_lm_masks", "cp_lm_ablations", "cp_lm_tokens")),
    "lm_overlaps/{model}/cp_lm_overlaps",
)

# The tables of sentiment, under cache/sentiment/.
SE_TABLES = (
    *(f"prompts/{{model}}/{name}" for name in ("se_prompts", "se_positions")),
    "regression/{model}/se_regression",
    *(f"directions/{{model}}/{name}" for name in ("se_directions", "se_fit_accuracy", "se_pca_points")),
    *(f"das/{{model}}/{name}" for name in ("se_directions", "se_das_history", "se_fit_accuracy")),
    "cosines/{model}/se_cosines",
    *(f"patching/{{model}}/{name}" for name in ("se_patching", "se_patching_prompts", "se_patching_best", "se_patching_null")),
    *(
        f"circuit/{{model}}/{name}"
        for name in ("se_act_patching", "se_path_patching", "se_dla", "se_attention", "se_head_scatter")
    ),
    *(f"circuit/{{model}}/{name}" for name in ("se_circuit", "se_sufficiency", "se_ablated_circuit")),
    *(f"circuit/{{model}}/{name}" for name in ("se_head_cosines", "se_localised", "se_gradients")),
    *(f"stories/{{model}}/{name}" for name in ("se_mood", "se_mood_summary", "se_mood_ratios", "se_mood_paths")),
    "stories/{model}/se_mood_attention",
    *(f"ablation/{{model}}/{name}" for name in ("se_examples", "se_ablation", "se_ablation_summary", "se_comma_distance")),
    *(f"running_text/{{model}}/{name}" for name in ("se_text_hist", "se_text_samples", "se_text_stats", "se_token_stats")),
    *(f"running_text/{{model}}/{name}" for name in ("se_text_accuracy", "se_text_auc")),
    *(f"text_loss/{{model}}/{name}" for name in ("se_text_loss", "se_text_loss_tokens")),
    *(f"words/{{model}}/{name}" for name in ("se_neuroscope", "se_negation", "se_neurons", "se_one_sided")),
    "steering/{model}/se_steering",
)


@dataclass(frozen=True)
class Item:
    """One figure or table. ``models`` are those that the paper used; ``only`` those it can be built for, all if empty.

    ``part`` names a part of a paper that has models of its own: ``llama`` is built for the paper's ``llama_models``.
    """

    paper: str
    id: str
    file: str
    number: str
    title: str
    caption: str
    rule: str
    models: tuple[str, ...]
    only: tuple[str, ...] = ()
    part: str = ""

    def target(self, model: str) -> str:
        """Return the path of the item's picture for a model."""
        return f"figures/{self.paper}/{model}/{self.file}.png"

    def models_in(self, config: Mapping) -> list[str]:
        """Return the models that a configuration builds the item for."""
        return list(self.only or config.get(self.paper, {}).get(f"{self.part}_models" if self.part else "models", ()))


@cache
def items() -> tuple[Item, ...]:
    """Return the inventory in the order of its file."""
    return tuple(
        Item(paper, **{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
        for paper, entries in read_yaml(Path(__file__).with_name("inventory.yaml")).items()
        for entry in entries
    )


def item(paper: str, id: str) -> Item:
    """Return one item of a paper, by its id or by the name of its file."""
    return next(found for found in items() if found.paper == paper and id in (found.id, found.file))


def targets(config: Mapping) -> Iterator[tuple[Item, str, str]]:
    """Yield (item, model, path) of everything that a configuration builds."""
    for entry in items():
        for model in entry.models_in(config):
            yield entry, model, entry.target(model)


def arithmetic_tables(config: Mapping) -> list[str]:
    """Return the tables of circuit probing's models that are trained here."""
    probing = config.get("circuit_probing", {})
    found = [table.format(model=model) for model in probing.get("arithmetic", ()) for table in CP_TABLES]
    return [f"cache/circuit_probing/{name}.parquet" for name in (*found, *(CP_EXTRA if probing else ()))]


def tables(config: Mapping) -> list[str]:
    """Return the tables that the scorecard and the manifest look at: of every model of every paper, and published lists."""
    chosen = config.get("sequence_continuation", {})
    names = {
        table.format(model=model, variant=variant, task=task): None  # a dict, to drop repeats and keep the order
        for key, tables_of_part in (("models", SEQ_TABLES), ("llama_models", LLAMA_TABLES))
        for model, table, variant, task in product(chosen.get(key, ()), tables_of_part, VARIANTS, SEQ_TASKS)
    }
    years = [
        f"cache/greater_than/{table.format(model=model)}.parquet"
        for model in config.get("greater_than", {}).get("models", ())
        for table in GT_TABLES
    ]
    language = [
        f"cache/circuit_probing/{table.format(model=model)}.parquet"
        for model in config.get("circuit_probing", {}).get("models", ())
        for table in CP_LM_TABLES
    ]
    feelings = [
        f"cache/sentiment/{table.format(model=model)}.parquet"
        for model in config.get("sentiment", {}).get("models", ())
        for table in SE_TABLES
    ]
    lists = [f"circuits/{model}/published/overlaps" for model in PUBLISHED_LISTS]
    # Step by step beside the published traces, which only gpt2-small has.
    lists += [f"agreement/{model}/agreement" for model in chosen.get("models", ()) if model == "gpt2-small"]
    return (
        [f"cache/sequence_continuation/{name}.parquet" for name in (*names, *lists)]
        + years
        + arithmetic_tables(config)
        + language
        + feelings
    )


# The prompts of every task, by the paper's key that names the models used on them.
_PROMPTS = {
    ("sequence_continuation", "models"): "cache/sequence_continuation/prompts/{model}/prompts.parquet",
    ("sequence_continuation", "llama_models"): "cache/sequence_continuation/llama_prompts/{model}/llama_prompts.parquet",
    ("greater_than", "models"): "cache/greater_than/prompts/{model}/gt_prompts.parquet",
    ("circuit_probing", "models"): "cache/circuit_probing/sentences/{model}/cp_sentences.parquet",
    ("sentiment", "models"): "cache/sentiment/prompts/{model}/se_prompts.parquet",
}


def prompts_of(config: Mapping, model: str) -> list[str]:
    """Return the tables of prompts of every task that uses a model; those of sequence continuation, if none does."""
    found = [path for (paper, key), path in _PROMPTS.items() if model in config.get(paper, {}).get(key, ())]
    return [path.format(model=model) for path in found or list(_PROMPTS.values())[:1]]
