"""Bring files over HTTP: resumed where they were cut, asked for again where that may help, verified before they get a name.

Plain HTTP on purpose: huggingface_hub's own downloads refuse to run when HF_HUB_OFFLINE was set at import, and bring a
cache layout and a second transport with them.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2  # the HTTP client that huggingface_hub itself uses
from huggingface_hub import constants
from huggingface_hub.utils import parse_ratelimit_headers

from recircuit.core.errors import UserError
from recircuit.core.files import sha256

TIMEOUT = 30.0  # seconds without a single byte, or for a connection
REPORT_EVERY = 5.0  # seconds between two lines about one long file
MAX_WAIT = 300.0  # seconds; no server is waited for longer than this between two attempts

_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)


@dataclass(frozen=True)
class Place:
    """Where files are, and what to say of one that cannot be had: ``what`` they are of, ``name`` of the server.

    ``address`` gives a file's address; ``denied`` says what may help where the server itself denies access, ``missing`` what
    to try instead of a file that is not there.
    """

    name: str
    what: str
    address: Callable[[str], str]
    token: str = ""
    denied: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)


class _Failed(Exception):
    """One attempt failed and another may succeed, after ``wait`` seconds if the server asks for them."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@contextmanager
def staged(
    place: Place,
    folder: str | Path,
    key: str,
    *,
    retries: int = 4,
    backoff: float = 1.0,
    record: Callable[[str, str], None] | None = None,
    log: Callable[[str], object] = print,
) -> Iterator["Download"]:
    """Yield a download for ``folder`` that works in ``.{folder.name}.fetch/key`` beside it; remove that at the end.

    What a cut or killed call left there is resumed by the next one: ``key`` tells contents apart, so that bytes of one never
    resume a file of another. One call at a time per folder. The options are those of ``hub.fetch_model``.
    """
    folder = Path(folder).resolve()  # through a link, or moving in would cross file systems
    staging = folder.parent / f".{folder.name}.fetch"
    try:
        with httpx2.Client(follow_redirects=True, timeout=TIMEOUT) as client:
            yield Download(client, place, staging / key, folder, retries, backoff, record, log)
        shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written or read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Download:
    """Files on their way from a place to a folder, by way of ``parts``."""

    client: httpx2.Client
    place: Place
    parts: Path
    folder: Path
    retries: int
    backoff: float
    record: Callable[[str, str], None] | None
    log: Callable[[str], object]

    def one(self, name: str, expected: str | None) -> str:
        """Bring one file, verified, to ``parts`` unless it is there; return its SHA-256."""
        begin, path = time.monotonic(), self.parts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        got = sha256(path) if path.is_file() else None
        if got is None or expected not in (None, got):
            path.unlink(missing_ok=True)
            got = self._retry(name, expected)
        self.log(f"{name}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - begin:.1f} s")
        if self.record is not None:
            self.record(name, got)
        return got

    def deliver(self, names: Iterable[str]) -> None:
        """Move files from ``parts`` into the folder."""
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.parts / name).replace(self.folder / name)

    def _retry(self, name: str, expected: str | None) -> str:
        tries = self.retries + 1
        for number in range(1, tries + 1):
            try:
                return self._attempt(name, expected)
            except _Failed as error:
                failure = error
            if number < tries:
                pause = max(self.backoff * 2 ** (number - 1), failure.wait)
                self.log(f"{name}: attempt {number} of {tries} failed: {failure}; the next in {pause:.0f} s")
                time.sleep(pause)
        if isinstance(failure.__cause__, _UNREACHABLE):
            hint = "only fetch rules need it, and files already at hand take their place (source: local)"
            raise UserError(f"{self.place.name} cannot be reached: {failure}, in {tries} attempts; {hint}") from failure
        raise UserError(f"{self._what(name)} could not be fetched in {tries} attempts: {failure}") from failure

    def _attempt(self, name: str, expected: str | None) -> str:
        """Download or resume one file and verify it; only then give it its name."""
        part = self.parts / f"{name}.part"
        try:
            published = self._download(name, part)
        except httpx2.RequestError as error:
            why = f"{type(error).__name__}: {error}"
            raise _Failed(f"the connection to {error.request.url.host} failed ({why})") from error
        expected = expected or published
        got = sha256(part)
        if expected not in (None, got):
            part.unlink()
            raise _Failed(f"its SHA-256 is {got}, expected {expected}")
        part.replace(self.parts / name)
        return got

    def _download(self, name: str, part: Path) -> str | None:
        """Write the rest of a file behind what ``part`` has; return the SHA-256 that the hub publishes, if it does."""
        done = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes
        headers |= {"Authorization": f"Bearer {self.place.token}"} if self.place.token else {}
        headers |= {"Range": f"bytes={done}-"} if done else {}
        with self.client.stream("GET", self.place.address(name), headers=headers) as response:
            self._check_status(name, response)
            start, total = _span(response)
            if response.status_code != 200 and start != done:
                part.unlink(missing_ok=True)
                raise _Failed(f"the server cannot resume at byte {done}")
            rest = () if response.status_code == 416 else response.iter_bytes()
            size = self._write(part, rest, start, total)
            if total is not None and size != total:
                raise _Failed(f"{size} bytes came of {total}")
            return _published(response)

    def _write(self, part: Path, chunks: Iterable[bytes], start: int, total: int | None) -> int:
        """Write ``chunks`` from byte ``start`` on, with a line now and then; return the size in bytes, safe on disk."""
        told = time.monotonic()
        whole = "an unknown number of" if total is None else f"{total / 1e6:.0f}"
        with part.open("ab" if start else "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                if time.monotonic() - told >= REPORT_EVERY:
                    told = time.monotonic()
                    self.log(f"{part.stem}: {file.tell() / 1e6:.0f} of {whole} MB")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _check_status(self, name: str, response: httpx2.Response) -> None:
        """Let pass what holds bytes; raise _Failed for what may pass later, UserError for what will not."""
        status = response.status_code
        if status in (200, 206, 416):
            return
        at_home = response.url.netloc == httpx2.URL(self.place.address(name)).netloc  # elsewhere only a link has expired
        if status in (401, 403) and at_home:
            hint = self.place.denied and f"; {self.place.denied}"
            raise UserError(f"{self._what(name)} is gated, private or not there (HTTP {status}){hint}")
        if status == 404:
            hint = f"; {self.place.missing[name]}" if name in self.place.missing else ""
            raise UserError(f"{self._what(name)} does not exist on {self.place.name} (HTTP 404){hint}")
        if status >= 500 or status in (401, 403, 408, 429):
            raise _Failed(f"{response.url.host} answered HTTP {status}", _asked_wait(response.headers))
        raise UserError(f"{self._what(name)} cannot be fetched: {response.url.host} answered HTTP {status}")

    def _what(self, name: str) -> str:
        return f"{name} of {self.place.what}"


def _span(response: httpx2.Response) -> tuple[int, int | None]:
    """Return the offset of the answer's first byte (-1: it has none of use) and the file's size (None: not told)."""
    plain = response.headers.get("content-encoding", "identity") == "identity"
    if response.status_code == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if plain and length.isdecimal() else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("content-range", ""))
    if match is None or not plain:
        return -1, None
    first, total = match[1] or match[2], match[2]  # "bytes */size" comes with a 416: nothing is left to send
    return -1 if first == "*" else int(first), None if total == "*" else int(total)


def _published(response: httpx2.Response) -> str | None:
    """Return the SHA-256 that the hub gives for a large file, in the redirect to its store."""
    tags = (step.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG, "") for step in (*response.history, response))
    return next((match[0] for tag in tags if (match := re.search(r"\b[0-9a-f]{64}\b", tag))), None)


def _asked_wait(headers: httpx2.Headers) -> float:
    """Return the seconds that a server asks us to wait (Retry-After, or the hub's RateLimit), at most MAX_WAIT."""
    asked = headers.get("retry-after", "")
    limit = parse_ratelimit_headers(headers)
    if not asked.isdecimal() and limit and limit.remaining == 0:
        asked = str(limit.reset_in_seconds)
    return min(float(asked), MAX_WAIT) if asked.isdecimal() else 0.0
