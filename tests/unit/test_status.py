"""What ``status`` says about made-up caches: built, stale for each reason, missing, failed, running; and it changes nothing."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from recircuit.study import status
from recircuit.study.provenance import passport
from recircuit.study.status import Disk, Reason, status_text, verdict

MODEL, TABLE, PICTURE = "cache/models/m/model.safetensors", "cache/p/t/m/t.parquet", "figures/p/m/f1.png"
TEXTS = {"number": "Figure 1", "title": "A title", "caption": "A caption."}
DONE = "12:00:00 run m: done in 1.0 s, 10 MiB at most, on here, commit abc"


def a_job(rule, reads, makes, keys=None, item=None, **spec):
    """Describe a job as ``plan.jobs`` does."""
    log = [f"cache/logs/{rule}/m.log"]
    found = {"rule": rule, "wildcards": {"model": "m"}, "input": reads, "output": makes, "log": log, "benchmark": []}
    return found | {"spec": {**spec, "code": f"code of {rule}"}, "keys": keys or {}, "item": item}


def a_study():
    """Return three jobs, each on the one before: a model, a table of it and a picture of that."""
    trained = a_job("train", [], [MODEL], {"model": "models.m"}, model={"steps": 5, "gates": {"n": {"accuracy": 0.9}}})
    run = a_job("run", [MODEL], [TABLE], {"draws": "p.draws"}, draws=7, data={"p/words.json": "d1"}, limit=0.5)
    return [trained, run, a_job("plot", [TABLE], [PICTURE], item=TEXTS)]


def build(job):
    """Write a job's outputs with the passports that they would have."""
    found = passport(job["rule"], job["wildcards"], job["spec"], job["input"], **({"item": job["item"]} if job["item"] else {}))
    for path in map(Path, job["output"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"recircuit": json.dumps(found)}), path)
        elif path.suffix == ".png":
            info = PngInfo()
            info.add_text("recircuit", json.dumps(found))
            Image.new("1", (2, 2)).save(path, pnginfo=info)
        else:
            path.write_bytes(b"weights")
            path.with_name("manifest.json").write_text(json.dumps({"passport": found}), encoding="utf-8")
    log = Path(job["log"][0])
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"12:00:00 {job['rule']} m: started\n{DONE}\n", encoding="utf-8")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Three jobs whose files are all there."""
    monkeypatch.chdir(tmp_path)
    found = a_study()
    for job in found:
        build(job)
    return found


def line(jobs, target=PICTURE):
    """Return what is said of one picture."""
    (found,) = (row for row in status_text([target], jobs, [TABLE]).splitlines() if row.split()[1] == target)
    return [found.split()[0], *[part for part in found.split(maxsplit=2)[2:] if part]]


def summary(jobs):
    """Return the last line."""
    return status_text([PICTURE], jobs, [TABLE]).splitlines()[-1]


def contents():
    """Return all files of the folder with their bytes and times."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().rglob("*") if path.is_file()}


def test_all_is_built_and_nothing_is_touched(jobs):
    before = contents()
    assert line(jobs) == ["built"]
    assert summary(jobs) == "1 built, 0 stale, 0 missing, 0 failed, 0 running; 0 jobs to run"
    assert contents() == before


def test_stale_by_code_counts_the_jobs_that_follow(jobs):
    jobs[1]["spec"]["code"] = "other"
    assert line(jobs) == ["stale", "code: run; 2 jobs to run"]
    jobs[0]["spec"]["code"] = "other"
    assert line(jobs) == ["stale", "code: train, run; 3 jobs to run"]


def test_stale_by_config_names_the_key_and_both_values(jobs):
    jobs[1]["spec"]["draws"] = 8
    assert line(jobs) == ["stale", "config: p.draws (was 7, is 8); 2 jobs to run"]


def test_stale_by_config_names_the_key_inside_a_models_entry(jobs):
    jobs[0]["spec"]["model"] = {"steps": 5, "gates": {"n": {"accuracy": 0.8}}, "batch": 4}
    assert (
        line(jobs)[1]
        == "config: models.m.batch (was not set, is 4), models.m.gates.n.accuracy (was 0.9, is 0.8); 3 jobs to run"
    )


