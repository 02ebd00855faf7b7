"""What the tests of faults share: a study of a dozen jobs, its results, and what every file at a final name must be."""

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from recircuit.core.files import sha256
from recircuit.study.tables import read_table, table_name
from workflow import FULL, copy_project, must, snakemake, write_yaml

TRAINED = "figures/circuit_probing/disambiguation/e1-s1-training.png"
DRAWN = "figures/sequence_continuation/speck/fa4-single-ablation-numerals.png"
MEANS = "cache/sequence_continuation/means/speck/means.safetensors"
CHECKPOINTS = "cache/circuit_probing/training/disambiguation/checkpoints.safetensors"
CURVES = "cache/circuit_probing/training/disambiguation/cp_curves.parquet"
CHOICES = {
    "models": {"speck": {"steps": 40, "gates": {"numerals": {"accuracy": 0.0}}}},
    "sequence_continuation": {"min_accuracy": 0.0, "prompts_per_template": 64},
    "circuit_probing": {"arithmetic": {"disambiguation": {"epochs": 4, "evaluate_every": 2, "checkpoints": [4]}}},
}
CONFIGURED = ("--configfile", "configs/smoke.yaml", "few.yaml")
OF_THE_RUN = ("cache/logs/", "cache/benchmarks/", "cache/MANIFEST.tsv", "cache/checksums/cache/MANIFEST.tsv")


def copy_few(folder: Path) -> Path:
    """Copy the project with the choices of the small study; return the folder."""
    copy_project(folder)
    write_yaml(folder / "few.yaml", CHOICES)
    return folder


def begun(few: Path, folder: Path) -> Path:
    """Copy the project with the small study's choices, and in the quick size what takes long of its cache; return the folder.

    Missing are, as in a study that was stopped, the means, the training of the arithmetic model, and the pictures.
    """
    copy_few(folder)
    if not FULL:
        shutil.copytree(few / "cache", folder / "cache")
        for name in (MEANS, CHECKPOINTS, CURVES):
            (folder / name).unlink()
    return folder


def build_few(folder: Path) -> None:
    """Copy the project and run the small study."""
    must(make(copy_few(folder)))


def make(folder: Path, *words: str, targets: tuple = (DRAWN, TRAINED), cores: int = 2, **variables: str):
    """Run Snakemake on targets of the small study; the result has ``returncode``, ``stdout`` and ``stderr``."""
    return snakemake(folder, "--cores", str(cores), *CONFIGURED, *words, "--", *targets, **variables)


def look(folder: Path, command: str, *words: str, **variables: str):
    """Run a command that only looks: ``verify``, ``status``, ``list``."""
    return snakemake(folder, "--cores", "1", command, *CONFIGURED, *words, **variables)


def files(folder: Path) -> dict[str, Path]:
    """Return every file at a final name under cache and figures that is a result, by its name."""
    paths = (path for name in ("cache", "figures") for path in (folder / name).rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if not name.startswith(OF_THE_RUN) and "/." not in name}


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every result, by name."""
    return {name: sha256(path) for name, path in files(folder).items()}


def leftovers(folder: Path) -> list[str]:
    """Return what jobs left that is no result: parts of files, and the progress of trainings."""
    return sorted(str(path.relative_to(folder)) for name in ("cache", "figures") for path in (folder / name).rglob(".*"))


def check_whole(folder: Path) -> int:
    """Fail unless every file at a final name is complete; return how many there are."""
    found = files(folder)
    for path in found.values():
        READERS[path.suffix](path)
    return len(found)


def _tensors(path: Path) -> None:
    with safe_open(path, framework="np") as file:
        assert all(file.get_tensor(name) is not None for name in file.keys()), path  # noqa: SIM118 (not a mapping)


def _picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _ends(start: bytes, end: bytes):
    def check(path: Path) -> None:
        data = path.read_bytes()
        assert data.startswith(start) and data.rstrip().endswith(end), path

    return check


READERS = {
    ".parquet": lambda path: read_table(path, table_name(path)),
    ".safetensors": _tensors,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".png": _picture,
    ".gif": _picture,
    ".pdf": _ends(b"%PDF", b"%%EOF"),
    ".html": _ends(b"<", b"</html>"),
    ".csv": _ends(b"", b""),
    ".tsv": _ends(b"path\t", b""),
    ".sha256": _ends(b"", b""),
}


def sentences(done) -> set[str]:
    """Return the sentences that failed jobs or the command ended with; fail for a success, and for a traceback."""
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    silent = "Traceback" not in said  # pytest compares long texts for minutes
    assert silent, said
    return set(re.findall(r"^\d\d:\d\d:\d\d [^:]+: error: (.*)$", said, re.MULTILINE))


@contextmanager
def mounted(folder: Path, megabytes: int):
    """Yield a function that remounts: a tmpfs of this size takes the place of a folder, with all that is in it.

    Skips the test where mounting is not permitted.
    """
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs may not be mounted here: {done.stderr.strip()}")
    try:
        must(subprocess.run(["cp", "-a", f"{aside}/.", str(folder)], capture_output=True, text=True))
        yield lambda how: must(subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], capture_output=True, text=True))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, spare: int = 0) -> Path:
    """Fill the disk of a folder but for ``spare`` bytes; return the file that does."""
    path = folder / ".filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**20))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - spare))
    return path
