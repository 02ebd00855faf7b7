"""A loopback server that speaks the hub's protocol: ranges, redirects to a second host, and every way of going wrong.

It has the files of one model, of one data set, or of no repository at all, by the ``root`` of their addresses. The fixtures
at the end are those of a model.
"""

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recircuit.core.hub import fetch_model

REPO, REVISION = "owner/name", "0123456789abcdef0123456789abcdef01234567"
MODEL, DATA = f"/{REPO}/resolve/{REVISION}", f"/datasets/{REPO}/resolve/{REVISION}"
CONFIG = b'{"model_type": "gpt2"}'
WEIGHTS = bytes(range(256)) * 1500  # 384 kB: several chunks
TOKEN = "hf_not_a_real_token"
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


PINS = {name: sha(data) for name, data in FILES.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        match = re.fullmatch(rf"(?:{re.escape(server.root)}|/cdn)/([^?]+)(?:\?.*)?", self.path)
        behave = server.script.pop(0) if server.script else None
        if match is None or match[1] not in server.files:
            self.answer(404, b"Entry not found")
        elif behave is not None:
            behave(self, server.files[match[1]])
        elif server.cdn is not None and match[1].endswith((".safetensors", ".parquet")):
            tag = {"X-Linked-ETag": f'"{sha(server.published)}"'} if server.published else {}
            where = f"http://127.0.0.1:{server.cdn.server_port}/cdn/{match[1]}?Signature=abc"
            self.answer(302, b"", Location=where, **tag)
        else:
            self.serve(server.files[match[1]])

    def serve(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        if not asked:
            self.answer(200, data)
        elif start >= len(data):
            self.answer(416, b"<no such range>", **{"Content-Range": f"bytes */{len(data)}"})
        else:
            self.answer(206, data[start:], **{"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    def answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("ETag", f'"{sha(body)[:40]}"')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], root: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.root = dict(files), root
        self.requests = []  # (path, headers), in order of arrival
        self.script = []  # what the next requests meet instead of the usual answer
        self.cdn = None  # where large files are redirected to
        self.published = None  # bytes whose hash is told in the redirect
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):  # a client that hangs up is part of the game
        pass

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


@contextmanager
def running(files: Mapping[str, bytes], root: str = MODEL) -> Iterator[Hub]:
    """Serve files as those of the model ``owner/name`` at REVISION, or under another root."""
    server = Hub(files, root)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def status(code: int, **headers: str):
    return lambda handler, data: handler.answer(code, b"an error page", **headers)


def cut(handler, data):
    """Promise the rest of the file, send half of it, hang up."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    rest = data[int(asked[1]) if asked else 0 :]
    headers = {"Content-Range": f"bytes {asked[1]}-{len(data) - 1}/{len(data)}"} if asked else {}
    handler.answer(206 if asked else 200, rest[: len(rest) // 2], len(rest), **headers)
    handler.close_connection = True


def whole(handler, data):
    """Ignore the range that is asked for."""
    handler.answer(200, data)


def wrong(handler, data):
    handler.answer(200, b"x" * len(data))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No token, hub or proxy of whoever runs the tests."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def start():
    with ExitStack() as stack:
        yield lambda files=FILES, root=MODEL: stack.enter_context(running(files, root))


@pytest.fixture
def server(start):
    return start()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gpt2"


@pytest.fixture
def fetch(server, folder, lines):
    def run(files=PINS, **options):
        options = {"endpoint": server.url, "backoff": 0.001, "log": lines.append} | options
        return fetch_model(REPO, options.pop("revision", REVISION), files, folder, **options)

    return run


FIXTURES = (clean_environment, fetch, folder, lines, server, start)


def content(folder) -> dict[str, bytes]:
    """Return every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def staged(folder, name):
    """Return where a file of a model is kept until all are whole."""
    return folder.parent / f".{folder.name}.fetch" / REVISION / name
