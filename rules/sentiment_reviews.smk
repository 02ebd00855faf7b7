# Sentiment: mood stories and reviews: summaries, and the direction removed.
rule se_patch_stories:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
    output:
        se_mood="cache/sentiment/stories/{model}/se_mood.parquet",
        se_mood_summary="cache/sentiment/stories/{model}/se_mood_summary.parquet",
        se_mood_ratios="cache/sentiment/stories/{model}/se_mood_ratios.parquet",
        se_mood_paths="cache/sentiment/stories/{model}/se_mood_paths.parquet",
        se_mood_attention="cache/sentiment/stories/{model}/se_mood_attention.parquet",
    log:
        "cache/logs/se_patch_stories/{model}.log",
    benchmark:
        "cache/benchmarks/se_patch_stories/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=text_minutes(1),
    params:
        spec=spec("sentiment/se_patch_stories.py", "seed", "sentiment.bootstrap_draws"),
    script:
        "../workflow_scripts/sentiment/se_patch_stories.py"


rule se_ablate_reviews:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        se_directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das="cache/sentiment/das/{model}/se_directions.parquet",
        se_reviews="cache/sentiment/reviews/{model}/se_reviews.parquet",
        se_text="cache/sentiment/text/{model}/se_text.parquet",
    output:
        se_examples="cache/sentiment/ablation/{model}/se_examples.parquet",
        se_ablation="cache/sentiment/ablation/{model}/se_ablation.parquet",
        se_ablation_summary="cache/sentiment/ablation/{model}/se_ablation_summary.parquet",
        se_comma_distance="cache/sentiment/ablation/{model}/se_comma_distance.parquet",
    log:
        "cache/logs/se_ablate_reviews/{model}.log",
    benchmark:
        "cache/benchmarks/se_ablate_reviews/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=text_memory(),
        runtime=text_minutes(20),
    params:
        spec=spec(
            "sentiment/se_ablate_reviews.py",
            "seed",
            "sentiment.ablation_seeds",
            "sentiment.random_directions",
            "sentiment.bootstrap_draws",
        ),
    script:
        "../workflow_scripts/sentiment/se_ablate_reviews.py"


rule se_plot_stories:
    input:
        se_mood_summary="cache/sentiment/stories/{model}/se_mood_summary.parquet",
        se_mood_ratios="cache/sentiment/stories/{model}/se_mood_ratios.parquet",
        se_mood_paths="cache/sentiment/stories/{model}/se_mood_paths.parquet",
        se_mood_attention="cache/sentiment/stories/{model}/se_mood_attention.parquet",
    output:
        pdf="figures/sentiment/{model}/{story}.pdf",
        png=report("figures/sentiment/{model}/{story}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_stories/{model}/{story}.log",
    wildcard_constraints:
        story=files_of("se_plot_stories"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_stories.py"),
        item=caption("sentiment", "{story}"),
    script:
        "../workflow_scripts/sentiment/se_plot_stories.py"


rule se_plot_ablation:
    input:
        se_examples="cache/sentiment/ablation/{model}/se_examples.parquet",
        se_ablation="cache/sentiment/ablation/{model}/se_ablation.parquet",
        se_ablation_summary="cache/sentiment/ablation/{model}/se_ablation_summary.parquet",
        se_comma_distance="cache/sentiment/ablation/{model}/se_comma_distance.parquet",
    output:
        pdf="figures/sentiment/{model}/{ablation}.pdf",
        png=report("figures/sentiment/{model}/{ablation}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_ablation/{model}/{ablation}.log",
    wildcard_constraints:
        ablation=files_of("se_plot_ablation"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_ablation.py", data=["sentiment/comma_distance.json"]),
        item=caption("sentiment", "{ablation}"),
    script:
        "../workflow_scripts/sentiment/se_plot_ablation.py"
