"""Allocations that really fail, in jobs whose address space is limited: smaller chunks and the same bytes, or one sentence."""

import json

import pytest
from few import MEANS, make, sentences

from recircuit.core.files import sha256
from workflow import must

pytestmark = pytest.mark.slow

# Python runs this at the start of a job. When the job imports {module}, {patch} gets the module; ``limit`` leaves the process
# so many bytes beside what it holds.
WITNESS = """
import importlib.util, json, os, resource, sys

def limit(spare):
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + spare, resource.getrlimit(resource.RLIMIT_AS)[1]))

def note(**facts):
    with open({record!r}, "a") as file:
        file.write(json.dumps(facts) + chr(10))

{patch}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), patch(module))
        return spec

sys.meta_path.insert(0, Finder())
"""
# The first chunk is all prompts, whatever the budget says, and there is room for a few dozen.
CHUNKS = """
def patch(budget):
    halve, out_of_memory = budget.in_chunks, budget.is_out_of_memory

    def in_chunks(work, n, chunk, log=None):
        limit({spare})
        note(prompts=n)
        yield from halve(lambda rows: (note(chunk=rows.stop - rows.start), work(rows))[1], n, 1024, log)

    def told(error):
        note(error=type(error).__name__, text=str(error)[:200])
        return out_of_memory(error)

    budget.in_chunks, budget.is_out_of_memory = in_chunks, told
"""
WEIGHTS = """
def patch(families):
    load = families.load

    def limited(*args, **kwargs):
        limit(0)
        return load(*args, **kwargs)

    families.load = limited
"""
SPARE = 6_000_000  # bytes


def limited(folder, module, patch):
    """Put the witness into a copy; return where it takes notes."""
    record = folder.parent / "record.jsonl"
    text = WITNESS.format(record=str(record), module=module, patch=patch)
    (folder / "workflow_scripts/sitecustomize.py").write_text(text, encoding="utf-8")
    return record


def test_a_job_whose_chunk_does_not_fit_halves_it_and_ends_with_the_same_bytes(copy):
    before = sha256(copy / MEANS)
    (copy / MEANS).unlink()
    record = limited(copy, "recircuit.runs.budget", CHUNKS.format(spare=SPARE))
    # All that is freed goes back, so that the limit is on what is in use.
    must(make(copy, targets=(MEANS,), MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"))
    notes = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    failed = [note for note in notes if "error" in note]
    chunks = [note["chunk"] for note in notes if "chunk" in note]
    assert failed and all("allocate memory" in note["text"] or note["error"] == "MemoryError" for note in failed), notes
    assert max(chunks) == max(note["prompts"] for note in notes if "prompts" in note)
    assert min(chunks) < max(chunks) / 2
    assert sha256(copy / MEANS) == before


def test_too_little_memory_elsewhere_is_one_sentence(copy):
    (copy / MEANS).unlink()
    limited(copy, "recircuit.core.families", WEIGHTS)
    (told,) = sentences(make(copy, targets=(MEANS,)))
    assert told.startswith("seq_run_means ran out of memory (") and "--set-resources seq_run_means:mem_mb=" in told
    assert not (copy / MEANS).exists()
