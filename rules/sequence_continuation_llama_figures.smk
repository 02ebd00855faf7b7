# Pictures of sequence continuation, the Llama part.
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=LARGE_PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
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
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sequence_continuation/seq_plot_word_problems.py"),
        item=caption("sequence_continuation", "TL2"),
    script:
        "../workflow_scripts/sequence_continuation/seq_plot_word_problems.py"
