# Sentiment: the circuit on ToyMovieReview.


rule se_patch_activations:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_regression="cache/sentiment/regression/{model}/se_regression.parquet",
    output:
        se_act_patching="cache/sentiment/circuit/{model}/se_act_patching.parquet",
    log:
        "cache/logs/se_patch_activations/{model}.log",
    benchmark:
        "cache/benchmarks/se_patch_activations/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(2),
        runtime=minutes(20),
    params:
        spec=spec("sentiment/se_patch_activations.py", "seed", "sentiment.bootstrap_draws"),
    script:
        "../workflow_scripts/sentiment/se_patch_activations.py"


rule se_patch_paths:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_regression="cache/sentiment/regression/{model}/se_regression.parquet",
    output:
        se_path_patching="cache/sentiment/circuit/{model}/se_path_patching.parquet",
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
    log:
        "cache/logs/se_patch_paths/{model}.log",
    benchmark:
        "cache/benchmarks/se_patch_paths/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(2),
        runtime=minutes(20),
    params:
        spec=spec("sentiment/se_patch_paths.py", "seed", "sentiment.bootstrap_draws", data=["sentiment/circuit_heads.json"]),
    script:
        "../workflow_scripts/sentiment/se_patch_paths.py"


rule se_run_attribution:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_act_patching="cache/sentiment/circuit/{model}/se_act_patching.parquet",
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
    output:
        se_dla="cache/sentiment/circuit/{model}/se_dla.parquet",
        se_attention="cache/sentiment/circuit/{model}/se_attention.parquet",
        se_head_scatter="cache/sentiment/circuit/{model}/se_head_scatter.parquet",
    log:
        "cache/logs/se_run_attribution/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_attribution/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(2),
        runtime=minutes(3),
    params:
        spec=spec("sentiment/se_run_attribution.py", data=["sentiment/circuit_heads.json"]),
    script:
        "../workflow_scripts/sentiment/se_run_attribution.py"


rule se_plot_circuit_maps:
    input:
        se_act_patching="cache/sentiment/circuit/{model}/se_act_patching.parquet",
        se_path_patching="cache/sentiment/circuit/{model}/se_path_patching.parquet",
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
    output:
        pdf="figures/sentiment/{model}/{map}.pdf",
        png=report("figures/sentiment/{model}/{map}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_circuit_maps/{model}/{map}.log",
    wildcard_constraints:
        map=files_of("se_plot_circuit_maps"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_circuit_maps.py"),
        item=caption("sentiment", "{map}"),
    script:
        "../workflow_scripts/sentiment/se_plot_circuit_maps.py"


rule se_plot_attribution:
    input:
        se_dla="cache/sentiment/circuit/{model}/se_dla.parquet",
        se_attention="cache/sentiment/circuit/{model}/se_attention.parquet",
        se_head_scatter="cache/sentiment/circuit/{model}/se_head_scatter.parquet",
    output:
        pdf="figures/sentiment/{model}/{attribution}.pdf",
        png=report("figures/sentiment/{model}/{attribution}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_attribution/{model}/{attribution}.log",
    wildcard_constraints:
        attribution=files_of("se_plot_attribution"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_attribution.py"),
        item=caption("sentiment", "{attribution}"),
    script:
        "../workflow_scripts/sentiment/se_plot_attribution.py"


rule se_run_sufficiency:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das_directions="cache/sentiment/das/{model}/se_directions.parquet",
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
    output:
        se_sufficiency="cache/sentiment/circuit/{model}/se_sufficiency.parquet",
    log:
        "cache/logs/se_run_sufficiency/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_sufficiency/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(60),
    params:
        spec=spec("sentiment/se_run_sufficiency.py", "seed", "sentiment.bootstrap_draws"),
    script:
        "../workflow_scripts/sentiment/se_run_sufficiency.py"


rule se_run_ablated_circuit:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das_directions="cache/sentiment/das/{model}/se_directions.parquet",
    output:
        se_ablated_circuit="cache/sentiment/circuit/{model}/se_ablated_circuit.parquet",
    log:
        "cache/logs/se_run_ablated_circuit/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_ablated_circuit/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(40),
    params:
        spec=spec("sentiment/se_run_ablated_circuit.py", "seed", "sentiment.bootstrap_draws", "sentiment.random_directions"),
    script:
        "../workflow_scripts/sentiment/se_run_ablated_circuit.py"


rule se_run_head_outputs:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das_directions="cache/sentiment/das/{model}/se_directions.parquet",
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
    output:
        se_head_cosines="cache/sentiment/circuit/{model}/se_head_cosines.parquet",
        se_localised="cache/sentiment/circuit/{model}/se_localised.parquet",
        se_gradients="cache/sentiment/circuit/{model}/se_gradients.parquet",
    log:
        "cache/logs/se_run_head_outputs/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_head_outputs/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(4),
    params:
        spec=spec("sentiment/se_run_head_outputs.py"),
    script:
        "../workflow_scripts/sentiment/se_run_head_outputs.py"


rule se_plot_schematic:
    input:
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
        se_path_patching="cache/sentiment/circuit/{model}/se_path_patching.parquet",
    output:
        pdf="figures/sentiment/{model}/f5-circuit.pdf",
        png=report("figures/sentiment/{model}/f5-circuit.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_schematic/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_schematic.py", data=["sentiment/toy_sets.json"]),
        item=caption("sentiment", "F5"),
    script:
        "../workflow_scripts/sentiment/se_plot_schematic.py"


rule se_plot_sufficiency:
    input:
        se_sufficiency="cache/sentiment/circuit/{model}/se_sufficiency.parquet",
    output:
        pdf="figures/sentiment/{model}/{sufficiency}.pdf",
        png=report("figures/sentiment/{model}/{sufficiency}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_sufficiency/{model}/{sufficiency}.log",
    wildcard_constraints:
        sufficiency=files_of("se_plot_sufficiency"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_sufficiency.py"),
        item=caption("sentiment", "{sufficiency}"),
    script:
        "../workflow_scripts/sentiment/se_plot_sufficiency.py"


rule se_plot_head_outputs:
    input:
        se_circuit="cache/sentiment/circuit/{model}/se_circuit.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_head_cosines="cache/sentiment/circuit/{model}/se_head_cosines.parquet",
        se_localised="cache/sentiment/circuit/{model}/se_localised.parquet",
        se_gradients="cache/sentiment/circuit/{model}/se_gradients.parquet",
    output:
        pdf="figures/sentiment/{model}/{outputs}.pdf",
        png=report("figures/sentiment/{model}/{outputs}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_head_outputs/{model}/{outputs}.log",
    wildcard_constraints:
        outputs=files_of("se_plot_head_outputs"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_head_outputs.py"),
        item=caption("sentiment", "{outputs}"),
    script:
        "../workflow_scripts/sentiment/se_plot_head_outputs.py"


rule se_plot_ablated_circuit:
    input:
        se_ablated_circuit="cache/sentiment/circuit/{model}/se_ablated_circuit.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
    output:
        pdf="figures/sentiment/{model}/{ablated}.pdf",
        png=report("figures/sentiment/{model}/{ablated}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_ablated_circuit/{model}/{ablated}.log",
    wildcard_constraints:
        ablated=files_of("se_plot_ablated_circuit"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=LARGE_PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_ablated_circuit.py"),
        item=caption("sentiment", "{ablated}"),
    script:
        "../workflow_scripts/sentiment/se_plot_ablated_circuit.py"
