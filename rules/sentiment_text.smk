# Sentiment: running text, negation, steering, neurons.
rule se_run_text:
    input:
        unpack(treebank_of),
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das="cache/sentiment/das/{model}/se_directions.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_text="cache/sentiment/text/{model}/se_text.parquet",
    output:
        se_text_hist="cache/sentiment/running_text/{model}/se_text_hist.parquet",
        se_text_samples="cache/sentiment/running_text/{model}/se_text_samples.parquet",
        se_text_stats="cache/sentiment/running_text/{model}/se_text_stats.parquet",
        se_token_stats="cache/sentiment/running_text/{model}/se_token_stats.parquet",
        se_text_accuracy="cache/sentiment/running_text/{model}/se_text_accuracy.parquet",
        se_text_auc="cache/sentiment/running_text/{model}/se_text_auc.parquet",
    log:
        "cache/logs/se_run_text/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_text/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=text_memory(),
        runtime=text_minutes(2),
    params:
        spec=spec(
            "sentiment/se_run_text.py",
            "seed",
            "sentiment.bootstrap_draws",
            data=SE_STAND_INS,
        ),
    script:
        "../workflow_scripts/sentiment/se_run_text.py"


rule se_run_text_loss:
    input:
        unpack(treebank_of),
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das="cache/sentiment/das/{model}/se_directions.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_text="cache/sentiment/text/{model}/se_text.parquet",
    output:
        se_text_loss="cache/sentiment/text_loss/{model}/se_text_loss.parquet",
        se_text_loss_tokens="cache/sentiment/text_loss/{model}/se_text_loss_tokens.parquet",
    log:
        "cache/logs/se_run_text_loss/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_text_loss/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=text_memory(),
        runtime=text_minutes(10),
    params:
        spec=spec("sentiment/se_run_text_loss.py", "seed", "sentiment.loss_rows", data=SE_STAND_INS),
    script:
        "../workflow_scripts/sentiment/se_run_text_loss.py"


rule se_steer:
    input:
        unpack(treebank_of),
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das="cache/sentiment/das/{model}/se_directions.parquet",
    output:
        se_steering="cache/sentiment/steering/{model}/se_steering.parquet",
    log:
        "cache/logs/se_steer/{model}.log",
    benchmark:
        "cache/benchmarks/se_steer/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=memory(1),
        runtime=text_minutes(1),
    params:
        spec=spec(
            "sentiment/se_steer.py",
            "seed",
            "models.{model}",
            "sentiment.steering_samples",
            data=[*SE_STAND_INS, "sentiment/steering.json"],
        ),
    script:
        "../workflow_scripts/sentiment/se_steer.py"


