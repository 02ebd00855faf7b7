"""A digest of the code that a job runs: its script and every module of ours that it imports, directly or not.

Taken over syntax trees without docstrings (comments are not in them), so that a comment or a ``touch`` changes nothing. Only
the standard library is imported: the Snakefile computes these digests whenever it is read. Dynamic imports are not seen.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # workflow_scripts


@cache
def _tree(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            node.body = node.body[1:]
    return tree


def _has_docstring(node) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


@cache  # many scripts share a module
def _dump(path: Path) -> str:
    return ast.dump(_tree(path))


@cache
def _imported(path: Path, root: Path) -> frozenset[Path]:
    """Return our modules that a file imports, anywhere in it; ``from a import b`` may name a module or a thing in one."""
    return frozenset(_imports(path, root))


def _imports(path: Path, root: Path) -> Iterator[Path]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                base = root.joinpath(*parts[:depth])
                yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file())


@cache
def modules(script: Path, root: Path = ROOT) -> tuple[Path, ...]:
    """Return the script and all our modules that it reaches, sorted."""
    found, waiting = set(), [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path, root)
    return tuple(sorted(found))


@cache
def code_digest(script: Path, root: Path = ROOT) -> str:
    """Return 16 hex digits that change when the meaning of the script's code may have changed."""
    digest = hashlib.sha256()
    for path in modules(script, root):
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        digest.update(f"{name}\0{_dump(path)}\0".encode())
    return digest.hexdigest()[:16]


@cache
def data_digest(path: Path) -> str:
    """Return 16 hex digits of a data file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
