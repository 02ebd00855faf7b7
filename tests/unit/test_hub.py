"""The fetching of models, against a loopback server that speaks the hub's protocol."""

import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from hub_server import CONFIG, FILES, PINS, REPO, REVISION, WEIGHTS, cut, running, sha, status, whole, wrong
from recircuit.core import download, hub
from recircuit.core.errors import UserError
from recircuit.core.hub import fetch_model, shards

TOKEN = "hf_not_a_real_token"


@pytest.fixture
def start():
    with ExitStack() as stack:
        yield lambda files=FILES: stack.enter_context(running(files))


@pytest.fixture
def server(start):
    return start()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def fetch(server, tmp_path, lines):
    def run(files=PINS, **options):
        options = {"endpoint": server.url, "backoff": 0.001, "log": lines.append} | options
        return fetch_model(REPO, options.pop("revision", REVISION), files, tmp_path / "gpt2", **options)

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gpt2"


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def staged(folder, name):
    return folder.parent / ".gpt2.fetch" / REVISION / name


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


# What is cut is resumed


def test_cut_download_resumes_where_it_stopped(server, fetch, folder):
    server.script = [cut, cut]
    assert fetch({"model.safetensors": PINS["model.safetensors"]}) == {"model.safetensors": sha(WEIGHTS)}
    half = len(WEIGHTS) // 2
    assert server.ranges() == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_next_run_resumes_and_keeps_what_is_whole(server, fetch, folder):
    server.script = [whole, cut]
    with pytest.raises(UserError, match=r"model\.safetensors of owner/name .* in 1 attempts"):
        fetch(retries=0)
    assert content(folder) == {}  # the whole config.json waits for the weights
    assert staged(folder, "config.json").read_bytes() == CONFIG
    server.requests.clear()
    assert fetch() == PINS
    assert [(path[-17:], headers.get("Range")) for path, headers in server.requests] == [
        ("model.safetensors", f"bytes={len(WEIGHTS) // 2}-")
    ]
    assert content(folder) == FILES


def test_broken_file_in_staging_is_fetched_again(server, fetch, folder):
    server.script = [whole, status(404)]
    with pytest.raises(UserError):
        fetch()
    staged(folder, "config.json").write_bytes(b"rotten")
    assert fetch() == PINS
    assert content(folder) == FILES


def test_bytes_of_another_commit_are_not_resumed(server, fetch, folder):
    server.script = [cut]
    with pytest.raises(UserError):
        fetch({"model.safetensors": None}, retries=0)
    with pytest.raises(UserError, match="404"):  # the server knows one commit only
        fetch({"model.safetensors": None}, revision="f" * 40)
    assert server.ranges() == [None, None]


def test_server_that_ignores_the_range_is_read_from_the_start(server, fetch, folder):
    server.script = [cut, whole]
    fetch({"model.safetensors": None})
    assert server.ranges() == [None, f"bytes={len(WEIGHTS) // 2}-"]
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_range_that_starts_elsewhere_is_not_appended(server, fetch, folder):
    def shifted(handler, data):
        handler.answer(206, data[7:], **{"Content-Range": f"bytes 7-{len(data) - 1}/{len(data)}"})

    server.script = [cut, shifted]
    fetch({"model.safetensors": None})
    assert content(folder) == {"model.safetensors": WEIGHTS}
    assert server.ranges()[2] is None


def test_whole_part_needs_no_more_bytes(server, fetch, folder):
    staged(folder, "model.safetensors.part").parent.mkdir(parents=True)
    staged(folder, "model.safetensors.part").write_bytes(WEIGHTS)
    fetch({"model.safetensors": None})
    assert server.ranges() == [f"bytes={len(WEIGHTS)}-"]  # answered 416: the error page is not part of the file
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_part_longer_than_the_file_is_dropped(server, fetch, folder):
    staged(folder, "model.safetensors.part").parent.mkdir(parents=True)
    staged(folder, "model.safetensors.part").write_bytes(WEIGHTS + b"x")
    fetch({"model.safetensors": None})
    assert server.ranges() == [f"bytes={len(WEIGHTS) + 1}-", None]
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_short_range_is_no_whole_file(server, fetch, folder):
    def short(handler, data):  # honest about its own length, and shorter than what is left
        start = int(handler.headers["Range"][6:-1])
        handler.answer(206, data[start : start + 9], **{"Content-Range": f"bytes {start}-{start + 8}/{len(data)}"})

    server.script = [cut, short]
    fetch({"model.safetensors": None})
    assert server.ranges()[2] == f"bytes={len(WEIGHTS) // 2 + 9}-"
    assert content(folder) == {"model.safetensors": WEIGHTS}


def test_compressed_answer_is_unpacked(server, fetch, folder):
    server.script = [lambda handler, data: handler.answer(200, gzip.compress(data), **{"Content-Encoding": "gzip"})]
    assert fetch({"config.json": None}) == {"config.json": sha(CONFIG)}
    assert len(server.requests) == 1
    assert content(folder) == {"config.json": CONFIG}


def test_bytes_are_safe_on_disk_before_they_get_a_name(fetch, monkeypatch):
    events, replace = [], Path.replace
    monkeypatch.setattr(download.os, "fsync", lambda handle: events.append("sync"))
    monkeypatch.setattr(download.Path, "replace", lambda *paths: (events.append("name"), replace(*paths))[1])
    fetch({"config.json": None})
    assert events == ["sync", "name", "name"]  # in staging, then in the folder


