"""The fetching of data sets and of single files, against a loopback server; models have test_hub and test_download."""

import pytest

import hub_server
from hub_server import DATA, REPO, REVISION, TOKEN, content, cut, sha, status, whole, wrong
from recircuit.core.errors import UserError
from recircuit.core.hub import fetch_data, fetch_file, fetch_model

clean_environment, start = hub_server.clean_environment, hub_server.start

TRAIN, TEST = "default/train/0000.parquet", "default/test/0000.parquet"
FILES = {TRAIN: bytes(range(256)) * 1500, TEST: b"PAR1 a few rows PAR1"}
PINS = {name: sha(data) for name, data in FILES.items()}
ROOT = "/~author"  # of a page that is no hub
ZIP = bytes(range(255, -1, -1)) * 1200
DIGEST = sha(ZIP)


@pytest.fixture
def server(start):
    return start(FILES, DATA)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "treebank"


@pytest.fixture
def fetch(server, folder):
    def run(files=PINS, revision=REVISION, **options):
        options = {"endpoint": server.url, "backoff": 0.001, "log": lambda line: None} | options
        return fetch_data(REPO, revision, files, folder, **options)

    return run


@pytest.fixture
def page(start):
    return start({"treebank.zip": ZIP}, ROOT)


@pytest.fixture
def fetch_zip(page, folder):
    def run(digest=DIGEST, **options):
        options = {"backoff": 0.001, "log": lambda line: None} | options
        fetch_file(options.pop("url", f"{page.url}{ROOT}/treebank.zip"), digest, folder / "treebank.zip", **options)

    return run


# Data sets of the hub


def test_tables_arrive_under_their_own_paths(server, fetch, folder):
    noted = []
    assert fetch(dict.fromkeys(FILES), record=lambda *pair: noted.append(pair)) == PINS
    assert noted == list(PINS.items())
    assert content(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]  # nothing is left of the staging folder
    assert [path for path, _ in server.requests] == [f"/datasets/{REPO}/resolve/{REVISION}/{name}" for name in FILES]


def test_a_data_set_is_not_the_model_of_its_name(server, tmp_path):
    """The server has a data set; a model of the same name and commit is asked for elsewhere."""
    with pytest.raises(UserError, match=r"config\.json of owner/name at revision .* does not exist on the hub"):
        fetch_model(REPO, REVISION, {"config.json": None}, tmp_path / "model", endpoint=server.url, log=lambda line: None)
    assert server.requests[0][0] == f"/{REPO}/resolve/{REVISION}/config.json"


def test_a_cut_table_is_resumed_and_a_whole_one_kept(server, fetch, folder):
    server.script = [cut]
    with pytest.raises(UserError, match=r"default/train/0000\.parquet of owner/name .* in 1 attempts"):
        fetch(retries=0)
    assert not folder.exists()
    server.requests.clear()
    server.script = [whole, cut]  # the first ignores the range, the second belongs to the other table
    assert fetch() == PINS
    assert server.ranges() == [f"bytes={len(FILES[TRAIN]) // 2}-", None, f"bytes={len(FILES[TEST]) // 2}-"]
    assert content(folder) == FILES


def test_one_wrong_table_moves_none(fetch, folder):
    with pytest.raises(UserError, match=rf"its SHA-256 is {sha(FILES[TEST])}, expected {'0' * 64}"):
        fetch(PINS | {TEST: "0" * 64}, retries=1)
    assert not folder.exists()


def test_the_published_digest_guards_a_table_that_is_not_pinned(server, start, fetch, folder):
    server.cdn, server.published = start(FILES, DATA), b"other bytes"
    with pytest.raises(UserError, match=f"expected {sha(b'other bytes')}"):
        fetch(dict.fromkeys(FILES), retries=0, token=TOKEN)
    assert not folder.exists()
    assert TOKEN not in str(server.cdn.requests) and TOKEN in str(server.requests)


