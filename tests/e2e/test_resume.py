"""A training that is killed in the middle goes on, and ends with the bytes of one that was left alone."""

import os
import signal
import subprocess
import time

import pytest
from safetensors import safe_open

from workflow import SNAKEMAKE, copy_project, environment, must, snakemake

TARGET = "cache/circuit_probing/training/grokking/checkpoints.safetensors"
CURVES = "cache/circuit_probing/training/grokking/cp_curves.parquet"
CONFIG = """
device: cpu
circuit_probing:
  arithmetic:
    grokking: {epochs: 150, evaluate_every: 10, checkpoints: [50, 120, 150]}
"""
WORDS = ("--cores", "1", "--configfile", "short.yaml", "--", TARGET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("resume") / "project")
    (folder / "short.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def killed(folder, partial):
    """Start the training and kill everything of it with SIGKILL as soon as its first progress is on disk."""
    process = subprocess.Popen(
        [str(SNAKEMAKE), *WORDS], cwd=folder, env=environment(folder), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not partial.exists():
        assert process.poll() is None and time.monotonic() < deadline, "the training ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(folder):
    must(snakemake(folder, *WORDS))
    whole = {name: (folder / name).read_bytes() for name in (TARGET, CURVES)}
    for name in whole:
        (folder / name).unlink()
    partial = folder / "cache/circuit_probing/training/grokking/.checkpoints.seed0.partial.safetensors"
    killed(folder, partial)
    assert not (folder / TARGET).exists()
    with safe_open(partial, framework="pt") as file:
        assert file.metadata()["epoch"] == "100"
    must(snakemake(folder, "--unlock", *WORDS))
    said = must(snakemake(folder, *WORDS)).stderr
    assert "goes on after epoch 100" in said
    assert not partial.exists()
    assert {name: (folder / name).read_bytes() for name in whole} == whole
