# Pictures of circuit probing.


rule cp_plot_probes:
    input:
        cp_runs="cache/circuit_probing/masks/{experiment}/cp_runs.parquet",
        cp_probes="cache/circuit_probing/probes/{experiment}/cp_probes.parquet",
    output:
        pdf="figures/circuit_probing/{experiment}/{readout}.pdf",
        png=report("figures/circuit_probing/{experiment}/{readout}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_probes/{experiment}/{readout}.log",
    wildcard_constraints:
        readout=files_of("cp_plot_probes"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_probes.py"),
        item=caption("circuit_probing", "{readout}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_probes.py"


rule cp_plot_training:
    input:
        cp_curves="cache/circuit_probing/training/{experiment}/cp_curves.parquet",
    output:
        pdf="figures/circuit_probing/{experiment}/{curves}.pdf",
        png=report("figures/circuit_probing/{experiment}/{curves}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_training/{experiment}/{curves}.log",
    wildcard_constraints:
        curves=files_of("cp_plot_training"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_training.py"),
        item=caption("circuit_probing", "{curves}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_training.py"


rule cp_plot_transfer:
    input:
        cp_transfer="cache/circuit_probing/training/transfer/cp_transfer.parquet",
    output:
        pdf="figures/circuit_probing/disambiguation/e1-s2-transfer.pdf",
        png=report("figures/circuit_probing/disambiguation/e1-s2-transfer.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_transfer/disambiguation.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_transfer.py"),
        item=caption("circuit_probing", "E1-S2"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_transfer.py"


rule cp_plot_probes_along_training:
    input:
        cp_runs="cache/circuit_probing/masks/grokking/cp_runs.parquet",
        cp_probes="cache/circuit_probing/probes/grokking/cp_probes.parquet",
    output:
        pdf="figures/circuit_probing/grokking/{readout}.pdf",
        png=report("figures/circuit_probing/grokking/{readout}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_probes_along_training/grokking/{readout}.log",
    wildcard_constraints:
        readout=files_of("cp_plot_probes_along_training"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_probes_along_training.py"),
        item=caption("circuit_probing", "{readout}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_probes_along_training.py"


rule cp_plot_causes_along_training:
    input:
        cp_ablations="cache/circuit_probing/masks/grokking/cp_ablations.parquet",
        cp_amnesic="cache/circuit_probing/erasers/grokking/cp_amnesic.parquet",
        cp_alignments="cache/circuit_probing/alignments/grokking/cp_alignments.parquet",
    output:
        pdf="figures/circuit_probing/grokking/{cause}.pdf",
        png=report("figures/circuit_probing/grokking/{cause}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_causes_along_training/grokking/{cause}.log",
    wildcard_constraints:
        cause=files_of("cp_plot_causes_along_training"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_causes_along_training.py"),
        item=caption("circuit_probing", "{cause}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_causes_along_training.py"


rule cp_plot_causal_table:
    input:
        cp_runs="cache/circuit_probing/masks/{experiment}/cp_runs.parquet",
        cp_ablations="cache/circuit_probing/masks/{experiment}/cp_ablations.parquet",
        cp_embeddings="cache/circuit_probing/embeddings/{experiment}/cp_embeddings.parquet",
        cp_amnesic="cache/circuit_probing/erasers/{experiment}/cp_amnesic.parquet",
        cp_alignments="cache/circuit_probing/alignments/{experiment}/cp_alignments.parquet",
    output:
        pdf="figures/circuit_probing/{experiment}/{table}.pdf",
        png=report("figures/circuit_probing/{experiment}/{table}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_causal_table/{experiment}/{table}.log",
    wildcard_constraints:
        table=files_of("cp_plot_causal_table"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_causal_table.py"),
        item=caption("circuit_probing", "{table}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_causal_table.py"


rule cp_plot_sizes:
    input:
        cp_runs="cache/circuit_probing/masks/grokking/cp_runs.parquet",
    output:
        pdf="figures/circuit_probing/grokking/e3-t5-sizes.pdf",
        png=report("figures/circuit_probing/grokking/e3-t5-sizes.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_sizes/grokking.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_sizes.py"),
        item=caption("circuit_probing", "E3-T5"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_sizes.py"


rule cp_plot_overlaps:
    input:
        cp_overlaps="cache/circuit_probing/overlaps/{experiment}/cp_overlaps.parquet",
    output:
        pdf="figures/circuit_probing/{experiment}/{overlap}.pdf",
        png=report("figures/circuit_probing/{experiment}/{overlap}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_overlaps/{experiment}/{overlap}.log",
    wildcard_constraints:
        overlap=files_of("cp_plot_overlaps"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_overlaps.py"),
        item=caption("circuit_probing", "{overlap}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_overlaps.py"


rule cp_plot_frames:
    input:
        cp_frames="cache/circuit_probing/masks/{experiment}/cp_frames.parquet",
    output:
        pdf="figures/circuit_probing/{experiment}/{frames}.pdf",
        png=report("figures/circuit_probing/{experiment}/{frames}.png", caption=CAPTION, category="circuit probing"),
        gif="figures/circuit_probing/{experiment}/{frames}.gif",
    log:
        "cache/logs/cp_plot_frames/{experiment}/{frames}.log",
    wildcard_constraints:
        frames=files_of("cp_plot_frames"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_frames.py"),
        item=caption("circuit_probing", "{frames}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_frames.py"


rule cp_plot_language:
    input:
        cp_lm_runs="cache/circuit_probing/lm_masks/{model}/cp_lm_runs.parquet",
        cp_lm_ablations="cache/circuit_probing/lm_masks/{model}/cp_lm_ablations.parquet",
    output:
        pdf="figures/circuit_probing/{model}/{language}.pdf",
        png=report("figures/circuit_probing/{model}/{language}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_language/{model}/{language}.log",
    wildcard_constraints:
        language=files_of("cp_plot_language"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_language.py"),
        item=caption("circuit_probing", "{language}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_language.py"


rule cp_plot_lm_overlaps:
    input:
        cp_lm_overlaps="cache/circuit_probing/lm_overlaps/{model}/cp_lm_overlaps.parquet",
    output:
        pdf="figures/circuit_probing/{model}/{overlap}.pdf",
        png=report("figures/circuit_probing/{model}/{overlap}.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_lm_overlaps/{model}/{overlap}.log",
    wildcard_constraints:
        overlap=files_of("cp_plot_lm_overlaps"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_lm_overlaps.py"),
        item=caption("circuit_probing", "{overlap}"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_lm_overlaps.py"


rule cp_plot_tokens:
    input:
        cp_lm_tokens="cache/circuit_probing/lm_masks/{model}/cp_lm_tokens.parquet",
    output:
        pdf="figures/circuit_probing/{model}/e4-q1-next-words.pdf",
        png=report("figures/circuit_probing/{model}/e4-q1-next-words.png", caption=CAPTION, category="circuit probing"),
    log:
        "cache/logs/cp_plot_tokens/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_plot_tokens.py"),
        item=caption("circuit_probing", "E4-Q1"),
    script:
        "../workflow_scripts/circuit_probing/cp_plot_tokens.py"
