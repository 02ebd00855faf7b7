"""The smoke study from an empty folder to the figures; again, a file of every rule: the same bytes."""

import html
import json
import re
import subprocess
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from recircuit.core.files import sha256
from recircuit.study import inventory
from recircuit.study.checksums import MODEL_FILES
from recircuit.study.lineage import passport_of
from workflow import SMOKE, clone_study, must, planned, read_yaml, reads_of, rules, snakemake

pytestmark = pytest.mark.slow

# These describe the run and not its results: how long each job took, and what the cache looked like.
MAY_DIFFER = {"cache/MANIFEST.tsv"}
OF_THE_RUN = ("cache/logs/", "cache/benchmarks/", "cache/checksums/")
LAST = ("report_score_claims", "report_write_manifest")  # what they make is of all tables
OF_ALL = "gt_plot_scorecard"  # draws what the first of these makes
WHOLE = ("cache/MANIFEST.tsv", "cache/report/scorecard.parquet", "figures/scorecard.html")
SECOND = 2  # of the rules that make tables, so many are run twice; the kills at full size build everything again
EIGHTH = 8  # of the pictures, all of which are saved by one function, so many are drawn twice
SIGNED = (".parquet", ".png", ".safetensors", ".json", ".html")  # files with a passport, or beside one


def made(folder):
    """Return every file under cache and figures, by its name relative to the study."""
    paths = (path for name in ("cache", "figures") for path in (folder / name).rglob("*"))
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def results(folder):
    """Return what ``made`` does, without what describes the run itself."""
    return {name: path for name, path in made(folder).items() if name not in MAY_DIFFER and not name.startswith(OF_THE_RUN)}


def configured(folder):
    """Return the smoke study's configuration."""
    config = read_yaml(folder / "config.yaml")
    for paper, choices in read_yaml(folder / "configs/smoke.yaml").items():
        config[paper] |= choices
    return config


def by_rule(folder):
    """Return the results that carry a passport, by the rule that made them."""
    found = defaultdict(list)
    for name, path in sorted(results(folder).items()):
        if path.suffix in SIGNED and (passport := passport_of(path)):
            found[passport["rule"]].append(name)
    return found


@pytest.fixture(scope="module")
def again(study, tmp_path_factory):
    """A copy of the study elsewhere, in which a table of every second rule and some pictures are made again, and what is last.

    That a script does with another model as it did with the first tells nothing more.
    """
    folder = clone_study(study, tmp_path_factory.mktemp("again") / "a" / "folder with another name")
    found = {rule: names[0] for rule, names in sorted(by_rule(study).items())}
    tables = [name for rule, name in found.items() if "_plot_" not in rule and rule not in LAST]
    pictures = [name for rule, name in found.items() if "_plot_" in rule and rule != OF_ALL]
    must(snakemake(folder, "--cores", "2", "-f", *tables[::SECOND], *pictures[::EIGHTH], *SMOKE))
    assert planned(folder) == {}, "what was made again is what was there, so that nothing follows"
    must(snakemake(folder, "--cores", "2", "-f", *WHOLE, *SMOKE))
    return folder


def test_two_studies_are_the_same_byte_by_byte(study, again):
    one, two = results(study), results(again)
    anew = {rule for rule, names in by_rule(again).items() if any(newer(again / name, study / name) for name in names)}
    tables = {rule for rule in by_rule(study) if "_plot_" not in rule}
    assert {LAST[0], "train_model"} <= anew and 2 * len(anew & tables) >= len(tables)
    assert two.keys() == one.keys()
    assert {path.suffix for path in one.values()} == {*SIGNED, ".pdf", ".gif"}
    assert [name for name in sorted(two) if one[name].read_bytes() != two[name].read_bytes()] == []


def newer(file, other):
    """Return whether a file was written after another."""
    return file.stat().st_mtime_ns > other.stat().st_mtime_ns


def test_the_manifests_differ_in_costs_alone(study, again):
    tables = [[line.split("\t") for line in (root / "cache/MANIFEST.tsv").read_text().splitlines()] for root in (study, again)]
    head = tables[0][0]
    facts = [head.index(column) for column in ("path", "sha256", "rule", "spec", "code")]
    assert [[row[i] for i in facts] for row in tables[0]] == [[row[i] for i in facts] for row in tables[1]]
    for row in tables[0][1:]:
        assert sha256(study / row[0]) == row[1]
        assert all(row), f"{row[0]} lacks a fact"
    assert {row[0] for row in tables[0][1:]} == {name for name in results(study) if name.startswith("cache/")}


def test_every_file_is_a_rules(study):
    done = must(snakemake(study, "--summary", "all", *SMOKE))
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    head = rows.pop(0)
    column = {name: head.index(name) for name in ("output_file", "rule", "log-file(s)")}
    outputs = {row[column["output_file"]] for row in rows}
    logs = {name for row in rows for name in row[column["log-file(s)"]].split(",")}
    names = [rule.name for rule in rules() if "benchmark" in rule.parts]
    measured = tuple(f"cache/benchmarks/{name}{end}" for name in names for end in ("/", ".jsonl"))
    found = made(study)
    assert outputs - set(found) == set(), "each output is there"
    records = {f"cache/checksums/{name}.sha256" for name in outputs}
    assert records - set(found) == set(), "each output has its checksum"
    assert {name for name in set(found) - outputs - logs - records if not name.startswith(measured)} == set()
    assert all(found[name].stat().st_size for name in outputs)


