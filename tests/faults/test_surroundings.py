"""No network, a clock that was set back, a locale without UTF-8, a path with spaces and foreign letters: the same bytes."""

import os
import subprocess
import time

import pytest
from few import CONFIGURED, DRAWN, TRAINED, begun, digests, files, leftovers, look, make, sentences

from workflow import NOTHING, SNAKEMAKE, environment, full_only, must

pytestmark = pytest.mark.slow
TARGETS = (DRAWN, TRAINED)
PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def same_as(few, folder):
    """Fail unless a study that was built here, as far as it was, has the bytes of the undisturbed one."""
    found, whole = digests(folder), digests(few)
    assert set(TARGETS) <= set(found) and found == {name: whole[name] for name in found}
    assert leftovers(folder) == []


def without_network(folder, *words):
    """Run the environment's ``snakemake`` where there is no network at all, not even the loopback."""
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("a process without a network may not be started here")
    command = ["unshare", "--net", str(SNAKEMAKE), "--cores", "2", *words]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)


@full_only
def test_a_study_of_embedded_models_needs_no_network(few, tmp_path):
    folder = begun(few, tmp_path / "project")
    must(without_network(folder, *CONFIGURED, "--", *TARGETS))
    same_as(few, folder)


@full_only
def test_fetching_without_a_network_is_one_sentence_that_names_the_host(copy):
    made = "cache/sentiment/sources/treebank/stanfordSentimentTreebank.zip"
    (told,) = sentences(without_network(copy, *CONFIGURED, "--", made))
    assert "the connection to huggingface.co failed" in told and "only fetch rules need it" in told
    assert not (copy / made).exists()


@full_only
def test_a_clock_that_was_set_back_rebuilds_nothing_for_ever(copy, few):
    ahead = time.time() + 400 * 86_400
    for path in files(copy).values():
        os.utime(path, (ahead, ahead))
    # What follows is written long before what it is made from, as this machine's clock says.
    (copy / DRAWN).unlink()
    must(make(copy))
    assert digests(copy) == digests(few)
    must(make(copy))
    assert NOTHING in must(make(copy)).stderr
    assert f"built    {DRAWN}" in must(look(copy, "status")).stdout


def test_sources_from_the_future_and_results_from_the_past_are_up_to_date(copy, few):
    for path in copy.rglob("*.py"):
        os.utime(path, (time.time() + 10**7, time.time() + 10**7))
    for turn, path in enumerate(files(copy).values()):
        os.utime(path, (10**9 + turn, 10**9 + turn))
    must(make(copy))
    assert NOTHING in must(make(copy)).stderr
    assert digests(copy) == digests(few)


@full_only
def test_a_locale_without_utf_8_builds_the_same_bytes_and_prints(few, tmp_path):
    folder = begun(few, tmp_path / "project")
    must(make(folder, targets=TARGETS, **PLAIN))
    same_as(few, folder)
    for command, words in (("list", ()), ("status", ()), ("verify", ()), ("trace", ("--config", f"item={TRAINED}"))):
        done = must(look(folder, command, *words, **PLAIN))
        assert "Traceback" not in done.stdout + done.stderr
    assert TRAINED in must(look(folder, "list", **PLAIN)).stdout


@full_only
def test_a_path_with_spaces_and_foreign_letters_builds_the_same_bytes(few, tmp_path):
    folder = begun(few, tmp_path / "with spaces, Größe 数 é" / "project")
    must(make(folder))
    same_as(few, folder)
