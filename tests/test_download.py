"""Downloads against a server on this machine that also breaks off, lies, redirects and sends other files."""

import hashlib
import http.server
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from detr_mini import download

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, and CONTENT at any other path; `breaks` lists after how many bytes each next answer ends."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.breaks, self.content, self.ranges, self.codes = [], [], CONTENT, True, []
        self.lengths, self.stalls, self.chunked, self.shift, self.says_range = [], [], False, 0, False
        self.files, self.go_on = {}, threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file.bin")
            self.end_headers()
            return
        if server.codes and (code := server.codes.pop(0)):
            self.send_error(code)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        content = server.files.get(self.path, server.content)
        size = len(content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        if start:
            start += server.shift
        body = content[start:]
        if server.chunked:
            self.protocol_version = "HTTP/1.1"
        self.send_response(206 if start else 200)
        if start and server.says_range:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        announced = server.lengths.pop(0) if server.lengths else len(body)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
        elif announced is not None:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else None
        self.send(body[:end], whole=end is None)

    def send(self, body: bytes, whole: bool):
        """The body, in chunks where the server sends chunks; a stall lets the client wait in the middle."""
        server = self.server
        if server.chunked:
            for begin in range(0, len(body), 50_000):
                chunk = body[begin : begin + 50_000]
                announced = len(chunk) if whole else 50_000
                end = b"\r\n" if len(chunk) == announced else b""  # none: it broke off inside this chunk
                self.wfile.write(f"{announced:x}\r\n".encode() + chunk + end)
            self.wfile.write(b"0\r\n\r\n" if whole else b"")
            return
        after = server.stalls.pop(0) if server.stalls else None
        self.wfile.write(body[:after])
        if after is not None:
            self.wfile.flush()
            server.go_on.wait(120)

    def log_message(self, *_):
        """Silence."""


@contextmanager
def serving():
    """A Server at work, for one `with` block."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.go_on.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server():
    with serving() as running:
        yield running


def fetch(server, path, digits=DIGITS):
    return download.fetch(server.url, path, digits, progress=False)


def test_a_file_comes_whole_and_only_once(server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    assert fetch(server, path) == path and path.read_bytes() == CONTENT
    assert fetch(server, path) == path and server.requests == [None], "the second call reads the disk"
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]


def test_progress_is_shown(server, tmp_path, capsys):
    download.fetch(server.url, tmp_path / "file.bin", DIGITS)
    assert "file.bin" in capsys.readouterr().err


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = [300_000, 200_000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_call_goes_on_too(server, tmp_path):
    (tmp_path / "file.bin.partial").write_bytes(CONTENT[:700_000])
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == ["bytes=700000-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges, server.breaks = False, [300_000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_is_given_up(server, tmp_path):
    server.breaks = [0] * 50
    with pytest.raises(OSError, match=r"could not fetch http://127.*ended at 0 of 1,024,000 bytes.*put the file at"):
        fetch(server, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists() and len(server.requests) == download.ATTEMPTS


@pytest.mark.parametrize("announced", [None, 500_000])
def test_a_server_that_says_no_length_or_too_little(server, tmp_path, announced):
    server.lengths = [announced]
    if announced is None:
        assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
        return
    with pytest.raises(ValueError, match="gave another file than expected .*cut short"):
        fetch(server, tmp_path / "file.bin")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT, "wrong bytes do not stay in the way"


def test_another_file(server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(ValueError, match=f"gave another file than expected .*wanted {DIGITS}"):
        fetch(server, tmp_path / "file.bin")
    assert not list(tmp_path.iterdir())


def test_a_partial_file_longer_than_the_servers_is_thrown_away(server, tmp_path):
    (tmp_path / "file.bin.partial").write_bytes(CONTENT + b"more")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == ["bytes=1024004-", None]


def test_a_partial_file_that_is_whole_already_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)  # killed between the last byte and the new name
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.partial").write_bytes(CONTENT[::-1])  # as long, but other bytes
    with pytest.raises(ValueError, match="gave another file than expected"):
        fetch(server, tmp_path / "file.bin")
    assert not list(tmp_path.iterdir()), "wrong bytes do not stay in the way"


def test_a_server_that_announces_more_than_it_has(server, tmp_path):
    server.lengths = [len(CONTENT) + 1000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT, "its hash says that it is whole"
    assert server.requests == [None, f"bytes={len(CONTENT)}-"]


def test_a_server_that_goes_on_elsewhere_than_asked(server, tmp_path):
    server.breaks, server.shift, server.says_range = [300_000], 7, True
    with pytest.raises(OSError, match="asked for the bytes from 300,000 on, the server sent bytes 300007-1023999/"):
        fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin.partial").read_bytes() == CONTENT[:300_000], "nothing wrong was added"
    server.shift = 0
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_that_stalls_is_asked_for_the_rest(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.3)
    server.stalls = [300_000, 200_000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=500000-"], "what had come was kept"


def test_a_server_that_never_answers_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    server.stalls = [0] * 50
    with pytest.raises(OSError, match=r"could not fetch .*timed out"):
        fetch(server, tmp_path / "file.bin")
    assert len(server.requests) == download.ATTEMPTS


def test_a_slow_server_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(Handler, "send", drip)
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None], "slow for longer than the timeout, but never silent for as long"


def drip(handler: Handler, body: bytes, whole: bool) -> None:
    for part in range(8):
        handler.wfile.write(body[part * 128_000 : (part + 1) * 128_000])
        handler.wfile.flush()
        handler.server.go_on.wait(0.1)


def test_chunks_without_a_length(server, tmp_path):
    server.chunked = True
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_chunks_that_break_off(server, tmp_path, ranges):
    server.chunked, server.ranges, server.breaks = True, ranges, [320_000]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.requests) == 2 and server.requests[1] is not None


def test_a_full_disk_is_no_fault_of_the_network(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(OSError, match=r"file.bin.partial: the disk is full at 0 bytes; make room"):
        fetch(server, tmp_path / "file.bin")


def test_a_download_that_was_killed_goes_on(server, tmp_path):
    path, partial = tmp_path / "file.bin", tmp_path / "file.bin.partial"
    server.stalls = [5000]
    code = f"from detr_mini import download; download.fetch({server.url!r}, {str(path)!r}, {DIGITS!r}, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 100  # the server's stall is longer
    while not (partial.exists() and partial.stat().st_size == 5000):
        assert process.poll() is None and time.monotonic() < deadline, "every byte that came is on the disk"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not path.exists() and partial.read_bytes() == CONTENT[:5000]
    assert fetch(server, path).read_bytes() == CONTENT and server.requests == [None, "bytes=5000-"]


def test_a_file_in_place_that_is_not_the_one(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"cut short \(1,023,999 bytes\).*delete it"):
        fetch(server, tmp_path / "file.bin")
    assert not server.requests


def test_redirects_are_followed(server, tmp_path):
    path = download.fetch(server.url.replace("file.bin", "moved"), tmp_path / "file.bin", DIGITS, progress=False)
    assert path.read_bytes() == CONTENT


def test_redirects_are_followed_for_the_rest_too(server, tmp_path):
    moved = server.url.replace("file.bin", "moved")
    server.breaks = [300_000]
    download.fetch(moved, tmp_path / "file.bin", DIGITS, progress=False)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [None, None, "bytes=300000-", "bytes=300000-"]


def test_an_address_that_is_not_there_is_asked_once(server, tmp_path):
    server.codes = [404]
    with pytest.raises(OSError, match="404"):
        fetch(server, tmp_path / "file.bin")
    assert len(server.requests) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.codes = [503, 0]
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT


def test_no_server(tmp_path):
    with pytest.raises(OSError, match="connect to the network"):
        download.fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", DIGITS, progress=False)


def test_where_downloads_go(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "DATA", tmp_path / "data")
    monkeypatch.setattr(download.torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert download.folder("weights") == tmp_path / "hub" / "checkpoints", "installed without a checkout"
    assert download.folder("bccd") == tmp_path / "detr_mini" / "bccd"
    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    assert download.folder("weights") == tmp_path / "data" / "weights"
    assert download.folder("bccd") == tmp_path / "data" / "bccd"
