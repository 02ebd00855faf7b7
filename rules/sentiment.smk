# Sentiment (Tigges et al., arXiv 2310.15154): prompts, reviews and running text; directions; patching.
rule se_make_prompts:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
    log:
        "cache/logs/se_make_prompts/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("sentiment/se_make_prompts.py", data=SE_DATA),
    script:
        "../workflow_scripts/sentiment/se_make_prompts.py"


rule se_make_reviews:
    input:
        unpack(treebank_of),
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        se_reviews="cache/sentiment/reviews/{model}/se_reviews.parquet",
    log:
        "cache/logs/se_make_reviews/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=source_memory(4000),
        runtime=10,
    params:
        spec=spec("sentiment/se_make_reviews.py", "seed", "models.{model}", "sentiment.review_pairs", data=SE_DATA),
    script:
        "../workflow_scripts/sentiment/se_make_reviews.py"


rule se_make_text:
    input:
        unpack(text_of),
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        se_text="cache/sentiment/text/{model}/se_text.parquet",
    log:
        "cache/logs/se_make_text/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=source_memory(8000),
        runtime=20,
    params:
        spec=spec("sentiment/se_make_text.py", "seed", "models.{model}", "sentiment.text_rows", data=SE_STAND_INS),
    script:
        "../workflow_scripts/sentiment/se_make_text.py"


rule se_run_regression:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
    output:
        se_regression="cache/sentiment/regression/{model}/se_regression.parquet",
    log:
        "cache/logs/se_run_regression/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_regression/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(2),
    params:
        spec=spec("sentiment/se_run_regression.py"),
    script:
        "../workflow_scripts/sentiment/se_run_regression.py"


rule se_fit_directions:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_regression="cache/sentiment/regression/{model}/se_regression.parquet",
    output:
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        se_fit_accuracy="cache/sentiment/directions/{model}/se_fit_accuracy.parquet",
        se_pca_points="cache/sentiment/directions/{model}/se_pca_points.parquet",
    log:
        "cache/logs/se_fit_directions/{model}.log",
    benchmark:
        "cache/benchmarks/se_fit_directions/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(10),
    params:
        spec=spec("sentiment/se_fit_directions.py", data=["sentiment/toy_sets.json"]),
    script:
        "../workflow_scripts/sentiment/se_fit_directions.py"


rule se_fit_das:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_regression="cache/sentiment/regression/{model}/se_regression.parquet",
    output:
        se_directions="cache/sentiment/das/{model}/se_directions.parquet",
        se_das_history="cache/sentiment/das/{model}/se_das_history.parquet",
        se_fit_accuracy="cache/sentiment/das/{model}/se_fit_accuracy.parquet",
    log:
        "cache/logs/se_fit_das/{model}.log",
    benchmark:
        "cache/benchmarks/se_fit_das/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=minutes(50),
    params:
        spec=spec("sentiment/se_fit_das.py", "sentiment.das_epochs", "sentiment.das_seeds", data=["sentiment/toy_sets.json"]),
    script:
        "../workflow_scripts/sentiment/se_fit_das.py"


rule se_score_cosines:
    input:
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das_directions="cache/sentiment/das/{model}/se_directions.parquet",
    output:
        se_cosines="cache/sentiment/cosines/{model}/se_cosines.parquet",
    log:
        "cache/logs/se_score_cosines/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=TORCH,
        runtime=10,
    params:
        spec=spec("sentiment/se_score_cosines.py"),
    script:
        "../workflow_scripts/sentiment/se_score_cosines.py"


rule se_patch_directions:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_reviews="cache/sentiment/reviews/{model}/se_reviews.parquet",
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das_directions="cache/sentiment/das/{model}/se_directions.parquet",
    output:
        se_patching="cache/sentiment/patching/{model}/se_patching.parquet",
        se_patching_prompts="cache/sentiment/patching/{model}/se_patching_prompts.parquet",
        se_patching_best="cache/sentiment/patching/{model}/se_patching_best.parquet",
        se_patching_null="cache/sentiment/patching/{model}/se_patching_null.parquet",
    log:
        "cache/logs/se_patch_directions/{model}.log",
    benchmark:
        "cache/benchmarks/se_patch_directions/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(2),
        runtime=minutes(150),
    params:
        spec=spec(
            "sentiment/se_patch_directions.py",
            "seed",
            "sentiment.null_draws",
            "sentiment.bootstrap_draws",
            "sentiment.review_pairs",
            "sentiment.random_directions",
            data=["sentiment/toy_sets.json"],
        ),
    script:
        "../workflow_scripts/sentiment/se_patch_directions.py"


rule se_plot_patching:
    input:
        se_patching="cache/sentiment/patching/{model}/se_patching.parquet",
        se_patching_best="cache/sentiment/patching/{model}/se_patching_best.parquet",
        se_patching_null="cache/sentiment/patching/{model}/se_patching_null.parquet",
    output:
        pdf="figures/sentiment/{model}/{patching}.pdf",
        png=report("figures/sentiment/{model}/{patching}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_patching/{model}/{patching}.log",
    wildcard_constraints:
        patching=files_of("se_plot_patching"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_patching.py"),
        item=caption("sentiment", "{patching}"),
    script:
        "../workflow_scripts/sentiment/se_plot_patching.py"


rule se_plot_cosines:
    input:
        se_cosines="cache/sentiment/cosines/{model}/se_cosines.parquet",
    output:
        pdf="figures/sentiment/{model}/{cosines}.pdf",
        png=report("figures/sentiment/{model}/{cosines}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_cosines/{model}/{cosines}.log",
    wildcard_constraints:
        cosines=files_of("se_plot_cosines"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_cosines.py", data=["sentiment/das_released_cosines.json"]),
        item=caption("sentiment", "{cosines}"),
    script:
        "../workflow_scripts/sentiment/se_plot_cosines.py"


rule se_plot_pca:
    input:
        se_pca_points="cache/sentiment/directions/{model}/se_pca_points.parquet",
    output:
        pdf="figures/sentiment/{model}/{pca}.pdf",
        png=report("figures/sentiment/{model}/{pca}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_pca/{model}/{pca}.log",
    wildcard_constraints:
        pca=files_of("se_plot_pca"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_pca.py"),
        item=caption("sentiment", "{pca}"),
    script:
        "../workflow_scripts/sentiment/se_plot_pca.py"


rule se_plot_das:
    input:
        se_das_history="cache/sentiment/das/{model}/se_das_history.parquet",
    output:
        pdf="figures/sentiment/{model}/a2-das-dimensions.pdf",
        png=report("figures/sentiment/{model}/a2-das-dimensions.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_das/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_das.py"),
        item=caption("sentiment", "A2"),
    script:
        "../workflow_scripts/sentiment/se_plot_das.py"


rule se_plot_fits:
    input:
        se_fit_accuracy="cache/sentiment/directions/{model}/se_fit_accuracy.parquet",
        das_accuracy="cache/sentiment/das/{model}/se_fit_accuracy.parquet",
    output:
        pdf="figures/sentiment/{model}/x3-fit-accuracy.pdf",
        png=report("figures/sentiment/{model}/x3-fit-accuracy.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_fits/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_fits.py"),
        item=caption("sentiment", "X3"),
    script:
        "../workflow_scripts/sentiment/se_plot_fits.py"
