# Pictures of sequence continuation between the nodes: circuits, attention, OV scores, lenses and edges.
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_lengths.py"),
        item=caption("sequence_continuation", "FA8"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_lengths.py"


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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_edge_variants.py", "sequence_continuation.edge_threshold"),
        item=caption("sequence_continuation", "X8"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_edge_variants.py"
