"""The digest of a job's code: it follows imports, sees a change of meaning, and sees nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recircuit.study import digest as digest_module
from recircuit.study.digest import ROOT, code_digest, data_digest, modules
from workflow import SCRIPTS, environment, must, rules

TREE = {
    "paper/job.py": '"""A job."""\n\nfrom lib.near import work\n\n\ndef main(job):\n    """Do it."""\n    return work(job)\n',
    "lib/__init__.py": "",
    "lib/near.py": "import json\n\nfrom lib import far\n\n\ndef work(job):\n    return json.dumps(far.LIMIT)\n",
    "lib/far.py": '"""Far."""\n\nimport lib.deep.end as end\n\nLIMIT = 1 + end.START\n\n\nclass Thing:\n    """A thing."""\n',
    "lib/deep/__init__.py": "DEPTH = 2\n",
    "lib/deep/end.py": "START = 1.0\n",
    "lib/aside.py": "from lib import far\n\nASIDE = 1\n",
    "lib/json.py": "SHADOW = 1\n",
}
SCRIPT = "paper/job.py"


@pytest.fixture
def tree(tmp_path):
    """A small project: a script, the modules that it reaches through others, and two that it does not."""
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digest(root):
    """Return the script's digest as a new process would: nothing remembered."""
    for function in (code_digest, modules, data_digest, digest_module._module, digest_module._files, digest_module._imported):
        function.cache_clear()
    return code_digest(root / SCRIPT, root)


def edit(root, name, old, new):
    """Replace text in a file; it must be there."""
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


def test_the_digest_is_sixteen_hex_digits_that_repeat(tree):
    found = digest(tree)
    assert len(found) == 16 and int(found, 16) >= 0
    assert digest(tree) == found


def test_imports_are_followed_into_packages_modules_and_names(tree):
    digest(tree)
    names = [str(path.relative_to(tree)) for path in modules(tree / SCRIPT, tree)]
    assert names == ["lib/__init__.py", "lib/deep/__init__.py", "lib/deep/end.py", "lib/far.py", "lib/near.py", "paper/job.py"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param(SCRIPT, "return", "# why\n    return", id="comment"),
        pytest.param("lib/deep/end.py", "START", "# a comment\nSTART", id="comment far away"),
        pytest.param(SCRIPT, "Do it.", "Do something else.", id="docstring"),
        pytest.param(SCRIPT, '    """Do it."""\n', "", id="docstring gone"),
        pytest.param("lib/near.py", "(job):\n", '(job):\n    """New."""\n', id="docstring new"),
        pytest.param("lib/far.py", '"""Far."""\n', '"""Further."""\n', id="docstring of a module"),
        pytest.param("lib/far.py", "A thing.", "Another thing.", id="docstring of a class"),
        pytest.param("lib/deep/end.py", "1.0", "(\n    1.00\n)", id="reformatting"),
        pytest.param("lib/near.py", "\n\n\ndef", "\n\n\n\n\ndef", id="blank lines"),
        pytest.param("lib/aside.py", "ASIDE = 1", "ASIDE = 2", id="a module that is not reached"),
        pytest.param("lib/json.py", "SHADOW = 1", "SHADOW = 2", id="a module of another package with the same name"),
    ],
)
def test_what_changes_no_meaning_changes_no_digest(tree, name, old, new):
    before = digest(tree)
    edit(tree, name, old, new)
    assert digest(tree) == before


def test_a_touch_and_another_folder_change_no_digest(tree, tmp_path_factory):
    before = digest(tree)
    for path in tree.rglob("*.py"):
        os.utime(path, (1, 1))
    assert digest(tree) == before
    other = shutil.copytree(tree, tmp_path_factory.mktemp("other") / "further" / "down")
    assert digest(other) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param(SCRIPT, "work(job)", "work(None)", id="the script"),
        pytest.param("lib/deep/end.py", "START = 1.0", "START = 1.5", id="a constant, three imports away"),
        pytest.param("lib/deep/end.py", "START = 1.0", "START = 1", id="a number's type"),
        pytest.param("lib/deep/__init__.py", "DEPTH = 2", "DEPTH = 3", id="a package on the way"),
        pytest.param("lib/far.py", "1 + end.START", "end.START + 1", id="the order of an expression"),
        pytest.param("lib/near.py", "json.dumps(", "print('x') or json.dumps(", id="a call"),
        pytest.param("lib/near.py", "def work(job):", "def work(job=None):", id="a default"),
    ],
)
def test_a_change_of_meaning_changes_the_digest(tree, name, old, new):
    before = digest(tree)
    edit(tree, name, old, new)
    changed = digest(tree)
    assert changed != before
    edit(tree, name, new, old)
    assert digest(tree) == before


