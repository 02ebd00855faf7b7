"""A digest of the code that a job runs: its script and every module of ours that it imports, directly or not.

Taken over syntax trees without docstrings (comments are not in them), so that a comment or a ``touch`` changes nothing. Only
the standard library is imported: the Snakefile computes these digests whenever it is read. Dynamic imports are not seen.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]  # workflow_scripts


BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds others


class _Module(NamedTuple):
    """What is asked of one file, once: the digest of its tree without docstrings, and the dotted names that it imports."""

    digest: str
    imports: frozenset[str]


@cache  # many scripts share a module
def _module(path: Path) -> _Module:
    tree = ast.parse(path.read_bytes())
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # b of ``from a import b`` may be a module or a thing in one
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
            node.body = node.body[1:]
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(names))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a file and every statement in it; nothing that is asked for is in an expression."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in BLOCKS:
            waiting += getattr(node, block, ())


def _has_docstring(node) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


@cache
def _files(root: Path) -> dict[str, list[Path]]:
    """Return our modules and packages by their dotted names."""
    found = defaultdict(list)
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)].append(path)
    return dict(found)


@cache
def _imported(path: Path, root: Path) -> frozenset[Path]:
    """Return our modules that a file imports, anywhere in it, and the packages that they are in."""
    files = _files(root)
    every = (name.split(".") for name in _module(path).imports)
    dotted = {".".join(parts[:depth]) for parts in every for depth in range(1, len(parts) + 1)}
    return frozenset(file for name in dotted for file in files.get(name, ()))


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
        digest.update(f"{name}\0{_module(path).digest}\0".encode())
    return digest.hexdigest()[:16]


@cache
def data_digest(path: Path) -> str:
    """Return 16 hex digits of a data file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
