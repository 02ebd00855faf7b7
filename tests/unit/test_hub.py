"""The fetching of models, against a loopback server that speaks the hub's protocol; how bytes come is in test_download."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load, save

import hub_server
from hub_server import CONFIG, FILES, PINS, REPO, REVISION, TOKEN, WEIGHTS, content, cut, sha
from recircuit.core import download, hub
from recircuit.core.errors import UserError
from recircuit.core.hub import fetch_model, shards

clean_environment, fetch, folder, lines, server, start = hub_server.FIXTURES

# What works


def test_good_files_arrive_with_their_hashes(server, fetch, folder):
    assert fetch() == PINS
    assert content(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]  # nothing is left of the staging folder
    assert [headers["Accept-Encoding"] for _, headers in server.requests] == ["identity"] * 2


def test_hash_of_a_file_that_is_not_pinned_is_returned(fetch, folder):
    noted = []
    assert fetch(dict.fromkeys(FILES), record=lambda *pair: noted.append(pair)) == PINS
    assert noted == list(PINS.items())
    assert content(folder) == FILES


def test_address_and_token_come_from_the_environment(server, fetch, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    fetch(endpoint=None)
    assert [headers.get("Authorization") for _, headers in server.requests] == [f"Bearer {TOKEN}"] * 2
    assert server.requests[0][0] == f"/{REPO}/resolve/{REVISION}/config.json"


def test_no_token_no_header(server, fetch):
    fetch()
    assert all("Authorization" not in headers for _, headers in server.requests)


def test_redirect_keeps_the_range_and_drops_the_token(server, start, fetch, folder, lines):
    server.cdn = start()
    server.cdn.script = [cut]
    assert fetch({"model.safetensors": None}, token=TOKEN) == {"model.safetensors": sha(WEIGHTS)}
    assert [headers["Authorization"] for _, headers in server.requests] == [f"Bearer {TOKEN}"] * 2
    assert len(server.cdn.requests) == 2
    assert all("Authorization" not in headers for _, headers in server.cdn.requests)
    assert TOKEN not in str(server.cdn.requests)
    assert server.cdn.ranges() == [None, f"bytes={len(WEIGHTS) // 2}-"]
    assert content(folder) == {"model.safetensors": WEIGHTS}
    assert not [line for line in lines if TOKEN in line or "Signature" in line]


def test_published_hash_guards_a_file_that_is_not_pinned(server, start, fetch, folder):
    server.cdn, server.published = start(), b"other bytes"
    with pytest.raises(UserError, match=f"SHA-256 is {sha(WEIGHTS)}, expected {sha(b'other bytes')}"):
        fetch({"model.safetensors": None}, retries=0)
    assert content(folder) == {}


SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def in_shards(**where) -> dict[str, bytes]:
    """The files of a model in two shards: tensors a, c in the second and b in the first, unless the index says otherwise."""
    first, second = save({"b": np.arange(3.0)}), save({"a": np.arange(4.0), "c": np.arange(5.0)})
    index = {"weight_map": {"a": SHARDS[1], "b": SHARDS[0], "c": SHARDS[1]} | where}
    return {hub.INDEX: json.dumps(index).encode(), SHARDS[0]: first, SHARDS[1]: second}


def test_shards_come_with_their_index_and_become_one_file(server, fetch, folder, lines):
    server.files = in_shards() | {"config.json": CONFIG}
    got = fetch({"config.json": None, hub.INDEX: None, SHARDS[0]: sha(server.files[SHARDS[0]])})
    assert got == {name: sha(data) for name, data in server.files.items()}
    assert content(folder).keys() == {"config.json", "model.safetensors"}
    merged = load(content(folder)["model.safetensors"])
    assert {name: values.tolist() for name, values in merged.items()} == {
        "a": [0, 1, 2, 3], "b": [0, 1, 2], "c": [0, 1, 2, 3, 4]
    }  # fmt: skip
    assert any(re.fullmatch(r"model\.safetensors: made of 2 shards in \d+\.\d s", line) for line in lines)
    assert list(folder.parent.iterdir()) == [folder]
    server.requests.clear()
    with pytest.raises(UserError, match="expected " + sha(b"1")):  # a shard's own pin counts
        fetch({hub.INDEX: None, SHARDS[0]: sha(b"1")}, retries=0)


def test_shards_that_are_verified_outlive_a_merge_that_fails(server, fetch, folder, monkeypatch):
    server.files = in_shards()

    def full_disk(index, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(hub, "merge_shards", full_disk)
        with pytest.raises(UserError, match=r"model\.safetensors cannot be written or read: No space left on device"):
            fetch({hub.INDEX: None})
    assert content(folder) == {}
    server.requests.clear()
    fetch({hub.INDEX: None})
    assert server.requests == []  # all three files were still there
    assert content(folder).keys() == {"model.safetensors"}


def test_an_index_that_names_a_tensor_elsewhere_is_refused(server, fetch, folder):
    server.files = in_shards(b=SHARDS[1])
    with pytest.raises(UserError, match="holds the tensor 'b', but it does not"):
        fetch({hub.INDEX: None})
    assert content(folder) == {}


def test_a_whole_file_beside_an_index_is_taken_as_it_is(server, fetch, folder):
    server.files = in_shards() | {"model.safetensors": WEIGHTS}
    fetch({hub.INDEX: None, "model.safetensors": sha(WEIGHTS)})
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_lines_tell_size_and_progress(fetch, lines, monkeypatch):
    monkeypatch.setattr(download, "REPORT_EVERY", 0.0)
    fetch()
    assert any(re.fullmatch(r"model\.safetensors: 0\.4 MB in \d+\.\d s", line) for line in lines)
    assert any(re.fullmatch(r"model\.safetensors: 0 of 0 MB", line) for line in lines)
    monkeypatch.setattr(download, "REPORT_EVERY", 5.0)
    lines.clear()
    fetch()
    assert len(lines) == 2


# What is refused before any request


@pytest.mark.parametrize("revision", ["main", "", "0" * 39, "0" * 41, "g" * 40, "0" * 40 + "\n", "refs/pr/1", None])
def test_moving_revision_is_refused(server, fetch, revision):
    with pytest.raises(UserError, match="40 lower-case hex digits"):
        fetch(revision=revision)
    assert server.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pkl",
        "modeling_gpt2.py",
        "/etc/passwd",
        "/config.json",
        "../config.json",
        "..",
        "",
        "onnx/config.json",
        "..\\config.json",
        "model-../evil-of-1.safetensors",
        "model-1-of-../../x.safetensors",
        "model-1-of-2.safetensors\n",
        "config.json\n",
        "model-1-of-2.safetensors.py",
        "config.json?x",
    ],
)
def test_code_and_path_tricks_are_refused(server, fetch, tmp_path, name):
    server.files[name] = b"evil"
    with pytest.raises(UserError, match="is refused") as caught:
        fetch({"config.json": None, name: None})
    assert "\n" not in str(caught.value)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"files": {}}, "no file is asked for"),
        ({"files": {"config.json": "abc"}}, "pinned to 'abc'"),
        ({"files": {"config.json": PINS["config.json"].upper()}}, "pinned to"),
        ({"token": f"{TOKEN}\nX: y"}, "HF_TOKEN holds"),
        ({"token": f"{TOKEN}é"}, "HF_TOKEN holds"),
        ({"endpoint": "ftp://127.0.0.1"}, "HF_ENDPOINT"),
        ({"endpoint": f"http://me:{TOKEN}@127.0.0.1"}, "HF_ENDPOINT"),
        ({"endpoint": "127.0.0.1"}, "HF_ENDPOINT"),
    ],
)
def test_other_mistakes_are_refused(server, fetch, options, match):
    with pytest.raises(UserError, match=match) as caught:
        fetch(**options)
    assert TOKEN not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("repo", ["gpt2", "a/b/c", "../b", "a//b", "a/..", "a/b c", ""])
def test_odd_model_names_are_refused(server, tmp_path, repo):
    with pytest.raises(UserError, match="owner/name"):
        fetch_model(repo, REVISION, PINS, tmp_path / "gpt2", endpoint=server.url)
    assert server.requests == []


@pytest.mark.parametrize(
    "shard", ["../evil.safetensors", "x.bin", "/abs.safetensors", "a/model-1-of-2.safetensors", "config.json", 3]
)
def test_index_that_names_anything_but_shards_is_refused(server, fetch, folder, shard):
    server.files = {hub.INDEX: json.dumps({"weight_map": {"a": shard}}).encode(), str(shard): b"evil"}
    with pytest.raises(UserError, match="names the shard"):
        fetch({hub.INDEX: None})
    assert len(server.requests) == 1
    assert content(folder) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": ["b"]}}', "\xff"])
def test_index_must_be_one(tmp_path, text):
    path = tmp_path / hub.INDEX
    with pytest.raises(UserError, match="is missing"):
        shards(path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="is not an index"):
        shards(path)
