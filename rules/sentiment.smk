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
        mem_mb=2000,
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
        mem_mb=4000,
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
        mem_mb=8000,
        runtime=20,
    params:
        spec=spec("sentiment/se_make_text.py", "seed", "models.{model}", "sentiment.text_rows", data=SE_DATA),
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
