# Circuit probing (Lepori et al., arXiv 2311.04354), Exp. 1 to 3: one-layer models of arithmetic, trained here.


wildcard_constraints:
    experiment=either(ARITHMETIC),


rule cp_make_arithmetic:
    output:
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    log:
        "cache/logs/cp_make_arithmetic/{experiment}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=TORCH,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_make_arithmetic.py"),
    script:
        "../workflow_scripts/circuit_probing/cp_make_arithmetic.py"


rule cp_train_arithmetic:
    input:
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
    output:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_curves="cache/circuit_probing/training/{experiment}/cp_curves.parquet",
    log:
        "cache/logs/cp_train_arithmetic/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_train_arithmetic/{experiment}.jsonl"
    priority: 1  # and these start the next longest chains
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(1600 + CUDA),
        runtime=epochs(),
    params:
        spec=spec("circuit_probing/cp_train_arithmetic.py", "circuit_probing.arithmetic.{experiment}", "circuit_probing.seeds"),
    script:
        "../workflow_scripts/circuit_probing/cp_train_arithmetic.py"


rule cp_train_transfer:
    input:
        checkpoints="cache/circuit_probing/training/disambiguation/checkpoints.safetensors",
        rows_a2="cache/circuit_probing/rows/transfer_a2/cp_rows.parquet",
        rows_a_plus_b="cache/circuit_probing/rows/transfer_a_plus_b/cp_rows.parquet",
    output:
        cp_transfer="cache/circuit_probing/training/transfer/cp_transfer.parquet",
    log:
        "cache/logs/cp_train_transfer.log",
    benchmark:
        "cache/benchmarks/cp_train_transfer.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=growing(30),
    params:
        spec=spec("circuit_probing/cp_train_transfer.py", "circuit_probing.transfer", "circuit_probing.seeds"),
    script:
        "../workflow_scripts/circuit_probing/cp_train_transfer.py"


rule cp_train_masks:
    input:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    output:
        cp_runs="cache/circuit_probing/masks/{experiment}/cp_runs.parquet",
        cp_masks="cache/circuit_probing/masks/{experiment}/cp_masks.parquet",
        cp_ablations="cache/circuit_probing/masks/{experiment}/cp_ablations.parquet",
        cp_frames="cache/circuit_probing/masks/{experiment}/cp_frames.parquet",
    log:
        "cache/logs/cp_train_masks/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_train_masks/{experiment}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=checkpoints(4),
    params:
        spec=spec(
            "circuit_probing/cp_train_masks.py",
            "circuit_probing.arithmetic.{experiment}",
            "seed",
            "circuit_probing.mask_epochs",
            "circuit_probing.random_masks",
        ),
    script:
        "../workflow_scripts/circuit_probing/cp_train_masks.py"


rule cp_fit_probes:
    input:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    output:
        cp_probes="cache/circuit_probing/probes/{experiment}/cp_probes.parquet",
    log:
        "cache/logs/cp_fit_probes/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_fit_probes/{experiment}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=checkpoints(3),
    params:
        spec=spec("circuit_probing/cp_fit_probes.py", "seed", "circuit_probing.probe_epochs"),
    script:
        "../workflow_scripts/circuit_probing/cp_fit_probes.py"


rule cp_fit_embeddings:
    input:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    output:
        cp_embeddings="cache/circuit_probing/embeddings/{experiment}/cp_embeddings.parquet",
    log:
        "cache/logs/cp_fit_embeddings/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_fit_embeddings/{experiment}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=checkpoints(5),
    params:
        spec=spec("circuit_probing/cp_fit_embeddings.py", "seed", "circuit_probing.probe_epochs"),
    script:
        "../workflow_scripts/circuit_probing/cp_fit_embeddings.py"


rule cp_fit_erasers:
    input:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    output:
        cp_amnesic="cache/circuit_probing/erasers/{experiment}/cp_amnesic.parquet",
    log:
        "cache/logs/cp_fit_erasers/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_fit_erasers/{experiment}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=checkpoints(1),
    params:
        spec=spec("circuit_probing/cp_fit_erasers.py", "seed", "circuit_probing.probe_epochs"),
    script:
        "../workflow_scripts/circuit_probing/cp_fit_erasers.py"


