# Sequence continuation, the Llama part: pruning on a few prompts (E11), knock-outs while writing (E12), attention (E13).
rule seq_make_llama_prompts:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        llama_prompts="cache/sequence_continuation/llama_prompts/{model}/llama_prompts.parquet",
    log:
        "cache/logs/seq_make_llama_prompts/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_make_llama_prompts.py",
            "seed",
            "sequence_continuation.llama_redraws",
            data=["sequence_continuation/wordlists.json", "sequence_continuation/llama2_prompts.json"],
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_make_llama_prompts.py"


rule seq_prune_llama:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        certificate="cache/models/{model}/certificate.parquet",
        llama_prompts="cache/sequence_continuation/llama_prompts/{model}/llama_prompts.parquet",
    output:
        llama_trace="cache/sequence_continuation/llama_pruning/{model}/{variant}/llama_trace.parquet",
        llama_circuits="cache/sequence_continuation/llama_pruning/{model}/{variant}/llama_circuits.parquet",
        llama_drops="cache/sequence_continuation/llama_pruning/{model}/{variant}/llama_drops.parquet",
    log:
        "cache/logs/seq_prune_llama/{model}/{variant}.log",
    benchmark:
        "cache/benchmarks/seq_prune_llama/{model}/{variant}.jsonl"
    wildcard_constraints:
        model=either(LLAMA),
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(60),
    params:
        spec=spec("sequence_continuation/seq_prune_llama.py", "sequence_continuation.threshold", "models.{model}.layers"),
    script:
        "../workflow_scripts/sequence_continuation/seq_prune_llama.py"


rule seq_generate_knockouts:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        llama_prompts="cache/sequence_continuation/llama_prompts/{model}/llama_prompts.parquet",
        llama_circuits="cache/sequence_continuation/llama_pruning/{model}/fixed/llama_circuits.parquet",
        llama_drops="cache/sequence_continuation/llama_pruning/{model}/fixed/llama_drops.parquet",
    output:
        knockouts="cache/sequence_continuation/llama_knockouts/{model}/knockouts.parquet",
    log:
        "cache/logs/seq_generate_knockouts/{model}.log",
    benchmark:
        "cache/benchmarks/seq_generate_knockouts/{model}.jsonl"
    wildcard_constraints:
        model=either(LLAMA),
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(300),
    params:
        spec=spec(
            "sequence_continuation/seq_generate_knockouts.py",
            "seed",
            "sequence_continuation.knockout_draws",
            data=[
                "sequence_continuation/wordlists.json",
                "sequence_continuation/llama2_prompts.json",
                "sequence_continuation/circuits_llama2_7b_chat.json",
            ],
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_generate_knockouts.py"


rule seq_score_knockouts:
    input:
        knockouts="cache/sequence_continuation/llama_knockouts/{model}/knockouts.parquet",
    output:
        knockout_scores="cache/sequence_continuation/llama_knockouts/{model}/knockout_scores.parquet",
    log:
        "cache/logs/seq_score_knockouts/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_score_knockouts.py"),
    script:
        "../workflow_scripts/sequence_continuation/seq_score_knockouts.py"


rule seq_run_llama_attention:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        llama_circuits="cache/sequence_continuation/llama_pruning/{model}/fixed/llama_circuits.parquet",
        llama_drops="cache/sequence_continuation/llama_pruning/{model}/fixed/llama_drops.parquet",
    output:
        attention="cache/sequence_continuation/llama_attention/{model}/attention.parquet",
    log:
        "cache/logs/seq_run_llama_attention/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_llama_attention/{model}.jsonl"
    wildcard_constraints:
        model=either(LLAMA),
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
            "sequence_continuation/seq_run_llama_attention.py",
            data=["sequence_continuation/llama2_prompts.json", "sequence_continuation/circuits_llama2_7b_chat.json"],
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_llama_attention.py"