def test_every_job_left_a_log_that_ends_well(study):
    logs = [path for name, path in made(study).items() if name.startswith("cache/logs/")]
    assert len(logs) > 20
    for path in logs:
        assert re.search(
            r" [^:]+: done in [\d.]+ s, \d+ MiB at most of \d+ asked, on \S+, commit [0-9a-f]{7,}$", path.read_text().strip()
        )


def test_jobs_ask_for_one_to_three_times_the_memory_that_they_use(study):
    found = defaultdict(list)
    for name, path in made(study).items():
        if name.startswith("cache/logs/"):
            used, asked = re.search(r"(\d+) MiB at most of (\d+) asked", path.read_text()).groups()
            found[Path(name).relative_to("cache/logs").parts[0].removesuffix(".log")].append((int(used), int(asked)))
    wrong = {rule: max(jobs) for rule, jobs in found.items() if not max(jobs)[0] <= max(jobs)[1] <= 3 * max(jobs)[0]}
    assert len(found) > 60 and wrong == {}


def test_nothing_is_left_over(study, again):
    for folder in (study, again):
        assert [str(path) for path in folder.rglob("*.part")] == []
        assert [name for name in made(folder) if "/." in name] == []
    # Whatever the study wrote, it wrote where git does not look.
    assert must(subprocess.run(["git", "status", "--porcelain"], cwd=study, capture_output=True, text=True)).stdout == ""


def test_every_result_carries_a_passport_that_is_true(study):
    names = [name for name in made(study) if Path(name).suffix in (".parquet", ".png", ".safetensors", ".html")]
    assert len(names) > 20
    for name in names:
        passport = passport_of(study / name)
        assert len(passport["spec"]["code"]) == 16
        for source, digest in passport["inputs"].items():
            assert sha256(study / source) == digest, (name, source)
        assert str(study) not in json.dumps(passport), "no path of this machine"


def test_pictures_show_what_their_tables_hold_for_each_model(study):
    pictures = {name for name in made(study) if name.endswith(".png")}
    assert pictures == {path for _, _, path in inventory.targets(configured(study))}


def test_jobs_read_nothing_that_they_do_not_declare(study):
    reads = defaultdict(set)
    for line in reads_of(study).read_text(encoding="utf-8").splitlines():
        rule, path = line.split("\t")
        if not path.endswith((".py", ".pyc", ".part")) and not path.startswith((".snakemake/", ".git/", "cache/checksums/")):
            reads[rule].add(path)
    passports = defaultdict(list)
    for name, path in made(study).items():
        if path.suffix in SIGNED and (passport := passport_of(path)):
            passports[passport["rule"]].append((name, passport))
    assert {"seq_make_prompts", "train_model", "report_score_claims"} <= set(reads)
    data = "workflow_scripts/recircuit/tasks/data/"
    claims = "workflow_scripts/recircuit/study/claims/"
    # The columns of tables: a table that does not fit them any more is refused where it is read.
    schemas = "workflow_scripts/recircuit/study/schemas.yaml"
    for rule, paths in reads.items():
        if rule == "report_write_manifest":
            continue  # it describes all that is there
        allowed = {schemas}
        for name, passport in passports[rule]:
            allowed |= {name, *passport["inputs"], *(data + part for part in passport["spec"].get("data", ()))}
            allowed |= {f"{claims}{paper}.csv" for paper in passport["spec"].get("claims", ())}
            allowed |= {str(Path(name).with_name(file)) for file in ("config.json", "tokenizer.json", "model.safetensors")}
            allowed |= {str(Path(name).with_suffix(end)) for end in (".pdf", ".gif")}  # beside a picture, for its checksum
            # Made with the weights by one job, and held against their checksums with them.
            weights = [path for path in passport["inputs"] if path.startswith("cache/models/")]
            allowed |= {str(Path(path).with_name(file)) for path in weights for file in MODEL_FILES}
        logs = f"cache/logs/{rule}"
        assert {path for path in paths if path not in allowed and not path.startswith(logs)} == set(), rule


def test_the_report_holds_every_picture_with_its_caption(study, tmp_path):
    report = tmp_path / "report.zip"
    must(snakemake(study, "--report", str(report), *SMOKE))
    with zipfile.ZipFile(report) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        page = archive.read(next(name for name in names if name.endswith("report.html"))).decode()
        packed = {Path(name).name: archive.read(name) for name in names if "/data/raw/" in name}
    pictures = {path.name: path for name, path in made(study).items() if name.endswith(".png")}
    assert set(packed) == {*pictures, "scorecard.html"}
    for name, path in pictures.items():
        assert packed[name] == path.read_bytes()
    for item in inventory.items():
        caption = page[page.index(f'"name": "{item.file}.png"') :][:3000]
        caption = re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), caption)
        assert f"<strong>{item.title}</strong> ({item.number})" in caption
        text = html.unescape(caption.replace("\\n", " ").replace("\\'", "'").replace("’", "'"))
        for word in item.caption.split():
            assert word.strip("%") in text, (item.id, word)
