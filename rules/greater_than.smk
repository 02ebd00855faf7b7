# Greater-than (Hanna et al., arXiv 2305.00586): E1 to E13.
rule gt_make_prompts:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
    log:
        "cache/logs/gt_make_prompts/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "greater_than/gt_make_prompts.py",
            "seed",
            "greater_than.discovery",
            "greater_than.population",
            "greater_than.seeds",
            data=GT_DATA,
        ),
    script:
        "../workflow_scripts/greater_than/gt_make_prompts.py"


rule gt_run_regression:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
    output:
        gt_regression="cache/greater_than/regression/{model}/gt_regression.parquet",
    log:
        "cache/logs/gt_run_regression/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_regression/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(2),
    params:
        spec=spec(
            "greater_than/gt_run_regression.py", "greater_than.min_difference", data=["greater_than/eap_ig_regression.json"]
        ),
    script:
        "../workflow_scripts/greater_than/gt_run_regression.py"


rule gt_patch_stages:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_regression="cache/greater_than/regression/{model}/gt_regression.parquet",
    output:
        ipp="cache/greater_than/stages/{model}/ipp.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    log:
        "cache/logs/gt_patch_stages/{model}.log",
    benchmark:
        "cache/benchmarks/gt_patch_stages/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(40),
    params:
        spec=spec("greater_than/gt_patch_stages.py", "greater_than.choose_share", data=["greater_than/circuits.json"]),
    script:
        "../workflow_scripts/greater_than/gt_patch_stages.py"


rule gt_run_circuits:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        ipp="cache/greater_than/stages/{model}/ipp.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        behaviour_examples="cache/greater_than/circuits/{model}/behaviour_examples.parquet",
        behaviour="cache/greater_than/circuits/{model}/behaviour.parquet",
        circuit_eval="cache/greater_than/circuits/{model}/circuit_eval.parquet",
        year_heatmap="cache/greater_than/circuits/{model}/year_heatmap.parquet",
    log:
        "cache/logs/gt_run_circuits/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_circuits/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1, FITTED),
        runtime=minutes(60),
    params:
        spec=spec(
            "greater_than/gt_run_circuits.py",
            "seed",
            "greater_than.choose_share",
            "greater_than.bootstrap_draws",
            data=["greater_than/circuits.json"],
        ),
    script:
        "../workflow_scripts/greater_than/gt_run_circuits.py"


rule gt_run_random_circuits:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        gt_random_circuits="cache/greater_than/random_circuits/{model}/gt_random_circuits.parquet",
    log:
        "cache/logs/gt_run_random_circuits/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_random_circuits/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(20),
    params:
        spec=spec(
            "greater_than/gt_run_random_circuits.py",
            "seed",
            "greater_than.random_circuits",
            data=["greater_than/circuits.json"],
        ),
    script:
        "../workflow_scripts/greater_than/gt_run_random_circuits.py"


rule gt_run_semantics:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        gt_attention="cache/greater_than/semantics/{model}/gt_attention.parquet",
        gt_attention_yy="cache/greater_than/semantics/{model}/gt_attention_yy.parquet",
        gt_lens="cache/greater_than/semantics/{model}/gt_lens.parquet",
        mlp_split="cache/greater_than/semantics/{model}/mlp_split.parquet",
    log:
        "cache/logs/gt_run_semantics/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_semantics/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(5),
    params:
        spec=spec("greater_than/gt_run_semantics.py"),
    script:
        "../workflow_scripts/greater_than/gt_run_semantics.py"


rule gt_run_representations:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        gt_pca="cache/greater_than/representations/{model}/gt_pca.parquet",
        gt_erasure="cache/greater_than/representations/{model}/gt_erasure.parquet",
    log:
        "cache/logs/gt_run_representations/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_representations/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(2),
        runtime=minutes(20),
    params:
        spec=spec("greater_than/gt_run_representations.py"),
    script:
        "../workflow_scripts/greater_than/gt_run_representations.py"


rule gt_run_neurons:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        mlp_split="cache/greater_than/semantics/{model}/mlp_split.parquet",
    output:
        gt_neurons="cache/greater_than/neurons/{model}/gt_neurons.parquet",
        gt_neuron_lens="cache/greater_than/neurons/{model}/gt_neuron_lens.parquet",
        gt_neuron_curve="cache/greater_than/neurons/{model}/gt_neuron_curve.parquet",
    log:
        "cache/logs/gt_run_neurons/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_neurons/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(40),
    params:
        spec=spec("greater_than/gt_run_neurons.py"),
    script:
        "../workflow_scripts/greater_than/gt_run_neurons.py"


rule gt_run_tasks:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        gt_tasks="cache/greater_than/tasks/{model}/gt_tasks.parquet",
        year_heatmap="cache/greater_than/tasks/{model}/year_heatmap.parquet",
        ipp="cache/greater_than/tasks/{model}/ipp.parquet",
    log:
        "cache/logs/gt_run_tasks/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_tasks/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(20),
    params:
        spec=spec("greater_than/gt_run_tasks.py", data=["greater_than/generalization_tasks.json"]),
    script:
        "../workflow_scripts/greater_than/gt_run_tasks.py"


rule gt_run_checks:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        gt_prompts="cache/greater_than/prompts/{model}/gt_prompts.parquet",
        gt_regression="cache/greater_than/regression/{model}/gt_regression.parquet",
    output:
        gt_topk="cache/greater_than/checks/{model}/gt_topk.parquet",
        gt_random_years="cache/greater_than/checks/{model}/gt_random_years.parquet",
    log:
        "cache/logs/gt_run_checks/{model}.log",
    benchmark:
        "cache/benchmarks/gt_run_checks/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(3),
    params:
        spec=spec("greater_than/gt_run_checks.py"),
    script:
        "../workflow_scripts/greater_than/gt_run_checks.py"
