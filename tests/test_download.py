"""Downloads against a server on this machine that also breaks off, lies, redirects and sends other files."""

import hashlib
import http.server
import re
import threading

import pytest

from detr_mini import download

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path; `breaks` lists after how many bytes each next answer ends (None: never)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.breaks, self.content, self.ranges, self.codes = [], [], CONTENT, True, []
        self.lengths = []

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
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        announced = server.lengths.pop(0) if server.lengths else len(body)
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(body[:end])

    def log_message(self, *_):
        """Silence."""


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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


def test_a_file_in_place_that_is_not_the_one(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"cut short \(1,023,999 bytes\).*delete it"):
        fetch(server, tmp_path / "file.bin")
    assert not server.requests


def test_redirects_are_followed(server, tmp_path):
    path = download.fetch(server.url.replace("file.bin", "moved"), tmp_path / "file.bin", DIGITS, progress=False)
    assert path.read_bytes() == CONTENT


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
    (tmp_path / "data" / "checkpoints").mkdir(parents=True)
    assert download.folder("weights") == tmp_path / "data" / "weights"
