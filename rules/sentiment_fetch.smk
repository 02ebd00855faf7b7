# Sentiment: natural text from elsewhere, for models that can read it.
rule se_fetch_data:
    output:
        treebank=fetched("treebank"),
        text=fetched("text"),
    log:
        "cache/logs/se_fetch_data.log",
    benchmark:
        "cache/benchmarks/se_fetch_data.jsonl"
    retries: 1
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        spec=spec("sentiment/se_fetch_data.py", "sentiment.sources"),
        lock=LOCK,
        guard=GUARD,
    script:
        "../workflow_scripts/sentiment/se_fetch_data.py"
