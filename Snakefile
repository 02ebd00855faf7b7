# recircuit: the circuits of four papers, from prompts to figures. `snakemake --cores 1 list` shows everything that can be built.
configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/resources.smk"
include: "rules/cluster.smk"
include: "rules/plan.smk"
include: "rules/models.smk"
include: "rules/sentiment_fetch.smk"
include: "rules/sequence_continuation.smk"
include: "rules/sequence_continuation_edges.smk"
include: "rules/sequence_continuation_llama.smk"
include: "rules/sequence_continuation_figures.smk"
include: "rules/sequence_continuation_edges_figures.smk"
include: "rules/sequence_continuation_llama_figures.smk"
include: "rules/greater_than.smk"
include: "rules/greater_than_figures.smk"
include: "rules/circuit_probing.smk"
include: "rules/circuit_probing_figures.smk"
include: "rules/sentiment.smk"
include: "rules/sentiment_circuit.smk"
include: "rules/sentiment_reviews.smk"
include: "rules/sentiment_text.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        MANIFEST,
        TARGETS,
        TABLES,  # a table that is missing, or whose job failed, is missed although its pictures are there