def test_equal_values_in_other_clothes_are_equal(jobs):
    jobs[1]["spec"] = dict(reversed(jobs[1]["spec"].items())) | {"data": {"p/words.json": "d1"}}
    jobs[0]["spec"]["model"] = {"gates": {"n": {"accuracy": 0.9}}, "steps": 5}
    assert line(jobs) == ["built"]


def test_a_rule_that_looks_at_something_else_is_code(jobs):
    jobs[1]["spec"]["limit"] = 0.6
    assert line(jobs)[1] == "code: the rule run (limit); 2 jobs to run"
    jobs[1]["spec"] |= {"limit": 0.5, "threshold": 3}
    jobs[1]["keys"]["threshold"] = "p.threshold"
    assert line(jobs)[1] == "code: the rule run (threshold); 2 jobs to run"


def test_stale_by_data_names_the_file(jobs):
    jobs[1]["spec"]["data"] = {"p/words.json": "d2"}
    assert line(jobs) == ["stale", "data: p/words.json; 2 jobs to run"]


def test_stale_by_a_changed_table_is_data_and_of_one_job(jobs):
    build(jobs[1] | {"spec": {**jobs[1]["spec"], "again": 1}})
    jobs[1]["spec"]["again"] = 1
    jobs[1]["keys"]["again"] = "p.again"
    assert line(jobs) == ["stale", f"data: {TABLE} has changed; 1 job to run"]


def test_stale_by_model(jobs):
    Path(MODEL).write_bytes(b"other weights")
    assert line(jobs) == ["stale", f"model: {MODEL} has changed; 2 jobs to run"]
    Path(MODEL).write_bytes(b"weights")
    assert line(jobs) == ["built"]


def test_a_large_model_is_judged_by_time_and_not_read(jobs, monkeypatch):
    monkeypatch.setattr(status, "HASHED", 3)
    monkeypatch.setattr(status, "sha256", lambda path: pytest.fail(f"{path} was read") if path == MODEL else "")
    os.utime(MODEL, (time.time() - 100,) * 2)
    assert verdict(jobs[1], Disk()).state == "built"
    os.utime(MODEL, (time.time() + 100,) * 2)
    assert verdict(jobs[1], Disk()).reasons == (Reason("model", f"{MODEL} has changed"),)


def test_a_missing_table_under_a_picture_that_is_there(jobs):
    Path(TABLE).unlink()
    assert line(jobs) == ["stale", f"data: {TABLE} is missing; 2 jobs to run"]


def test_other_inputs_are_told(jobs):
    jobs[2]["input"] = []
    assert line(jobs)[1] == f"inputs: {TABLE} is not used any more; 1 job to run"
    jobs[2]["input"] = [TABLE, MODEL]
    assert line(jobs)[1] == f"inputs: {MODEL} is new; 1 job to run"


def test_another_caption_is_told_and_an_old_passport_without_one_is_not(jobs):
    jobs[2]["item"] = TEXTS | {"title": "Another title"}
    assert line(jobs) == ["stale", "text: title of plot; 1 job to run"]
    build(jobs[2] | {"item": None})
    assert line(jobs) == ["built"]


def test_a_file_of_ours_without_passport_and_a_damaged_one(jobs):
    Image.new("1", (2, 2)).save(PICTURE)
    assert line(jobs)[1] == f"data: {PICTURE} has no passport; 1 job to run"
    build(jobs[2])
    Path(TABLE).write_bytes(Path(TABLE).read_bytes()[:-30])
    assert line(jobs)[1] == f"data: {TABLE} is damaged, {TABLE} has changed; 2 jobs to run"


