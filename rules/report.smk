# What we got beside what was published, where every file came from, what can be built, and what is.
TARGETS = [path for _, _, path in inventory.targets(config)]
INVENTORY = [
    {"paper": item.paper, "id": item.id, "title": item.title, "model": model, "target": path}
    for item, model, path in inventory.targets(config)
]
ASKABLE = plan.askable(config)
SCORECARD = "figures/scorecard.html"


rule report_score_claims:
    input:
        tables=TABLES,
    output:
        scorecard="cache/report/scorecard.parquet",
        page=report(SCORECARD, caption=CAPTION, category="scorecard"),
    log:
        "cache/logs/report_score_claims.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("report/report_score_claims.py", claims=CLAIMS),
        item={"caption": "Every published number beside ours.", "number": "ours", "title": "Scorecard"},
    script:
        "../workflow_scripts/report/report_score_claims.py"


rule report_write_manifest:
    input:
        tables=TABLES,
        scorecard="cache/report/scorecard.parquet",
    output:
        manifest=MANIFEST,
    log:
        "cache/logs/report_write_manifest.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=10,
    params:
        spec=spec("report/report_write_manifest.py"),
    script:
        "../workflow_scripts/report/report_write_manifest.py"


rule list:
    log:
        ".snakemake/looking/list.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=5,
    params:
        spec=spec("report/list.py"),
        entries=INVENTORY,
    script:
        "../workflow_scripts/report/list.py"


rule trace:
    log:
        ".snakemake/looking/trace.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=PLAIN,
        runtime=5,
    params:
        spec=spec("report/trace.py"),
        item=config.get("item", ""),
        known=TARGETS,
    script:
        "../workflow_scripts/report/trace.py"


rule status:
    log:
        ".snakemake/looking/status.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("report/status.py"),
        shown=[*TARGETS, SCORECARD],
        wanted=TABLES,
        jobs=jobs_behind([*TARGETS, SCORECARD]),
    script:
        "../workflow_scripts/report/status.py"


rule prune:
    log:
        ".snakemake/looking/prune.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
    params:
        spec=spec("report/prune.py"),
        needed=files_behind(ASKABLE),
        models=sorted([*HUB, *TRAINED, *LOCAL]),
        yes=config.get("yes", "false"),
    script:
        "../workflow_scripts/report/prune.py"


rule verify:
    log:
        ".snakemake/looking/verify.log",
    localrule: True
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        mem_mb=500,
        runtime=60,
    params:
        spec=spec("report/verify.py"),
        yes=config.get("yes", "false"),
    script:
        "../workflow_scripts/report/verify.py"