@pytest.mark.parametrize("revision", ["refs/convert/parquet", "main", "", "0" * 39, "g" * 40, "0" * 40 + "\n", None])
def test_a_revision_that_can_move_is_refused(server, fetch, revision):
    with pytest.raises(UserError, match="can move; expected a commit, 40 lower-case hex digits"):
        fetch(revision=revision)
    assert server.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "sst.py",
        "data.csv",
        "data.parquet.py",
        "train.pkl",
        "config.json",
        "model.safetensors",
        "/etc/x.parquet",
        "../x.parquet",
        "a/../x.parquet",
        "a/./x.parquet",
        "a//x.parquet",
        "./x.parquet",
        ".x.parquet",
        "a/.git/x.parquet",
        "..\\x.parquet",
        "a\\x.parquet",
        "x.parquet\n",
        "x.parquet?download=true",
        "%2e%2e/x.parquet",
        "é.parquet",
        "aé.parquet",
        "x.parquet/",
        ".parquet",
        "",
    ],
)
def test_anything_but_tables_in_plain_folders_is_refused(server, fetch, tmp_path, name):
    server.files[name] = b"evil"
    with pytest.raises(UserError, match="is refused") as caught:
        fetch({TRAIN: None, name: None})
    assert "\n" not in str(caught.value)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_no_file_of_a_model(server, tmp_path):
    with pytest.raises(UserError, match="is refused"):
        fetch_model(REPO, REVISION, {"train.parquet": None}, tmp_path / "model", endpoint=server.url)
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"files": {}}, "no file is asked for; expected at least one of: Parquet files"),
        ({"files": {TRAIN: "abc"}}, "pinned to 'abc'"),
        ({"token": f"{TOKEN}\nX: y"}, "HF_TOKEN holds"),
        ({"endpoint": f"http://me:{TOKEN}@127.0.0.1"}, "HF_ENDPOINT"),
    ],
)
def test_other_mistakes_are_refused(server, fetch, options, match):
    with pytest.raises(UserError, match=match) as caught:
        fetch(**options)
    assert TOKEN not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("repo", ["sst", "a/b/c", "../b", "datasets/a/b", ""])
def test_odd_names_of_data_sets_are_refused(server, folder, repo):
    with pytest.raises(UserError, match="a data set's name on the hub is owner/name"):
        fetch_data(repo, REVISION, PINS, folder, endpoint=server.url)
    assert server.requests == []


# Single files, pinned by their digest


def test_a_file_arrives_when_it_is_the_pinned_one(page, fetch_zip, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # which is the hub's affair
    fetch_zip()
    assert content(folder) == {"treebank.zip": ZIP}
    assert list(folder.parent.iterdir()) == [folder]
    assert TOKEN not in str(page.requests)


def test_a_cut_file_is_resumed_by_the_next_run(page, fetch_zip, folder):
    page.script = [cut]
    with pytest.raises(UserError, match=r"treebank\.zip of 127\.0\.0\.1 could not be fetched in 1 attempts"):
        fetch_zip(retries=0)
    assert not folder.exists()
    fetch_zip()
    assert page.ranges() == [None, f"bytes={len(ZIP) // 2}-"]
    assert content(folder) == {"treebank.zip": ZIP}


def test_a_file_with_another_digest_is_not_taken(page, fetch_zip, folder):
    page.script = [wrong, wrong]
    with pytest.raises(UserError, match=f"its SHA-256 is {sha(b'x' * len(ZIP))}, expected {DIGEST}"):
        fetch_zip(retries=1)
    assert page.ranges() == [None, None]  # from the start each time
    assert content(folder.parent) == {}
    fetch_zip()
    assert content(folder) == {"treebank.zip": ZIP}


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (404, r"treebank\.zip of 127\.0\.0\.1 does not exist on 127\.0\.0\.1 \(HTTP 404\)$"),
        (403, r"treebank\.zip of 127\.0\.0\.1 is gated, private or not there \(HTTP 403\)$"),
    ],
)
def test_a_file_that_is_not_there_is_told_at_once(page, fetch_zip, code, match):
    page.script = [status(code)]
    with pytest.raises(UserError, match=match):
        fetch_zip()
    assert len(page.requests) == 1


def test_a_page_that_cannot_be_reached_is_told_with_a_way_out(fetch_zip):
    with pytest.raises(UserError, match=r"127\.0\.0\.1 cannot be reached.*2 attempts.*\(source: local\)"):
        fetch_zip(url="http://127.0.0.1:9/treebank.zip", retries=1)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x.zip",
        "file:///etc/passwd",
        f"http://me:{TOKEN}@127.0.0.1/x.zip",
        "http://127.0.0.1",
        "http://127.0.0.1/a b.zip",
        "http://127.0.0.1/x.zip\n",
        "/x.zip",
        None,
    ],
)
def test_odd_addresses_are_refused(page, fetch_zip, url):
    with pytest.raises(UserError, match="the address of a file is refused") as caught:
        fetch_zip(url=url)
    assert TOKEN not in str(caught.value)
    assert page.requests == []


@pytest.mark.parametrize("digest", [None, "", "abc", "A" * 64, DIGEST + "\n"])
def test_a_file_without_a_digest_is_refused(page, fetch_zip, digest):
    with pytest.raises(UserError, match="expected a SHA-256, 64 hex digits"):
        fetch_zip(digest)
    assert page.requests == []