def test_a_module_from_a_package_is_followed(tree):
    edit(tree, SCRIPT, "from lib.near import work", "from lib import near\nfrom lib.near import work")
    before = digest(tree)
    edit(tree, "lib/near.py", "far.LIMIT", "far.LIMIT + 1")
    assert digest(tree) != before


@pytest.mark.parametrize(
    "line", ["import lib.aside", "from lib import aside", "from lib.aside import ASIDE", "from lib.aside import *"]
)
@pytest.mark.parametrize("place", ["top", "inside"])
def test_every_way_to_import_is_followed(tree, line, place):
    if place == "top":
        edit(tree, SCRIPT, "from lib.near", f"{line}\nfrom lib.near")
    elif "*" not in line:
        edit(tree, SCRIPT, "    return", f"    {line}\n    return")
    else:
        return
    before = digest(tree)
    edit(tree, "lib/aside.py", "ASIDE = 1", "ASIDE = 2")
    assert digest(tree) != before


def test_a_renamed_module_and_a_new_import_change_the_digest(tree):
    before = digest(tree)
    (tree / "lib/deep/end.py").rename(tree / "lib/deep/start.py")
    edit(tree, "lib/far.py", "lib.deep.end", "lib.deep.start")
    renamed = digest(tree)
    assert renamed != before
    edit(tree, SCRIPT, "from lib.near", "import lib.aside\nfrom lib.near")
    assert digest(tree) != renamed


def test_modules_that_import_each_other_end(tree):
    edit(tree, "lib/deep/end.py", "START", "import lib.near\n\nSTART")
    assert tree / "lib/near.py" in (digest(tree), modules(tree / SCRIPT, tree))[1]


def test_a_data_files_digest_is_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"1,2\n")
    (tmp_path / "b").write_bytes(b"1,2\n")
    (tmp_path / "c").write_bytes(b"1,2")
    assert data_digest(tmp_path / "a") == data_digest(tmp_path / "b") != data_digest(tmp_path / "c")


def test_digests_do_not_depend_on_the_process():
    code = "from recircuit.study.digest import *; print(code_digest(ROOT / 'report' / 'trace.py'))"
    runs = {
        must(
            subprocess.run(
                [sys.executable, "-c", code],
                env=environment(SCRIPTS.parent) | {"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            )
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(runs) == 1
    assert ROOT == SCRIPTS


LOAD = """
import json, os, sys
import matplotlib.pyplot, pandas, pyarrow.parquet, tokenizers, torch  # not ours; loaded once for all
for name, lines in json.load(sys.stdin).items():
    if os.fork() == 0:
        exec(lines)
        print(name, *(module for module in sys.modules if module.split(".")[0] == "recircuit"), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""


def imports(script: Path) -> str:
    """Return the import statements of a script."""
    body = ast.parse(script.read_text(encoding="utf-8")).body
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))


def test_what_a_script_loads_is_what_its_digest_covers():
    # The digest reads imports; Python, which runs them, must not come to more modules of ours.
    lines = {rule.name: imports(rule.script) for rule in rules()}
    env = environment(SCRIPTS.parent)
    words = [sys.executable, "-c", LOAD]
    done = must(subprocess.run(words, env=env, input=json.dumps(lines), capture_output=True, text=True))
    loaded = {words[0]: set(words[1:]) for words in map(str.split, done.stdout.splitlines())}
    assert set(loaded) == set(lines)
    for rule in rules():
        parts = [path.relative_to(SCRIPTS).with_suffix("").parts for path in modules(rule.script)]
        covered = {".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts}
        assert loaded[rule.name] - covered == set(), rule.name
        assert "recircuit.study.job" in loaded[rule.name] & covered
