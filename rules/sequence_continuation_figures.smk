# Pictures of sequence continuation's node part, from the tables: seconds each, where Snakemake itself runs.
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_size_performance.py", "sequence_continuation.threshold"),
        item=caption("sequence_continuation", "X2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_size_performance.py"


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
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_answer_probability.py"),
        item=caption("sequence_continuation", "FA9"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_answer_probability.py"
