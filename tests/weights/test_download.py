"""A checkpoint from a server that cuts off, lies, or is not there, and for processes that ask at once."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import maskrcnn
from maskrcnn.weights import download
from maskrcnn.weights.download import cache_folder, fetch, is_cached, why_unreachable
from maskrcnn.weights.published import Published

CONTENT = bytes(range(256)) * 20
SHA = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(ThreadingHTTPServer):
    """Serves `content`: at most `cut` bytes of a response, with or without ranges.

    After the first half of a response it waits for `rest`.
    """

    content, cut, ranges, length, moved = CONTENT, None, True, None, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested: list[str | None] = []
        self.rest = threading.Event()
        self.rest.set()


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.server.rest.wait()
        self.send_response(200 if self.path.endswith("weights.pth") else 404)
        self.end_headers()

    def do_GET(self):
        requested, server = self.headers.get("Range"), self.server
        server.requested.append(requested)
        if not self.path.endswith("weights.pth"):
            self.send_error(404, "Not Found")
            return
        first = int(requested.removeprefix("bytes=").rstrip("-")) if requested and server.ranges else 0
        if first >= len(server.content):
            self.send_error(416)
            return
        body = server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(server.length or len(body)))
        if first:
            start = first + 1 if server.moved else first
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        self.end_headers()
        body = body[: server.cut]
        half = len(body) // 2
        self.wfile.write(body[:half])
        server.rest.wait()
        self.wfile.write(body[half:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.rest.set()
        running.shutdown()
        thread.join()


def published(server, file="weights.pth", checksum=f"sha256:{SHA}"):
    url = f"http://127.0.0.1:{server.server_address[1]}/{file}"
    return Published("test/weights", url, checksum, "coco", "no licence")


def test_a_server_is_asked_whether_it_has_a_file(server):
    assert why_unreachable(published(server)) == ""
    assert why_unreachable(published(server, "none.bin")) == "the server returned 404 Not Found"
    assert server.requested == []  # nothing is downloaded
    gone = published(server)._replace(url="http://127.0.0.1:9/weights.pth")
    assert why_unreachable(gone) == "no connection: Connection refused"


def test_a_server_that_hangs_is_given_up(server):
    server.rest.clear()
    start = time.monotonic()
    assert why_unreachable(published(server), seconds=0.2) == "no answer in 0.2 s"
    assert time.monotonic() - start < 2


def test_a_name_server_that_hangs_is_given_up(server, monkeypatch):
    waiting = threading.Event()

    def look_up(*_, **__):
        waiting.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    start = time.monotonic()
    assert why_unreachable(published(server), seconds=0.2) == "no answer in 0.2 s"
    assert time.monotonic() - start < 2
    waiting.set()


def test_a_cached_file_is_known_by_its_content_or_its_record(server, tmp_path, capsys):
    assert not is_cached(published(server), tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    assert is_cached(published(server), tmp_path) and (tmp_path / ".weights.pth.size").exists()
    path.write_bytes(CONTENT[:-1])
    assert not is_cached(published(server), tmp_path)
    assert capsys.readouterr().err == "" and server.requested == []


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(published(server), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert not (path.parent / ".weights.pth.part").exists()
    server.content = b"other"
    assert fetch(published(server), tmp_path / "new").read_bytes() == CONTENT
    assert len(server.requested) == 1


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", ""])
def test_an_interrupted_download_is_resumed(server, tmp_path, checksum):
    server.cut = 1000
    with pytest.raises(ValueError, match=r"ended after 1000 of 5120 .*the next download resumes"):
        fetch(published(server, checksum=checksum), tmp_path)
    assert not (tmp_path / "weights.pth").exists()
    server.cut = None
    assert fetch(published(server, checksum=checksum), tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, "bytes=1000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(server, tmp_path):
    server.cut = 1000
    with pytest.raises(ValueError, match="resumes"):
        fetch(published(server), tmp_path)
    server.cut, server.ranges = None, False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", ""])
def test_a_server_that_continues_elsewhere_is_asked_for_the_whole_file(server, tmp_path, checksum):
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT[:1000])
    server.moved = True
    assert fetch(published(server, checksum=checksum), tmp_path).read_bytes() == CONTENT
    assert server.requested == ["bytes=1000-", None]


def test_a_complete_part_is_not_downloaded_again(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requested == [f"bytes={len(CONTENT)}-"]


def test_without_a_checksum_a_part_of_unknown_end_is_downloaded_again(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(b"x" * len(CONTENT))
    assert fetch(published(server, checksum=""), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", f"md5:{hashlib.md5(CONTENT).hexdigest()[:6]}"])
def test_a_damaged_download_is_deleted(server, tmp_path, checksum):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"is damaged: its (sha256|md5) begins with"):
        fetch(published(server, checksum=checksum), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".weights.pth.lock"]
    server.content = CONTENT
    assert fetch(published(server, checksum=checksum), tmp_path).read_bytes() == CONTENT


def test_a_part_of_another_file_is_replaced(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(b"x" * 1000)
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requested == ["bytes=1000-", None]


@pytest.mark.parametrize("checksum", [f"sha256:{SHA}", ""])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"!"])
def test_a_file_that_was_truncated_or_grew_is_downloaded_again(server, tmp_path, checksum, change, capsys):
    path = fetch(published(server, checksum=checksum), tmp_path)
    path.write_bytes(change(CONTENT))
    assert fetch(published(server, checksum=checksum), tmp_path).read_bytes() == CONTENT
    assert "is not the file that was published: it is downloaded again" in capsys.readouterr().err
    assert len(server.requested) == 2


def test_a_file_copied_into_the_cache_is_verified_once(server, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    assert fetch(published(server), tmp_path) == path
    assert server.requested == []
    monkeypatch.setattr(hashlib, "file_digest", None)  # the size is enough from now on
    assert fetch(published(server), tmp_path) == path
    monkeypatch.undo()
    (tmp_path / ".weights.pth.size").unlink()
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requested == [None]


def test_a_damaged_file_stays_until_another_one_is_complete(server, tmp_path):
    path = fetch(published(server), tmp_path)
    path.write_bytes(b"short")
    gone = published(server)._replace(url="http://127.0.0.1:9/weights.pth")
    with pytest.raises(ValueError, match="cannot be downloaded"):
        fetch(gone, tmp_path)
    assert path.read_bytes() == b"short"


@pytest.mark.parametrize("length", [10**12, None])
def test_too_large_a_file_is_refused(server, tmp_path, monkeypatch, length):
    server.length = length
    monkeypatch.setattr(download, "MAX_BYTES", 3000)
    with pytest.raises(ValueError, match="bytes or more, but weights have at most 3000"):
        fetch(published(server), tmp_path)


def test_a_missing_file_is_named(server, tmp_path):
    with pytest.raises(ValueError, match=r"/none\.bin: the server returned 404 Not Found"):
        fetch(published(server, "none.bin"), tmp_path)


def test_without_a_connection_a_sentence_says_what_to_do(server, tmp_path):
    gone = published(server)._replace(url="http://127.0.0.1:9/weights.pth")
    with pytest.raises(
        ValueError, match=r"cannot be downloaded from .*connect this machine, or put the file"
    ):
        fetch(gone, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be stored in .*file/cache .*MASKRCNN_CACHE"):
        fetch(published(server), tmp_path / "file" / "cache")


def test_the_cache_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MASKRCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "maskrcnn"


FETCH = """
import sys
from pathlib import Path
from maskrcnn.weights.download import fetch
from maskrcnn.weights.published import Published
fetch(Published("test/weights", sys.argv[1], sys.argv[2], "coco", "no licence"), Path(sys.argv[3]))
"""


def start_fetching(server, folder):
    """Start a process that fetches the file."""
    entry = published(server)
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, entry.url, entry.checksum, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(maskrcnn.__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(is_so, seconds=60.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_of_four_processes_one_downloads(server, tmp_path):
    server.rest.clear()
    processes = [start_fetching(server, tmp_path) for _ in range(4)]
    # Each process that waits says so in its first line; the one that downloads draws its progress
    waiting: list[str] = []

    def collect(process):
        waiting.extend(line for line in process.stderr if line.startswith("waiting"))

    readers = [threading.Thread(target=collect, args=(process,)) for process in processes]
    for reader in readers:
        reader.start()
    wait_until(lambda: len(waiting) == 3)
    server.rest.set()
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    for reader in readers:
        reader.join()
    assert server.requested == [None]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    line = f"waiting for another process that downloads test/weights to {tmp_path / 'weights.pth'}\n"
    assert waiting == [line] * 3


def test_a_killed_download_is_resumed_and_its_lock_does_not_block(server, tmp_path):
    server.rest.clear()
    process, part = start_fetching(server, tmp_path), tmp_path / ".weights.pth.part"
    wait_until(lambda: part.exists() and part.stat().st_size == len(CONTENT) // 2)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (tmp_path / ".weights.pth.lock").exists() and not (tmp_path / "weights.pth").exists()
    server.rest.set()
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.requested == [None, f"bytes={len(CONTENT) // 2}-"]