def test_killed_run_leaves_nothing_under_a_final_name(server, fetch, folder):
    free = threading.Event()

    def stall(handler, data):
        handler.answer(200, data[: len(data) // 2], len(data))
        handler.wfile.flush()
        free.wait(10)
        handler.close_connection = True

    server.script = [whole, stall]
    code = f"from recircuit.core.hub import fetch_model as f; f({REPO!r}, {REVISION!r}, {PINS!r}, {str(folder)!r}, "
    child = subprocess.Popen([sys.executable, "-c", f"{code} endpoint={server.url!r})"], stdout=subprocess.DEVNULL)
    part = staged(folder, "model.safetensors.part")
    with suppress(FileNotFoundError):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 1000):
            time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    free.set()
    size = part.stat().st_size
    assert 1000 < size <= len(WEIGHTS) // 2
    assert content(folder) == {}
    server.requests.clear()
    assert fetch() == PINS
    assert server.ranges() == [f"bytes={size}-"]  # and config.json was whole
    assert content(folder) == FILES


# What fails


def test_wrong_hash_is_retried_from_zero_then_told(server, fetch, folder):
    server.script = [wrong, wrong, wrong]
    with pytest.raises(UserError) as caught:
        fetch({"config.json": PINS["config.json"]}, retries=2)
    for word in ("config.json", PINS["config.json"], sha(b"x" * len(CONFIG)), "3 attempts"):
        assert word in str(caught.value)
    assert server.ranges() == [None] * 3
    assert content(folder) == {}
    assert not [path for path in folder.parent.rglob("*") if path.is_file()]


def test_wrong_hash_may_pass_at_the_second_attempt(server, fetch, folder):
    server.script = [wrong]
    fetch()
    assert content(folder) == FILES


def test_one_bad_file_moves_none(server, fetch, folder):
    with pytest.raises(UserError, match=r"model\.safetensors"):
        fetch(PINS | {"model.safetensors": "0" * 64}, retries=0)
    assert content(folder) == {}


def test_busy_server_is_asked_again_ever_later(server, fetch, folder, lines, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.script = [status(503), status(500), status(429)]
    fetch({"config.json": None}, backoff=2.0)
    assert pauses == [2.0, 4.0, 8.0]
    assert content(folder) == {"config.json": CONFIG}
    assert "HTTP 503" in lines[0] and "attempt 1 of 5" in lines[0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "100000"}, download.MAX_WAIT),
        ({"Retry-After": "0"}, 0.5),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55.0),
        ({"RateLimit": '"resolvers";r=9;t=55'}, 0.5),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.5),
    ],
)
def test_server_says_how_long_to_wait(server, fetch, monkeypatch, headers, seconds):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.script = [status(429, **headers)]
    fetch({"config.json": None}, backoff=0.5)
    assert pauses == [seconds]


def test_server_that_stays_broken_is_told(server, fetch, folder):
    server.script = [status(503)] * 3
    with pytest.raises(UserError, match=r"could not be fetched in 3 attempts: 127\.0\.0\.1 answered HTTP 503"):
        fetch(retries=2)
    assert len(server.requests) == 3
    assert content(folder) == {}


def test_silent_server_is_a_failed_attempt(server, fetch, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    free = threading.Event()
    server.script = [lambda handler, data: free.wait(10)]
    fetch({"config.json": None})
    free.set()
    assert content(folder) == {"config.json": CONFIG}


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize(("token", "given"), [(None, r"\(none was set"), (TOKEN, r"\(one was set")])
def test_no_access_is_told_at_once(server, fetch, folder, lines, code, token, given):
    server.script = [status(code)]
    with pytest.raises(UserError, match=given) as caught:
        fetch(token=token)
    for word in (REPO, str(code), "gated", "licence", "HF_TOKEN"):
        assert word in str(caught.value)
    assert len(server.requests) == 1
    assert TOKEN not in "".join([*lines, str(caught.value)])
    assert content(folder) == {}


def test_store_that_refuses_an_old_link_is_asked_again(server, start, fetch, folder):
    server.cdn = start()
    server.cdn.script = [status(403)]
    fetch()
    assert content(folder) == FILES


def test_missing_file_is_told_at_once(server, fetch, folder):
    del server.files["model.safetensors"]
    with pytest.raises(UserError, match=r"model\.safetensors of owner/name .*404.*index\.json") as caught:
        fetch()
    assert REVISION in str(caught.value)
    assert len(server.requests) == 2
    assert content(folder) == {}


def test_other_refusals_are_told_at_once(server, fetch):
    server.script = [status(410)]
    with pytest.raises(UserError, match="HTTP 410"):
        fetch()
    assert len(server.requests) == 1


def closed_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def no_such_host(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("why", ["closed port", "no such host"])
def test_unreachable_hub_is_told_with_a_way_out(server, fetch, lines, monkeypatch, why):
    if why == "no such host":
        monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with pytest.raises(UserError, match=r"cannot be reached.*127\.0\.0\.1.*3 attempts.*source: local"):
        fetch(endpoint=f"http://127.0.0.1:{closed_port()}", retries=2)
    assert len(lines) == 2  # one for each pause


def test_unwritable_folder_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fetch_model(REPO, REVISION, PINS, tmp_path / "file" / "gpt2", endpoint=server.url, log=lambda _: None)


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
