# Sequence continuation (Lan et al., arXiv 2311.04131), the node part: E0 to E5 and the overlaps.
rule seq_make_prompts:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
    log:
        "cache/logs/seq_make_prompts/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_make_prompts.py",
            "seed",
            "sequence_continuation.prompts",
            "sequence_continuation.prompts_per_template",
            data=SEQ_DATA,
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_make_prompts.py"


rule seq_run_baseline:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
    output:
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    log:
        "cache/logs/seq_run_baseline/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_baseline/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(6),
    params:
        spec=spec("sequence_continuation/seq_run_baseline.py", "sequence_continuation.min_accuracy"),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_baseline.py"


rule seq_run_means:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        # The baseline stops a model that cannot do the task, before hours are spent on it.
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    output:
        means="cache/sequence_continuation/means/{model}/means.safetensors",
    log:
        "cache/logs/seq_run_means/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_means/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(6),
    params:
        spec=spec("sequence_continuation/seq_run_means.py"),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_means.py"


rule seq_run_single_ablations:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
    output:
        single_ablation="cache/sequence_continuation/ablations/{model}/single_ablation.parquet",
    log:
        "cache/logs/seq_run_single_ablations/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_single_ablations/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(300),
    params:
        spec=spec("sequence_continuation/seq_run_single_ablations.py", "seed", "sequence_continuation.bootstrap_draws"),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_single_ablations.py"


rule seq_prune_nodes:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
    output:
        node_trace="cache/sequence_continuation/pruning/{model}/{variant}/{task}/trace.parquet",
        circuits="cache/sequence_continuation/pruning/{model}/{variant}/{task}/circuit.parquet",
    log:
        "cache/logs/seq_prune_nodes/{model}/{variant}/{task}.log",
    benchmark:
        "cache/benchmarks/seq_prune_nodes/{model}/{variant}/{task}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(3),
        runtime=minutes(400),
    params:
        spec=spec(
            "sequence_continuation/seq_prune_nodes.py",
            "sequence_continuation.threshold",
            "sequence_continuation.thresholds",
            "sequence_continuation.protected",
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_prune_nodes.py"


rule seq_run_circuits:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/{{variant}}/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        circuit_scores="cache/sequence_continuation/circuits/{model}/{variant}/scores.parquet",
        head_drop="cache/sequence_continuation/circuits/{model}/{variant}/head_drop.parquet",
    log:
        "cache/logs/seq_run_circuits/{model}/{variant}.log",
    benchmark:
        "cache/benchmarks/seq_run_circuits/{model}/{variant}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(600),
    params:
        spec=spec(
            "sequence_continuation/seq_run_circuits.py",
            "seed",
            "sequence_continuation.threshold",
            "sequence_continuation.random_circuits",
            "sequence_continuation.bootstrap_draws",
            data=["sequence_continuation/circuits_gpt2.json"],
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_circuits.py"


rule seq_score_overlaps:
    input:
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/{{variant}}/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        overlaps="cache/sequence_continuation/circuits/{model}/{variant}/overlaps.parquet",
    log:
        "cache/logs/seq_score_overlaps/{model}/{variant}.log",
    wildcard_constraints:
        model=either([name for name in (*HUB, *TRAINED, *LOCAL) if name not in PUBLISHED_LISTS]),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_score_overlaps.py",
            "sequence_continuation.threshold",
            "models.{model}.layers",
            "models.{model}.heads",
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_score_overlaps.py"


rule seq_score_published_overlaps:
    output:
        overlaps="cache/sequence_continuation/circuits/{model}/published/overlaps.parquet",
    log:
        "cache/logs/seq_score_published_overlaps/{model}.log",
    wildcard_constraints:
        model=either(PUBLISHED_LISTS),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_score_published_overlaps.py",
            data=["sequence_continuation/circuits_llama2_7b_chat.json"],
            layers=32,
            heads=32,
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_score_published_overlaps.py"
