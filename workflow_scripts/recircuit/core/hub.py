"""Fetch the pinned files of a model or a data set: the one place of the workflow that may use the network."""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from recircuit.core.download import Download, Place, staged
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
# Every part of a path begins with a letter or a digit: none leads out of the folder, and none is hidden.
TABLE = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)*[A-Za-z0-9][\w.-]*\.parquet", re.ASCII)


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
    place = _place("model", repo, revision, files, endpoint, token)
    with staged(place, folder, revision, retries=retries, backoff=backoff, record=record, log=log) as download:
        hashes = _with_shards(download, files)
        download.deliver(_whole(download.parts, hashes, log))
    return hashes


def fetch_data(
    repo: str,
    revision: str,
    files: Mapping[str, str | None],
    folder: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    **options,
) -> dict[str, str]:
    """Put Parquet ``files`` of the hub's data set ``repo`` at a commit into ``folder``, under the paths that they have there.

    Everything else is as ``fetch_model`` has it, ``options`` too.
    """
    place = _place("dataset", repo, revision, files, endpoint, token)
    with staged(place, folder, revision, **options) as download:
        hashes = {name: download.one(name, expected) for name, expected in files.items()}
        download.deliver(hashes)
    return hashes


def fetch_file(url: str, digest: str, target: str | Path, **options) -> None:
    """Put the file at an address where ``target`` says, when its SHA-256 is ``digest``; ``options`` as in ``fetch_model``.

    The digest alone says which file it is: the address may move.
    """
    target = Path(target)
    found = re.fullmatch(r"https?://(\[[\da-fA-F:]+\]|[\w.-]+)(?::\d+)?/[!-~]+", str(url))
    if found is None:
        raise UserError("the address of a file is refused; expected https://host/path, without user or password")
    if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
        raise UserError(f"{url} is pinned to '{digest}'; expected a SHA-256, 64 hex digits")
    place = Place(found[1], found[1], lambda name: url)
    with staged(place, target.parent, digest, **options) as download:
        download.one(target.name, digest)
        download.deliver([target.name])


def shards(index_path: str | Path) -> list[str]:
    """Return the sorted names of the weight files that an index of shards names.

    Raises UserError for anything but an index, and for a name that is not a shard in the same folder.
    """
    return sorted(set(read_index(index_path).values()))


def _with_shards(download: Download, files: Mapping[str, str | None]) -> dict[str, str]:
    """Bring every file, verified, to the staging folder, and the shards of an index; return the hashes."""
    hashes = {}
    if INDEX in files:  # first, since it names the shards
        hashes[INDEX] = download.one(INDEX, files[INDEX])
        files = dict.fromkeys(shards(download.parts / INDEX)) | dict(files)
    return hashes | {name: download.one(name, expected) for name, expected in files.items() if name != INDEX}


def _whole(parts: Path, hashes: Mapping[str, str], log: Callable[[str], object]) -> list[str]:
    """Make one file of verified shards, unless it came whole; return the names of the files to deliver."""
    pieces = shards(parts / INDEX) if INDEX in hashes else []
    others = [name for name in hashes if name not in (WEIGHTS, INDEX, *pieces)]
    if pieces and WEIGHTS not in hashes:
        began = time.monotonic()
        merge_shards(parts / INDEX, parts / WEIGHTS)
        log(f"{WEIGHTS}: made of {len(pieces)} shards in {time.monotonic() - began:.1f} s")
    return [WEIGHTS, *others] if pieces or WEIGHTS in hashes else others


def _place(
    kind: str, repo: str, revision: str, files: Mapping[str, str | None], endpoint: str | None, token: str | None
) -> Place:
    """Return where the hub has the files of a ``model`` or a ``dataset``, once nothing about the request is wrong."""
    _check_request(kind, repo, revision, files)
    endpoint, token = _check_endpoint(endpoint), _check_token(token)

    def address(name: str) -> str:
        return hf_hub_url(repo, name, repo_type=kind, revision=revision, endpoint=endpoint)

    denied = f"accept the licence on its page and set HF_TOKEN ({'one' if token else 'none'} was set)"
    missing = {WEIGHTS: f"a model in shards has {INDEX} instead"} if kind == "model" else {}
    return Place("the hub", f"{repo} at revision {revision}", address, token, denied, missing)


def _check_request(kind: str, repo: str, revision: str, files: Mapping[str, str | None]) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        thing = {"model": "model", "dataset": "data set"}[kind]
        raise UserError(f"a {thing}'s name on the hub is owner/name, in letters, digits, '-', '_', '.'; got another form")
    if not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
        raise UserError(f"{repo}: revision '{revision}' can move; expected a commit, 40 lower-case hex digits")
    wanted = ", ".join(NAMES) if kind == "model" else "Parquet files, in plain folders or in none"
    if not files:
        raise UserError(f"{repo}: no file is asked for; expected at least one of: {wanted}")
    for name, expected in files.items():
        if kind == "model" and name not in NAMES and not SHARD.fullmatch(str(name)):
            raise UserError(f"{repo}: file {name!r} is refused, only data files are fetched{nearest(name, NAMES)}")
        if kind == "dataset" and not TABLE.fullmatch(str(name)):
            raise UserError(f"{repo}: file {name!r} is refused, only data files are fetched; expected {wanted}")
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
