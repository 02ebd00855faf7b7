"""Fetch a model's pinned files from the hub: the one place of the workflow that may use the network.

Plain HTTP on purpose: huggingface_hub's own downloads refuse to run when HF_HUB_OFFLINE was set at import, and bring a
cache layout and a second transport with them. Only the scheme of the hub's addresses is taken from there.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2  # the HTTP client that huggingface_hub itself uses
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from recircuit.core.errors import UserError, nearest
from recircuit.core.shards import INDEX, SHARD, WEIGHTS, merge_shards, read_index

NAMES = (
    "config.json",
    "generation_config.json",
    "merges.txt",
    WEIGHTS,
    INDEX,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
TIMEOUT = 30.0  # seconds without a single byte, or for a connection
REPORT_EVERY = 5.0  # seconds between two lines about one long file
MAX_WAIT = 300.0  # seconds; no server is waited for longer than this between two attempts

_UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)


def fetch_model(
    repo: str,
    revision: str,
    files: Mapping[str, str | None],
    folder: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    retries: int = 4,
    backoff: float = 1.0,
    record: Callable[[str, str], None] | None = None,
    log: Callable[[str], object] = print,
) -> dict[str, str]:
    """Put ``files`` of the hub's model ``repo`` (owner/name) at a commit into ``folder``; return each file's SHA-256.

    ``files`` maps a name to its expected SHA-256, or to None when it is not pinned yet. An index of shards brings its shards
    along; what reaches the folder is one model.safetensors with all their tensors, and the hashes returned are those of the
    index and the shards. All files are verified in ``.{folder.name}.fetch`` beside the folder before the first one is moved
    in; what a cut or killed call left there is resumed by the next one. One call at a time per folder.

    ``endpoint`` and ``token`` default to HF_ENDPOINT (else the hub itself) and HF_TOKEN. A failed attempt is repeated
    ``retries`` times after ``backoff``, 2 ``backoff``, 4 ``backoff``... seconds, or as many as the server asks for.
    ``record`` is called with (name, SHA-256) as soon as a file is verified.

    Raises UserError: a moving revision or a refused name (both before any request), a wrong hash, no access, no such
    file, no network, a folder that cannot be written.
    """
    _check_request(repo, revision, files)
    folder = Path(folder).resolve()  # through a link, or moving in would cross file systems
    staging = folder.parent / f".{folder.name}.fetch"
    endpoint, token = _check_endpoint(endpoint), _check_token(token)
    try:
        with httpx2.Client(follow_redirects=True, timeout=TIMEOUT) as client:
            # One folder per commit: bytes of one commit never resume a file of another.
            parts = staging / revision
            hashes = _Fetch(client, repo, revision, endpoint, token, parts, retries, backoff, record, log).all(files)
        whole = _whole(parts, hashes, log)
        folder.mkdir(parents=True, exist_ok=True)
        for name in whole:
            (parts / name).replace(folder / name)
        shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written or read: {error.strerror or error}") from error
    return hashes


def shards(index_path: str | Path) -> list[str]:
    """Return the sorted names of the weight files that an index of shards names.

    Raises UserError for anything but an index, and for a name that is not a shard in the same folder.
    """
    return sorted(set(read_index(index_path).values()))


def _whole(parts: Path, hashes: Mapping[str, str], log: Callable[[str], object]) -> list[str]:
    """Make one file of verified shards, unless it came whole; return the names of the files to deliver."""
    pieces = shards(parts / INDEX) if INDEX in hashes else []
    others = [name for name in hashes if name not in (WEIGHTS, INDEX, *pieces)]
    if pieces and WEIGHTS not in hashes:
        began = time.monotonic()
        merge_shards(parts / INDEX, parts / WEIGHTS)
        log(f"{WEIGHTS}: made of {len(pieces)} shards in {time.monotonic() - began:.1f} s")
    return [WEIGHTS, *others] if pieces or WEIGHTS in hashes else others


def _check_request(repo: str, revision: str, files: Mapping[str, str | None]) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UserError("a model's name on the hub is owner/name, in letters, digits, '-', '_', '.'; got another form")
    if not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        raise UserError(f"{repo}: revision '{revision}' can move; expected a commit, 40 lower-case hex digits")
    if not files:
        raise UserError(f"{repo}: no file is asked for; expected at least one of: {', '.join(NAMES)}")
    for name, expected in files.items():
        if name not in NAMES and not SHARD.fullmatch(str(name)):
            raise UserError(f"{repo}: file {name!r} is refused, only data files are fetched{nearest(name, NAMES)}")
        if expected is not None and not re.fullmatch(r"[0-9a-f]{64}", str(expected)):
            raise UserError(f"{repo}: {name} is pinned to '{expected}'; expected a SHA-256, 64 hex digits, or none")


def _check_endpoint(endpoint: str | None) -> str:
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not re.fullmatch(r"https?://(\[[\da-fA-F:]+\]|[\w.-]+)(:\d+)?(/\S*)?", endpoint):
        # The text does not repeat it: it may hold a password.
        raise UserError("the hub's address (HF_ENDPOINT) is refused; expected https://host, without user or password")
    return endpoint


def _check_token(token: str | None) -> str:
    token = (os.environ.get("HF_TOKEN", "") if token is None else token).strip()
    if not re.fullmatch(r"[!-~]*", token):  # the HTTP client would quote the token in its own error
        raise UserError("HF_TOKEN holds a blank or a character that no token has; expected the token alone")
    return token


class _Failed(Exception):
    """One attempt failed and another may succeed, after ``wait`` seconds if the server asks for them."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Fetch:
    client: httpx2.Client
    repo: str
    revision: str
    endpoint: str
    token: str
    staging: Path
    retries: int
    backoff: float
    record: Callable[[str, str], None] | None
    log: Callable[[str], object]

    def all(self, files: Mapping[str, str | None]) -> dict[str, str]:
        """Bring every file, verified, to the staging folder; return the hashes."""
        self.staging.mkdir(parents=True, exist_ok=True)
        hashes = {}
        if INDEX in files:  # first, since it names the shards
            hashes[INDEX] = self.one(INDEX, files[INDEX])
            files = dict.fromkeys(shards(self.staging / INDEX)) | dict(files)
        return hashes | {name: self.one(name, expected) for name, expected in files.items() if name != INDEX}

    def one(self, name: str, expected: str | None) -> str:
        """Bring one file, verified, to the staging folder unless it is there; return its SHA-256."""
        begin, path = time.monotonic(), self.staging / name
        got = _sha256(path) if path.is_file() else None
        if got is None or expected not in (None, got):
            path.unlink(missing_ok=True)
            got = self._retry(name, expected)
        self.log(f"{name}: {path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - begin:.1f} s")
        if self.record is not None:
            self.record(name, got)
        return got

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
            hint = "only fetch rules need it, and a folder already at hand takes their place (source: local)"
            raise UserError(f"the hub cannot be reached: {failure}, in {tries} attempts; {hint}") from failure
        raise UserError(f"{self._what(name)} could not be fetched in {tries} attempts: {failure}") from failure

    def _attempt(self, name: str, expected: str | None) -> str:
        """Download or resume one file and verify it; only then give it its name."""
        part = self.staging / f"{name}.part"
        try:
            published = self._download(name, part)
        except httpx2.RequestError as error:
            why = f"{type(error).__name__}: {error}"
            raise _Failed(f"the connection to {error.request.url.host} failed ({why})") from error
        expected = expected or published
        got = _sha256(part)
        if expected not in (None, got):
            part.unlink()
            raise _Failed(f"its SHA-256 is {got}, expected {expected}")
        part.replace(self.staging / name)
        return got

    def _download(self, name: str, part: Path) -> str | None:
        """Write the rest of a file behind what ``part`` has; return the SHA-256 that the hub publishes, if it does."""
        done = part.stat().st_size if part.is_file() else 0
        url = hf_hub_url(self.repo, name, revision=self.revision, endpoint=self.endpoint)
        headers = {"Accept-Encoding": "identity"}  # ranges count the file's own bytes
        headers |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= {"Range": f"bytes={done}-"} if done else {}
        with self.client.stream("GET", url, headers=headers) as response:
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
        at_hub = response.url.netloc == httpx2.URL(self.endpoint).netloc  # elsewhere only a link has expired
        if status in (401, 403) and at_hub:
            hint = f"accept the licence on its page and set HF_TOKEN ({'one' if self.token else 'none'} was set)"
            raise UserError(f"{self._what(name)} is gated, private or not there (HTTP {status}); {hint}")
        if status == 404:
            hint = f"; a model in shards has {INDEX} instead" if name == "model.safetensors" else ""
            raise UserError(f"{self._what(name)} does not exist on the hub (HTTP 404){hint}")
        if status >= 500 or status in (401, 403, 408, 429):
            raise _Failed(f"{response.url.host} answered HTTP {status}", _asked_wait(response.headers))
        raise UserError(f"{self._what(name)} cannot be fetched: {response.url.host} answered HTTP {status}")

    def _what(self, name: str) -> str:
        return f"{name} of {self.repo} at revision {self.revision}"


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
