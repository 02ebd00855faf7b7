# Every picture of greater-than, from the tables: seconds each, where Snakemake itself runs.
rule gt_plot_heatmaps:
    input:
        year_heatmap="cache/greater_than/circuits/{model}/year_heatmap.parquet",
        behaviour="cache/greater_than/circuits/{model}/behaviour.parquet",
        circuit_eval="cache/greater_than/circuits/{model}/circuit_eval.parquet",
    output:
        pdf="figures/greater_than/{model}/{heatmap}.pdf",
        png=report("figures/greater_than/{model}/{heatmap}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_heatmaps/{model}/{heatmap}.log",
    wildcard_constraints:
        heatmap=files_of("gt_plot_heatmaps"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_heatmaps.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "{heatmap}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_heatmaps.py"


rule gt_plot_tasks:
    input:
        year_heatmap="cache/greater_than/tasks/{model}/year_heatmap.parquet",
        gt_tasks="cache/greater_than/tasks/{model}/gt_tasks.parquet",
        ipp="cache/greater_than/tasks/{model}/ipp.parquet",
    output:
        pdf="figures/greater_than/{model}/{tasks}.pdf",
        png=report("figures/greater_than/{model}/{tasks}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_tasks/{model}/{tasks}.log",
    wildcard_constraints:
        tasks=files_of("gt_plot_tasks"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_tasks.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "{tasks}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_tasks.py"


rule gt_plot_stages:
    input:
        ipp="cache/greater_than/stages/{model}/ipp.parquet",
    output:
        pdf="figures/greater_than/{model}/{stage}.pdf",
        png=report("figures/greater_than/{model}/{stage}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_stages/{model}/{stage}.log",
    wildcard_constraints:
        stage=files_of("gt_plot_stages"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_stages.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "{stage}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_stages.py"


rule gt_plot_attention:
    input:
        gt_attention="cache/greater_than/semantics/{model}/gt_attention.parquet",
        gt_attention_yy="cache/greater_than/semantics/{model}/gt_attention_yy.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        pdf="figures/greater_than/{model}/{attention}.pdf",
        png=report("figures/greater_than/{model}/{attention}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_attention/{model}/{attention}.log",
    wildcard_constraints:
        attention=files_of("gt_plot_attention"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_attention.py"),
        item=caption("greater_than", "{attention}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_attention.py"


rule gt_plot_lenses:
    input:
        gt_lens="cache/greater_than/semantics/{model}/gt_lens.parquet",
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
    output:
        pdf="figures/greater_than/{model}/{lens}.pdf",
        png=report("figures/greater_than/{model}/{lens}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_lenses/{model}/{lens}.log",
    wildcard_constraints:
        lens=files_of("gt_plot_lenses"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_lenses.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "{lens}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_lenses.py"


rule gt_plot_neurons:
    input:
        gt_neuron_lens="cache/greater_than/neurons/{model}/gt_neuron_lens.parquet",
        gt_neurons="cache/greater_than/neurons/{model}/gt_neurons.parquet",
        gt_neuron_curve="cache/greater_than/neurons/{model}/gt_neuron_curve.parquet",
    output:
        pdf="figures/greater_than/{model}/{neurons}.pdf",
        png=report("figures/greater_than/{model}/{neurons}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_neurons/{model}/{neurons}.log",
    wildcard_constraints:
        neurons=files_of("gt_plot_neurons"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=LARGE_PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_neurons.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "{neurons}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_neurons.py"


rule gt_plot_pca:
    input:
        gt_pca="cache/greater_than/representations/{model}/gt_pca.parquet",
    output:
        pdf="figures/greater_than/{model}/f9-pca.pdf",
        png=report("figures/greater_than/{model}/f9-pca.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_pca/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_pca.py", data=["greater_than/plot_style.json"]),
        item=caption("greater_than", "F9"),
    script:
        "../workflow_scripts/greater_than/gt_plot_pca.py"


rule gt_plot_circuit:
    input:
        gt_circuit="cache/greater_than/stages/{model}/gt_circuit.parquet",
        ipp="cache/greater_than/stages/{model}/ipp.parquet",
    output:
        pdf="figures/greater_than/{model}/f1-circuit.pdf",
        png=report("figures/greater_than/{model}/f1-circuit.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_circuit/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_circuit.py", "greater_than.choose_share"),
        item=caption("greater_than", "F1"),
    script:
        "../workflow_scripts/greater_than/gt_plot_circuit.py"


rule gt_plot_tables:
    input:
        behaviour="cache/greater_than/circuits/{model}/behaviour.parquet",
        circuit_eval="cache/greater_than/circuits/{model}/circuit_eval.parquet",
        mlp_split="cache/greater_than/semantics/{model}/mlp_split.parquet",
        gt_tasks="cache/greater_than/tasks/{model}/gt_tasks.parquet",
        gt_random_circuits="cache/greater_than/random_circuits/{model}/gt_random_circuits.parquet",
        gt_topk="cache/greater_than/checks/{model}/gt_topk.parquet",
        gt_random_years="cache/greater_than/checks/{model}/gt_random_years.parquet",
        gt_erasure="cache/greater_than/representations/{model}/gt_erasure.parquet",
    output:
        pdf="figures/greater_than/{model}/{table}.pdf",
        png=report("figures/greater_than/{model}/{table}.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_tables/{model}/{table}.log",
    wildcard_constraints:
        table=files_of("gt_plot_tables"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_tables.py"),
        item=caption("greater_than", "{table}"),
    script:
        "../workflow_scripts/greater_than/gt_plot_tables.py"


rule gt_plot_scorecard:
    input:
        scorecard="cache/report/scorecard.parquet",
    output:
        pdf="figures/greater_than/{model}/t7-scorecard.pdf",
        png=report("figures/greater_than/{model}/t7-scorecard.png", caption=CAPTION, category="greater than"),
    log:
        "cache/logs/gt_plot_scorecard/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("greater_than/gt_plot_scorecard.py"),
        item=caption("greater_than", "T7"),
    script:
        "../workflow_scripts/greater_than/gt_plot_scorecard.py"
