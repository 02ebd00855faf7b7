"""How files are brought: resumed where they were cut, asked for again, told when they cannot be had; from a loopback server."""

import gzip
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

import hub_server
from hub_server import CONFIG, FILES, PINS, REPO, REVISION, TOKEN, WEIGHTS, content, cut, sha, staged, status, whole, wrong
from recircuit.core import download
from recircuit.core.errors import UserError
from recircuit.core.hub import fetch_model

clean_environment, fetch, folder, lines, server, start = hub_server.FIXTURES

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
