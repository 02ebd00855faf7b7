# Every picture of sequence continuation, from the tables: seconds each, where Snakemake itself runs.
rule seq_plot_head_drops:
    input:
        head_drop="cache/sequence_continuation/circuits/{model}/published/head_drop.parquet",
        single_ablation="cache/sequence_continuation/ablations/{model}/single_ablation.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/t1-head-drops.pdf",
        png=report("figures/sequence_continuation/{model}/t1-head-drops.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_head_drops/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_head_drops.py"),
        item=caption("sequence_continuation", "T1"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_head_drops.py"


rule seq_plot_cross_task:
    input:
        circuit_scores="cache/sequence_continuation/circuits/{model}/published/scores.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/t4-cross-task.pdf",
        png=report("figures/sequence_continuation/{model}/t4-cross-task.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_cross_task/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_cross_task.py", "sequence_continuation.threshold"),
        item=caption("sequence_continuation", "T4"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_cross_task.py"


rule seq_plot_single_ablations:
    input:
        single_ablation="cache/sequence_continuation/ablations/{model}/single_ablation.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/{histogram}.pdf",
        png=report(
            "figures/sequence_continuation/{model}/{histogram}.png",
            caption=CAPTION,
            category="sequence continuation",
        ),
    log:
        "cache/logs/seq_plot_single_ablations/{model}/{histogram}.log",
    wildcard_constraints:
        histogram=files_of("seq_plot_single_ablations"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_single_ablations.py"),
        item=caption("sequence_continuation", "{histogram}"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_single_ablations.py"


rule seq_plot_overlaps:
    input:
        overlaps="cache/sequence_continuation/circuits/{model}/published/overlaps.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/tl3-circuit-overlap.pdf",
        png=report(
            "figures/sequence_continuation/{model}/tl3-circuit-overlap.png",
            caption=CAPTION,
            category="sequence continuation",
        ),
    log:
        "cache/logs/seq_plot_overlaps/{model}.log",
    wildcard_constraints:
        model=either(PUBLISHED_LISTS),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_overlaps.py"),
        item=caption("sequence_continuation", "TL3"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_overlaps.py"


rule seq_plot_pruning_path:
    input:
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/published/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        pdf="figures/sequence_continuation/{model}/x1-pruning-path.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x1-pruning-path.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_pruning_path/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_pruning_path.py", "sequence_continuation.threshold"),
        item=caption("sequence_continuation", "X1"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_pruning_path.py"


rule seq_plot_size_performance:
    input:
        circuit_scores="cache/sequence_continuation/circuits/{model}/published/scores.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/x2-size-performance.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x2-size-performance.png",
            caption=CAPTION,
            category="sequence continuation",
        ),
    log:
        "cache/logs/seq_plot_size_performance/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_size_performance.py", "sequence_continuation.threshold"),
        item=caption("sequence_continuation", "X2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_size_performance.py"


rule seq_plot_merged_circuit:
    input:
        edges=collect("cache/sequence_continuation/edges/{{model}}/{variant}/edges.parquet", variant=VARIANTS),
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/published/{task}/trace.parquet", task=SEQ_TASKS),
        head_drop="cache/sequence_continuation/circuits/{model}/published/head_drop.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/{merged}.pdf",
        png=report("figures/sequence_continuation/{model}/{merged}.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_merged_circuit/{model}/{merged}.log",
    wildcard_constraints:
        merged=files_of("seq_plot_merged_circuit"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_plot_merged_circuit.py",
            "sequence_continuation.threshold",
            "models.{model}.layers",
            "models.{model}.heads",
        ),
        item=caption("sequence_continuation", "{merged}"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_merged_circuit.py"


rule seq_plot_task_circuits:
    input:
        edges="cache/sequence_continuation/edges/{model}/published/edges.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/{circuit}.pdf",
        png=report("figures/sequence_continuation/{model}/{circuit}.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_task_circuits/{model}/{circuit}.log",
    wildcard_constraints:
        circuit=files_of("seq_plot_task_circuits"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_task_circuits.py"),
        item=caption("sequence_continuation", "{circuit}"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_task_circuits.py"


rule seq_plot_attention:
    input:
        attention="cache/sequence_continuation/attention/{model}/attention.parquet",
        node_trace=collect("cache/sequence_continuation/pruning/{{model}}/published/{task}/trace.parquet", task=SEQ_TASKS),
    output:
        pdf="figures/sequence_continuation/{model}/{attention}.pdf",
        png=report("figures/sequence_continuation/{model}/{attention}.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_attention/{model}/{attention}.log",
    wildcard_constraints:
        attention=files_of("seq_plot_attention"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec(
            "sequence_continuation/seq_plot_attention.py",
            "sequence_continuation.threshold",
            "models.{model}.layers",
            "models.{model}.heads",
        ),
        item=caption("sequence_continuation", "{attention}"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_attention.py"


rule seq_plot_lengths:
    input:
        seq_len="cache/sequence_continuation/lens/{model}/seq_len.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/fa8-length.pdf",
        png=report("figures/sequence_continuation/{model}/fa8-length.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_lengths/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_lengths.py"),
        item=caption("sequence_continuation", "FA8"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_lengths.py"


rule seq_plot_answer_probability:
    input:
        baseline="cache/sequence_continuation/baseline/{model}/baseline.parquet",
        prompts="cache/sequence_continuation/prompts/{model}/prompts.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/fa9-answer-probability.pdf",
        png=report(
            "figures/sequence_continuation/{model}/fa9-answer-probability.png",
            caption=CAPTION,
            category="sequence continuation",
        ),
    log:
        "cache/logs/seq_plot_answer_probability/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_answer_probability.py"),
        item=caption("sequence_continuation", "FA9"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_answer_probability.py"


rule seq_plot_logit_lens:
    input:
        logit_lens="cache/sequence_continuation/lens/{model}/logit_lens.parquet",
        logit_lens_count="cache/sequence_continuation/lens/{model}/logit_lens_count.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/ta1-logit-lens.pdf",
        png=report(
            "figures/sequence_continuation/{model}/ta1-logit-lens.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_logit_lens/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_logit_lens.py", data=["sequence_continuation/wordlists.json"]),
        item=caption("sequence_continuation", "TA1"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_logit_lens.py"


rule seq_plot_ov_scores:
    input:
        ov_score="cache/sequence_continuation/ov/{model}/ov_score.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/ta2-next-scores.pdf",
        png=report(
            "figures/sequence_continuation/{model}/ta2-next-scores.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_ov_scores/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_ov_scores.py"),
        item=caption("sequence_continuation", "TA2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_ov_scores.py"


rule seq_plot_ov_map:
    input:
        ov_score="cache/sequence_continuation/ov/{model}/ov_score.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/x5-ov-map.pdf",
        png=report("figures/sequence_continuation/{model}/x5-ov-map.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_ov_map/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_ov_map.py"),
        item=caption("sequence_continuation", "X5"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_ov_map.py"


rule seq_plot_lens_blocks:
    input:
        logit_lens_blocks="cache/sequence_continuation/lens/{model}/logit_lens_blocks.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/x6-lens-blocks.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x6-lens-blocks.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_lens_blocks/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_lens_blocks.py"),
        item=caption("sequence_continuation", "X6"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_lens_blocks.py"


rule seq_plot_edge_graphs:
    input:
        edge_graphs="cache/sequence_continuation/edges/{model}/published/edge_graphs.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/x4-edge-graphs.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x4-edge-graphs.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_edge_graphs/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_edge_graphs.py"),
        item=caption("sequence_continuation", "X4"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_edge_graphs.py"


rule seq_plot_attribution:
    input:
        edge_attribution="cache/sequence_continuation/attribution/{model}/edge_attribution.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/x7-attribution.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x7-attribution.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_attribution/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_attribution.py"),
        item=caption("sequence_continuation", "X7"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_attribution.py"


rule seq_plot_edge_variants:
    input:
        edges=collect("cache/sequence_continuation/edges/{{model}}/{variant}/edges.parquet", variant=VARIANTS),
    output:
        pdf="figures/sequence_continuation/{model}/x8-edge-variants.pdf",
        png=report(
            "figures/sequence_continuation/{model}/x8-edge-variants.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_edge_variants/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_edge_variants.py", "sequence_continuation.edge_threshold"),
        item=caption("sequence_continuation", "X8"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_edge_variants.py"


rule seq_plot_llama_head_drops:
    input:
        llama_drops=collect(
            "cache/sequence_continuation/llama_pruning/{{model}}/{variant}/llama_drops.parquet", variant=VARIANTS
        ),
    output:
        pdf="figures/sequence_continuation/{model}/t2-llama-head-drops.pdf",
        png=report(
            "figures/sequence_continuation/{model}/t2-llama-head-drops.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_llama_head_drops/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_llama_head_drops.py"),
        item=caption("sequence_continuation", "T2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_llama_head_drops.py"


rule seq_plot_intervals:
    input:
        knockout_scores="cache/sequence_continuation/llama_knockouts/{model}/knockout_scores.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/t3-intervals.pdf",
        png=report("figures/sequence_continuation/{model}/t3-intervals.png", caption=CAPTION, category="sequence continuation"),
    log:
        "cache/logs/seq_plot_intervals/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_intervals.py"),
        item=caption("sequence_continuation", "T3"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_intervals.py"


rule seq_plot_llama_attention:
    input:
        attention="cache/sequence_continuation/llama_attention/{model}/attention.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/fl1-llama-attention.pdf",
        png=report(
            "figures/sequence_continuation/{model}/fl1-llama-attention.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_llama_attention/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_llama_attention.py"),
        item=caption("sequence_continuation", "FL1"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_llama_attention.py"


rule seq_plot_llama_heads:
    input:
        llama_drops=collect(
            "cache/sequence_continuation/llama_pruning/{{model}}/{variant}/llama_drops.parquet", variant=VARIANTS
        ),
    output:
        pdf="figures/sequence_continuation/{model}/fl2-llama-heads.pdf",
        png=report(
            "figures/sequence_continuation/{model}/fl2-llama-heads.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_llama_heads/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_llama_heads.py"),
        item=caption("sequence_continuation", "FL2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_llama_heads.py"


rule seq_plot_arithmetic:
    input:
        knockout_scores="cache/sequence_continuation/llama_knockouts/{model}/knockout_scores.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/tl1-arithmetic.pdf",
        png=report(
            "figures/sequence_continuation/{model}/tl1-arithmetic.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_arithmetic/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_arithmetic.py"),
        item=caption("sequence_continuation", "TL1"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_arithmetic.py"


rule seq_plot_word_problems:
    input:
        knockout_scores="cache/sequence_continuation/llama_knockouts/{model}/knockout_scores.parquet",
        knockouts="cache/sequence_continuation/llama_knockouts/{model}/knockouts.parquet",
    output:
        pdf="figures/sequence_continuation/{model}/tl2-word-problems.pdf",
        png=report(
            "figures/sequence_continuation/{model}/tl2-word-problems.png", caption=CAPTION, category="sequence continuation"
        ),
    log:
        "cache/logs/seq_plot_word_problems/{model}.log",
    wildcard_constraints:
        model=either(LLAMA),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_word_problems.py"),
        item=caption("sequence_continuation", "TL2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_word_problems.py"