rule cp_fit_alignments:
    input:
        checkpoints="cache/circuit_probing/training/{experiment}/checkpoints.safetensors",
        cp_rows="cache/circuit_probing/rows/{experiment}/cp_rows.parquet",
        cp_variables="cache/circuit_probing/rows/{experiment}/cp_variables.parquet",
    output:
        cp_alignments="cache/circuit_probing/alignments/{experiment}/cp_alignments.parquet",
    log:
        "cache/logs/cp_fit_alignments/{experiment}.log",
    benchmark:
        "cache/benchmarks/cp_fit_alignments/{experiment}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(FITTED + CUDA),
        runtime=checkpoints(10),
    params:
        spec=spec("circuit_probing/cp_fit_alignments.py", "seed", "circuit_probing.alignment_epochs"),
    script:
        "../workflow_scripts/circuit_probing/cp_fit_alignments.py"


rule cp_score_overlaps:
    input:
        cp_masks="cache/circuit_probing/masks/{experiment}/cp_masks.parquet",
    output:
        cp_overlaps="cache/circuit_probing/overlaps/{experiment}/cp_overlaps.parquet",
    log:
        "cache/logs/cp_score_overlaps/{experiment}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=TORCH,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_score_overlaps.py"),
    script:
        "../workflow_scripts/circuit_probing/cp_score_overlaps.py"


# Exp. 4: language models.
rule cp_make_sentences:
    input:
        tokenizer="cache/models/{model}/tokenizer.json",
    output:
        cp_sentences="cache/circuit_probing/sentences/{model}/cp_sentences.parquet",
    log:
        "cache/logs/cp_make_sentences/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=TORCH,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_make_sentences.py", data=CP_DATA),
    script:
        "../workflow_scripts/circuit_probing/cp_make_sentences.py"


rule cp_train_lm_masks:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        cp_sentences="cache/circuit_probing/sentences/{model}/cp_sentences.parquet",
    output:
        cp_lm_runs="cache/circuit_probing/lm_masks/{model}/cp_lm_runs.parquet",
        cp_lm_masks="cache/circuit_probing/lm_masks/{model}/cp_lm_masks.parquet",
        cp_lm_ablations="cache/circuit_probing/lm_masks/{model}/cp_lm_ablations.parquet",
        cp_lm_tokens="cache/circuit_probing/lm_masks/{model}/cp_lm_tokens.parquet",
    log:
        "cache/logs/cp_train_lm_masks/{model}.log",
    benchmark:
        "cache/benchmarks/cp_train_lm_masks/{model}.jsonl"
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=sentence_memory(),
        runtime=sentence_minutes(),
    params:
        spec=spec(
            "circuit_probing/cp_train_lm_masks.py",
            "seed",
            "circuit_probing.mask_epochs",
            "circuit_probing.random_masks",
            "circuit_probing.shown_sentences",
        ),
    script:
        "../workflow_scripts/circuit_probing/cp_train_lm_masks.py"


rule cp_score_lm_overlaps:
    input:
        cp_lm_masks="cache/circuit_probing/lm_masks/{model}/cp_lm_masks.parquet",
    output:
        cp_lm_overlaps="cache/circuit_probing/lm_overlaps/{model}/cp_lm_overlaps.parquet",
    log:
        "cache/logs/cp_score_lm_overlaps/{model}.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_score_lm_overlaps.py", "models.{model}"),
    script:
        "../workflow_scripts/circuit_probing/cp_score_lm_overlaps.py"


rule cp_score_claims:
    input:
        tables=ARITHMETIC_TABLES,
    output:
        cp_scorecard="cache/circuit_probing/scorecard/cp_scorecard.parquet",
        csv="figures/circuit_probing/scorecard.csv",
    log:
        "cache/logs/cp_score_claims.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("circuit_probing/cp_score_claims.py", claims=CLAIMS["circuit_probing"]),
    script:
        "../workflow_scripts/circuit_probing/cp_score_claims.py"


rule circuit_probing_arithmetic:
    input:
        "figures/circuit_probing/scorecard.csv",
        ARITHMETIC_TARGETS,
