# Models: three sources, one shape on disk, and a judge that every model must pass before anything uses it.
rule train_model:
    output:
        config="cache/models/{model}/config.json",
        model=ensure("cache/models/{model}/model.safetensors", non_empty=True),
        tokenizer="cache/models/{model}/tokenizer.json",
        manifest="cache/models/{model}/manifest.json",
    log:
        "cache/logs/train_model/{model}.log",
    benchmark:
        "cache/benchmarks/train_model/{model}.jsonl"
    wildcard_constraints:
        model=either(TRAINED),
    priority: 2  # most of a study waits for its models
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(floor=FITTED),
        runtime=minutes(60),
    params:
        spec=spec("models/train_model.py", "seed", "models.{model}", data=CORPUS_DATA),
    script:
        "../workflow_scripts/models/train_model.py"


rule fetch_model:
    output:
        config="cache/models/{model}/config.json",
        model=ensure("cache/models/{model}/model.safetensors", non_empty=True),
        tokenizer="cache/models/{model}/tokenizer.json",
        manifest="cache/models/{model}/manifest.json",
    log:
        "cache/logs/fetch_model/{model}.log",
    benchmark:
        "cache/benchmarks/fetch_model/{model}.jsonl"
    wildcard_constraints:
        model=either(HUB),
    retries: 1
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(),
        runtime=60,
    params:
        spec=spec("models/fetch_model.py", "models.{model}"),
        lock=LOCK,
        guard=GUARD,
    script:
        "../workflow_scripts/models/fetch_model.py"


rule copy_model:
    output:
        config="cache/models/{model}/config.json",
        model=ensure("cache/models/{model}/model.safetensors", non_empty=True),
        tokenizer="cache/models/{model}/tokenizer.json",
        manifest="cache/models/{model}/manifest.json",
    log:
        "cache/logs/copy_model/{model}.log",
    wildcard_constraints:
        model=either(LOCAL),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=memory(),
        runtime=30,
    params:
        spec=spec("models/copy_model.py", "models.{model}"),
    script:
        "../workflow_scripts/models/copy_model.py"


rule certify_model:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        prompts=prompts_of,
    output:
        certificate="cache/models/{model}/certificate.parquet",
    log:
        "cache/logs/certify_model/{model}.log",
    benchmark:
        "cache/benchmarks/certify_model/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(floor=JUDGED, weights=3),
        runtime=minutes(5),
    params:
        spec=spec("models/certify_model.py", limit=1e-4, prompts=32),
    script:
        "../workflow_scripts/models/certify_model.py"
