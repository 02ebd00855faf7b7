# Sequence continuation, between the nodes: edges (E6), attention (E7), OV scores (E8), lenses (E9) and length (E10).
rule seq_patch_edges:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/{{variant}}/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        edges="cache/sequence_continuation/edges/{model}/{variant}/edges.parquet",
    log:
        "cache/logs/seq_patch_edges/{model}/{variant}.log",
    benchmark:
        "cache/benchmarks/seq_patch_edges/{model}/{variant}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(3),
        runtime=minutes(300),
    params:
        spec=spec(
            "sequence_continuation/seq_patch_edges.py",
            "seed",
            "sequence_continuation.threshold",
            "sequence_continuation.edge_threshold",
            "sequence_continuation.bootstrap_draws",
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_patch_edges.py"


rule seq_attribute_edges:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/published/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        edge_attribution="cache/sequence_continuation/attribution/{model}/edge_attribution.parquet",
    log:
        "cache/logs/seq_attribute_edges/{model}.log",
    benchmark:
        "cache/benchmarks/seq_attribute_edges/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(3, FITTED),
        runtime=minutes(200),
    params:
        spec=spec(
            "sequence_continuation/seq_attribute_edges.py",
            "seed",
            "sequence_continuation.threshold",
            "sequence_continuation.edge_top",
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_attribute_edges.py"


rule seq_run_edge_graphs:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        means="cache/sequence_continuation/means/{model}/means.safetensors",
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/{{variant}}/{task}/trace.parquet", task=SEQ_TASKS),
        edges="cache/sequence_continuation/edges/{model}/{variant}/edges.parquet",
    output:
        edge_graphs="cache/sequence_continuation/edges/{model}/{variant}/edge_graphs.parquet",
        edge_minimality="cache/sequence_continuation/edges/{model}/{variant}/edge_minimality.parquet",
    log:
        "cache/logs/seq_run_edge_graphs/{model}/{variant}.log",
    benchmark:
        "cache/benchmarks/seq_run_edge_graphs/{model}/{variant}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(3),
        runtime=minutes(600),
    params:
        spec=spec(
            "sequence_continuation/seq_run_edge_graphs.py",
            "seed",
            "sequence_continuation.threshold",
            "sequence_continuation.edge_random_graphs",
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_edge_graphs.py"


rule seq_make_probes:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        probe_prompts="cache/sequence_continuation/probes/{model}/probe_prompts.parquet",
    log:
        "cache/logs/seq_make_probes/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_make_probes.py", "seed", data=["sequence_continuation/wordlists.json"]),
    script:
        "../workflow_scripts/sequence_continuation/seq_make_probes.py"


rule seq_run_attention:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        probe_prompts="cache/sequence_continuation/probes/{model}/probe_prompts.parquet",
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    output:
        attention="cache/sequence_continuation/attention/{model}/attention.parquet",
    log:
        "cache/logs/seq_run_attention/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_attention/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(4),
    params:
        spec=spec("sequence_continuation/seq_run_attention.py", "sequence_continuation.attention_per_template"),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_attention.py"


rule seq_run_ov_scores:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        probe_prompts="cache/sequence_continuation/probes/{model}/probe_prompts.parquet",
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    output:
        ov_score="cache/sequence_continuation/ov/{model}/ov_score.parquet",
        ov_detail="cache/sequence_continuation/ov/{model}/ov_detail.parquet",
    log:
        "cache/logs/seq_run_ov_scores/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_ov_scores/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(4),
    params:
        spec=spec("sequence_continuation/seq_run_ov_scores.py", data=["sequence_continuation/wordlists.json"]),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_ov_scores.py"


rule seq_run_logit_lens:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
        probe_prompts="cache/sequence_continuation/probes/{model}/probe_prompts.parquet",
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    output:
        logit_lens="cache/sequence_continuation/lens/{model}/logit_lens.parquet",
        logit_lens_count="cache/sequence_continuation/lens/{model}/logit_lens_count.parquet",
        logit_lens_blocks="cache/sequence_continuation/lens/{model}/logit_lens_blocks.parquet",
    log:
        "cache/logs/seq_run_logit_lens/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_logit_lens/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(6),
    params:
        spec=spec("sequence_continuation/seq_run_logit_lens.py", data=["sequence_continuation/wordlists.json"]),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_logit_lens.py"


rule seq_run_lengths:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        probe_prompts="cache/sequence_continuation/probes/{model}/probe_prompts.parquet",
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
    output:
        seq_len="cache/sequence_continuation/lens/{model}/seq_len.parquet",
    log:
        "cache/logs/seq_run_lengths/{model}.log",
    benchmark:
        "cache/benchmarks/seq_run_lengths/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(2),
    params:
        spec=spec("sequence_continuation/seq_run_lengths.py"),
    script:
        "../workflow_scripts/sequence_continuation/seq_run_lengths.py"


rule seq_score_trace_agreement:
    input:
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/published/{task}/trace.parquet", task=SEQ_TASKS),
        single_ablation="cache/sequence_continuation/ablations/{model}/single_ablation.parquet",
    output:
        agreement="cache/sequence_continuation/agreement/{model}/agreement.parquet",
    log:
        "cache/logs/seq_score_trace_agreement/{model}.log",
    wildcard_constraints:
        model="gpt2-small",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_score_trace_agreement.py",
            data=[
                "sequence_continuation/reference_pruning_traces.csv",
                "sequence_continuation/reference_single_ablation_from_full.csv",
            ],
        ),
    script:
        "../workflow_scripts/sequence_continuation/seq_score_trace_agreement.py"