rule se_plot_areas:
    input:
        se_text_samples="cache/sentiment/running_text/{model}/se_text_samples.parquet",
        se_text_hist="cache/sentiment/running_text/{model}/se_text_hist.parquet",
        se_text_accuracy="cache/sentiment/running_text/{model}/se_text_accuracy.parquet",
    output:
        pdf="figures/sentiment/{model}/{areas}.pdf",
        png=report("figures/sentiment/{model}/{areas}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_areas/{model}/{areas}.log",
    wildcard_constraints:
        areas=files_of("se_plot_areas"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_areas.py"),
        item=caption("sentiment", "{areas}"),
    script:
        "../workflow_scripts/sentiment/se_plot_areas.py"


rule se_plot_text:
    input:
        se_token_stats="cache/sentiment/running_text/{model}/se_token_stats.parquet",
        se_text_hist="cache/sentiment/running_text/{model}/se_text_hist.parquet",
        se_text_auc="cache/sentiment/running_text/{model}/se_text_auc.parquet",
    output:
        pdf="figures/sentiment/{model}/{text}.pdf",
        png=report("figures/sentiment/{model}/{text}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_text/{model}/{text}.log",
    wildcard_constraints:
        text=files_of("se_plot_text"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_text.py"),
        item=caption("sentiment", "{text}"),
    script:
        "../workflow_scripts/sentiment/se_plot_text.py"


rule se_plot_text_loss:
    input:
        se_text_loss="cache/sentiment/text_loss/{model}/se_text_loss.parquet",
        se_text_loss_tokens="cache/sentiment/text_loss/{model}/se_text_loss_tokens.parquet",
    output:
        pdf="figures/sentiment/{model}/{loss}.pdf",
        png=report("figures/sentiment/{model}/{loss}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_text_loss/{model}/{loss}.log",
    wildcard_constraints:
        loss=files_of("se_plot_text_loss"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_text_loss.py"),
        item=caption("sentiment", "{loss}"),
    script:
        "../workflow_scripts/sentiment/se_plot_text_loss.py"


rule se_plot_steering:
    input:
        se_steering="cache/sentiment/steering/{model}/se_steering.parquet",
    output:
        pdf="figures/sentiment/{model}/{steering}.pdf",
        png=report("figures/sentiment/{model}/{steering}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_steering/{model}/{steering}.log",
    wildcard_constraints:
        steering=files_of("se_plot_steering"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_steering.py"),
        item=caption("sentiment", "{steering}"),
    script:
        "../workflow_scripts/sentiment/se_plot_steering.py"


rule se_run_words:
    input:
        config="cache/models/{model}/config.json",
        model="cache/models/{model}/model.safetensors",
        tokenizer="cache/models/{model}/tokenizer.json",
        certificate="cache/models/{model}/certificate.parquet",
        directions="cache/sentiment/directions/{model}/se_directions.parquet",
        das="cache/sentiment/das/{model}/se_directions.parquet",
        se_prompts="cache/sentiment/prompts/{model}/se_prompts.parquet",
        se_positions="cache/sentiment/prompts/{model}/se_positions.parquet",
        se_text="cache/sentiment/text/{model}/se_text.parquet",
        se_text_stats="cache/sentiment/running_text/{model}/se_text_stats.parquet",
    output:
        se_neuroscope="cache/sentiment/words/{model}/se_neuroscope.parquet",
        se_negation="cache/sentiment/words/{model}/se_negation.parquet",
        se_neurons="cache/sentiment/words/{model}/se_neurons.parquet",
        se_one_sided="cache/sentiment/words/{model}/se_one_sided.parquet",
    log:
        "cache/logs/se_run_words/{model}.log",
    benchmark:
        "cache/benchmarks/se_run_words/{model}.jsonl"
    localrule: EMBEDDED
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=text_memory(),
        runtime=text_minutes(1),
    params:
        spec=spec(
            "sentiment/se_run_words.py",
            data=[*SE_DATA, "sentiment/long_texts.json", "sentiment/cited_windows.json"],
        ),
    script:
        "../workflow_scripts/sentiment/se_run_words.py"


rule se_plot_neuroscope:
    input:
        se_neuroscope="cache/sentiment/words/{model}/se_neuroscope.parquet",
    output:
        pdf="figures/sentiment/{model}/{texts}.pdf",
        png=report("figures/sentiment/{model}/{texts}.png", caption=CAPTION, category="sentiment"),
        html="figures/sentiment/{model}/{texts}.html",
    log:
        "cache/logs/se_plot_neuroscope/{model}/{texts}.log",
    wildcard_constraints:
        texts=files_of("se_plot_neuroscope"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_neuroscope.py"),
        item=caption("sentiment", "{texts}"),
    script:
        "../workflow_scripts/sentiment/se_plot_neuroscope.py"


rule se_plot_negation:
    input:
        se_negation="cache/sentiment/words/{model}/se_negation.parquet",
    output:
        pdf="figures/sentiment/{model}/{negation}.pdf",
        png=report("figures/sentiment/{model}/{negation}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_negation/{model}/{negation}.log",
    wildcard_constraints:
        negation=files_of("se_plot_negation"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_negation.py"),
        item=caption("sentiment", "{negation}"),
    script:
        "../workflow_scripts/sentiment/se_plot_negation.py"


rule se_plot_neurons:
    input:
        se_neurons="cache/sentiment/words/{model}/se_neurons.parquet",
        se_one_sided="cache/sentiment/words/{model}/se_one_sided.parquet",
    output:
        pdf="figures/sentiment/{model}/{neurons}.pdf",
        png=report("figures/sentiment/{model}/{neurons}.png", caption=CAPTION, category="sentiment"),
    log:
        "cache/logs/se_plot_neurons/{model}/{neurons}.log",
    wildcard_constraints:
        neurons=files_of("se_plot_neurons"),
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PICTURE,
        runtime=10,
    params:
        spec=spec("sentiment/se_plot_neurons.py"),
        item=caption("sentiment", "{neurons}"),
    script:
        "../workflow_scripts/sentiment/se_plot_neurons.py"
