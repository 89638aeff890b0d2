"""Tar shards at a URL, from a server on this machine."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from pistole.data.remote import cache_of, verify_split
from pistole.data.source import Source
from pistole.data.tasks import open_task, read_listed
from pistole.errors import UserError


class Handler(http.server.SimpleHTTPRequestHandler):
    """A quiet file server that notes what is asked for, and can cut files short."""

    asked: ClassVar[list[str]] = []
    cut = 0

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) - self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path: Path, write_wds, monkeypatch):
    """The URL of ``toy`` on a server, the folder behind it, and the server's handler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    root = write_wds(tmp_path / "site" / "toy")

    class Own(Handler):
        asked: ClassVar[list[str]] = []

    handler = functools.partial(Own, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/toy", root, Own
        server.shutdown()
        thread.join()


def local(root: Path) -> Source:
    return Source("toy", "wds", str(root))


def test_shards_are_read_as_from_a_folder_and_fetched_once(served):
    url, root, handler = served
    task, there = open_task(Source("toy", "wds", url)), open_task(local(root))
    assert (task.classnames, task.templates) == (there.classnames, there.templates)
    split, same = task.split("test"), there.split("test")
    assert (split.ids, split.labels) == (same.ids, same.labels)
    assert torch.equal(split.load([5, 0]), same.load([5, 0]))
    assert split.digests([5, 0]) == same.digests([5, 0])
    assert not any("train" in path for path in handler.asked)

    fetched = len(handler.asked)
    again = read_listed(Source("toy", "wds", url), [split.ids[5]], split.digests([5]))
    assert torch.equal(again, same.load([5]))
    assert len(handler.asked) == fetched


def test_the_cache_is_used_without_a_server(served, monkeypatch):
    url, _, _ = served
    ids = open_task(Source("toy", "wds", url)).split("test").ids
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("fetched"))
    assert open_task(Source("toy", "wds", url)).split("test").ids == ids


def test_a_registered_dataset_gets_the_registrys_names_unfetched(served):
    url, root, handler = served
    root.rename(root.with_name("cifar10"))
    task = open_task(Source("cifar10", "wds", url.replace("toy", "cifar10")))
    assert task.classnames[0] == "airplane"
    assert handler.asked == []
    assert len(task.split("test").ids) == 12
    assert not any("classnames" in path for path in handler.asked)


def test_a_file_that_arrives_short_is_not_kept(served):
    url, _, handler = served
    task = open_task(Source("toy", "wds", url))
    handler.cut = 512
    (cache_of(url) / "test").mkdir()
    (cache_of(url) / "test" / "nshards.txt").write_text("2\n")
    with pytest.raises(UserError, match=r"test/0\.tar (ended after \d+ of \d+ bytes|cannot be)"):
        task.split("test")
    assert not list(cache_of(url).rglob("*.tar*"))
    handler.cut = 0
    assert len(task.split("test").ids) == 12


def test_the_servers_digests_are_compared(served):
    url, root, _ = served
    sums = [
        f"{hashlib.sha256((root / 'test' / name).read_bytes()).hexdigest()}  ./{name}"
        for name in ("0.tar", "1.tar")
    ]
    file = root / "test" / "sha256sums.txt"
    file.write_text("\n".join([sums[0], "0" * 64 + "  1.tar"]) + "\n")
    with pytest.raises(UserError, match=r"test/1\.tar has the digest .*sha256sums\.txt says 000"):
        open_task(Source("toy", "wds", url)).split("test")
    assert [path.name for path in sorted(cache_of(url).rglob("*.tar"))] == ["0.tar"]
    file.write_text("\n".join(sums) + "\n")
    assert len(open_task(Source("toy", "wds", url)).split("test").ids) == 12


def test_a_cached_shard_that_changed_is_found(served):
    url, _, _ = served
    source = Source("toy", "wds", url)
    open_task(source).split("test")
    verify_split(source, "test")
    shard = cache_of(url) / "test" / "1.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"1\.tar is not what was fetched from http.*: remove "):
        verify_split(source, "test")


def test_what_is_not_there(served):
    url, root, _ = served
    with pytest.raises(UserError, match=r"classnames\.txt cannot be fetched \(HTTP Error 404"):
        open_task(Source("toy", "wds", url + "/nowhere"))
    (root / "test" / "nshards.txt").write_text("<html>")
    with pytest.raises(UserError, match=r"nshards\.txt is no number but '<html>'"):
        open_task(Source("toy", "wds", url)).split("test")