def test_kept_weights_of_a_training_are_a_model(jobs):
    jobs[1]["input"] = ["cache/circuit_probing/training/a/checkpoints.safetensors", "cache/p/means.safetensors"]
    for path in map(Path, jobs[1]["input"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    build(jobs[1])
    build(jobs[2])
    for path in jobs[1]["input"]:
        Path(path).write_bytes(b"2")
    kinds = [(reason.kind, Path(reason.what.split()[0]).name) for reason in verdict(jobs[1], Disk()).reasons]
    assert kinds == [("model", "checkpoints.safetensors"), ("data", "means.safetensors")]


def test_missing(jobs):
    Path(PICTURE).unlink()
    assert line(jobs) == ["missing", "1 job to run"]
    assert summary(jobs) == "0 built, 0 stale, 1 missing, 0 failed, 0 running; 1 job to run"


def test_what_nobody_asked_for_is_missed_only_by_a_job_that_runs(jobs):
    Path(MODEL).unlink()
    jobs[2]["output"].append("figures/p/m/f1.pdf")
    assert line(jobs) == ["built"]
    jobs[1]["spec"]["draws"] = 8
    assert line(jobs) == ["stale", "config: p.draws (was 7, is 8); 3 jobs to run"]
    jobs[1]["spec"]["draws"] = 7
    Path(TABLE).unlink()
    assert line(jobs) == ["stale", f"data: {TABLE} is missing; 3 jobs to run"]


def test_a_missing_file_that_another_picture_needs_makes_this_one_again(jobs):
    other = a_job("draw", [MODEL], ["figures/p/m/f2.png"], item=TEXTS)
    build(other)
    Path(MODEL).unlink()
    assert line([*jobs, other]) == ["built"]
    Path("figures/p/m/f2.png").unlink()
    said = status_text([PICTURE, "figures/p/m/f2.png"], [*jobs, other], [TABLE]).splitlines()
    assert said[0].endswith("data: what it was made from is made again for another; 3 jobs to run")
    assert said[-1] == "0 built, 1 stale, 1 missing, 0 failed, 0 running; 4 jobs to run"


def test_one_of_two_tables_tells_why_both_are_made_again(jobs):
    jobs[1]["output"].append("cache/p/t/m/u.parquet")
    jobs[1]["spec"]["draws"] = 8
    assert line(jobs) == ["stale", "config: p.draws (was 7, is 8); 2 jobs to run"]


def test_failed_shows_the_last_line_of_its_log(jobs):
    Path(TABLE).unlink()
    Path(PICTURE).unlink()
    Path(jobs[1]["log"][0]).write_text(
        "12:00:00 run m: started\n12:00:07 run m: error: the model is no good\n", encoding="utf-8"
    )
    assert line(jobs) == ["failed", "run m: error: the model is no good; 2 jobs to run"]
    assert summary(jobs).startswith("0 built, 0 stale, 0 missing, 1 failed")


def test_a_killed_job_failed_with_whatever_it_said_last(jobs):
    Path(TABLE).unlink()
    Path(jobs[1]["log"][0]).write_text("12:00:00 run m: started\n12:00:07 run m: step 3/9\n", encoding="utf-8")
    assert line(jobs)[:1] + line(jobs)[1].split("; ")[:1] == ["failed", "run m: step 3/9"]
    Path(jobs[1]["log"][0]).write_text("", encoding="utf-8")
    assert line(jobs)[1] == "run m: its log is empty; 2 jobs to run"


def test_a_job_that_did_not_end_but_has_its_old_files_is_stale(jobs):
    Path(jobs[1]["log"][0]).write_text("12:00:00 run m: started\n", encoding="utf-8")
    assert line(jobs) == ["stale", "stopped: the last run of run did not end; 2 jobs to run"]


def test_a_cache_without_logs_is_built(jobs):
    for job in jobs:
        Path(job["log"][0]).unlink()
    assert line(jobs) == ["built"]


def test_running_is_told_from_the_lock_and_the_time_of_the_log(jobs):
    Path(TABLE).unlink()
    lock, log = Path(".snakemake/locks/0.output.lock"), Path(jobs[1]["log"][0])
    lock.parent.mkdir(parents=True)
    lock.write_text(f"{TABLE}\n{PICTURE}\n", encoding="utf-8")
    log.write_text("12:00:00 run m: started\n12:00:07 run m: step 3/9  2 s spent, 4 s left\n", encoding="utf-8")
    os.utime(lock, (time.time() - 50,) * 2)
    assert line(jobs) == ["running", "run m; 2 jobs to run"]
    assert f"running  run m: step 3/9  2 s spent, 4 s left  ({log})" in status_text([PICTURE], jobs, [TABLE]).splitlines()
    os.utime(log, (time.time() - 100,) * 2)  # what is left of a run before
    assert line(jobs)[0] == "failed"
    log.write_text("12:00:09 run m: error: no\n", encoding="utf-8")  # it failed in this run, which goes on with other jobs
    assert line(jobs)[0] == "failed"


def test_many_reasons_are_counted(jobs):
    jobs[0]["spec"]["model"] = {f"key{i}": i for i in range(6)}
    assert "and 5 more; 3 jobs to run" in line(jobs)[1]
