"""A checkpoint served by a server that cuts off, lies, or is not there."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maskrcnn.weights import download
from maskrcnn.weights.download import cache_folder, fetch
from maskrcnn.weights.published import Published

CONTENT = bytes(range(256)) * 64
SHA = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cut` bytes of each answer, `content` instead, ranges or not."""

    content, cut, ranges, length = CONTENT, None, True, None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked, served = self.headers.get("Range"), self.server
        served.asked.append(asked)
        if not self.path.endswith("weights.pth"):
            self.send_error(404, "Not Found")
            return
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and served.ranges else 0
        if first >= len(served.content):
            self.send_error(416)
            return
        body = served.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(served.length or len(body)))
        self.end_headers()
        self.wfile.write(body[: served.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def published(server, file="weights.pth", checksum=f"sha256:{SHA}"):
    url = f"http://127.0.0.1:{server.server_address[1]}/{file}"
    return Published("test/weights", url, checksum, "coco", "no licence")


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(published(server), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["weights.pth"]
    server.content = b"other"
    assert fetch(published(server), tmp_path / "new").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.cut = 1000
    with pytest.raises(ValueError, match=r"cut off|IncompleteRead|the next try goes on from there"):
        fetch(published(server), tmp_path)
    assert not (tmp_path / "weights.pth").exists()
    server.cut = None
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.cut = 1000
    with pytest.raises(ValueError, match="goes on"):
        fetch(published(server), tmp_path)
    server.cut, server.ranges = None, False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


def test_a_complete_part_needs_nothing_more(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", f"md5:{hashlib.md5(CONTENT).hexdigest()[:6]}"])
def test_a_corrupted_file_is_deleted(server, tmp_path, checksum):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"is damaged: its (sha256|md5) begins with"):
        fetch(published(server, checksum=checksum), tmp_path)
    assert not list(tmp_path.iterdir())
    server.content = CONTENT
    assert fetch(published(server, checksum=checksum), tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_found_out(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="is damaged"):
        fetch(published(server), tmp_path)


@pytest.mark.parametrize("length", [10**12, None])
def test_too_large_a_file_is_refused(server, tmp_path, monkeypatch, length):
    server.length = length
    monkeypatch.setattr(download, "MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="more than weights ever have"):
        fetch(published(server), tmp_path)


def test_a_missing_file_is_named(server, tmp_path):
    with pytest.raises(ValueError, match=r"/none\.bin answers 404 Not Found"):
        fetch(published(server, "none.bin"), tmp_path)


def test_without_a_connection_a_sentence_says_what_to_do(server, tmp_path):
    gone = published(server)._replace(url="http://127.0.0.1:9/weights.pth")
    with pytest.raises(
        ValueError, match=r"cannot be downloaded from .*connect this machine, or put the file"
    ):
        fetch(gone, tmp_path)


def test_the_cache_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MASKRCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "maskrcnn"
