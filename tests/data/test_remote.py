"""Data behind URLs: the same items, labels and fingerprints as on disk, fetched by ranges and once."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

import fastssl.data
from fastssl.augment import SimCLRAugment
from fastssl.data import CacheError, ImageError, Loader, ShardError, open_splits, pack_source, storage, write_shards
from fastssl.data.disk_cache import DiskCache
from fastssl.data.storage import BLOCK, RemoteFile, matching
from fastssl.methods import SimCLR
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_checkpoint, pretrain

COUNT, CLASSES = 10, ["black cats", "dogs"]
PLACES = {
    "folder": "photos",
    "packed file": "all.pack",
    "folder of shards": "shards",
    "pattern of shards": "shards/0000{0..2}.tar",
    "table": "list.csv",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, so that files are as large as photographs'; the third shard ends in a block that is not full."""
    root = tmp_path_factory.mktemp("remote")
    rng = np.random.default_rng(0)
    rows = ["path,label,text"]
    for k in range(COUNT):
        own = f"photos/{CLASSES[k // 5]}/{k:02}.png"
        (root / own).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (220 + k, 250, 3), dtype=np.uint8)).save(root / own)
        (root / own).with_suffix(".txt").write_text(f"picture {k}")
        rows.append(f"{own},{CLASSES[k // 5]},picture {k}")
    (root / "photos" / ".hidden.png").write_bytes(b"x")
    (root / "photos" / "notes.md").write_text("x")
    (root / "list.csv").write_text("\n".join(rows))
    source = fastssl.data.open(root / "photos")
    pack_source(source, root / "all.pack")
    write_shards(source.items(range(COUNT)), root / "shards", per_shard=4)
    for part in ("train", "val"):
        shutil.copytree(root / "photos", root / "parts" / part)
    return root


class Server(ThreadingHTTPServer):
    """Serves a folder by ranges; counts what is asked for, and fails where it is told to."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.failing, self.ranges = 0, True
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.asked.append(("GET", self.path, wanted))
                if server.failing > 0:
                    server.failing -= 1
                    self.send_error(503)
                elif wanted is None or not server.ranges:
                    super().do_GET()
                else:
                    content = Path(self.translate_path(self.path)).read_bytes()
                    first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
                    self.send_response(206)
                    self.send_header("Content-Length", str(len(content[first : last + 1])))
                    self.end_headers()
                    self.wfile.write(content[first : last + 1])

        super().__init__(("127.0.0.1", port), lambda *a: Handler(*a, directory=str(root)))
        self.url = f"http://127.0.0.1:{self.server_port}"

    def gets(self) -> list[tuple[str, str | None]]:
        return [(path, wanted) for kind, path, wanted in self.asked if kind == "GET" and not path.endswith("/")]


@pytest.fixture
def server(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FASTSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "PAUSE", 0.001)
    made = Server(root)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def memory(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("FASTSSL_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    fs.put(str(root), "/bucket", recursive=True)
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("where", ["memory", "server"])
def test_the_same_items_as_on_disk(where: str, kind: str, root: Path, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(where)
    base = given if isinstance(given, str) else given.url
    expected = fastssl.data.open(f"{root}/{PLACES[kind]}")
    source = fastssl.data.open(f"{base}/{PLACES[kind]}")
    assert source.where == f"{base}/{PLACES[kind]}" and source.fingerprint == expected.fingerprint
    assert list(source.classes) == list(expected.classes) and source.name == expected.name
    assert source.labels is not None and source.labels.tolist() == expected.labels.tolist()  # type: ignore[union-attr]
    if where == "memory" or kind != "folder":  # a server's listing has no hidden files to speak of
        assert source.skipped == expected.skipped
    copy = pickle.loads(pickle.dumps(source)).subset(range(COUNT))
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(copy.read, list(range(COUNT)) * 2))
    for k, item in enumerate(items):
        right = expected.read(k % COUNT)
        assert (item.label, item.text) == (right.label, right.text)
        assert np.array_equal(item.images[0][:, :, :3], right.images[0][:, :, :3])  # type: ignore[index]


def test_two_parts_behind_a_url(memory: str) -> None:
    task = open_splits(f"{memory}/parts")
    assert task.divided and task.name == "parts" and (len(task.train), len(task.test)) == (COUNT, COUNT)


def test_training_gives_the_bits_that_it_gives_from_disk(memory: str, root: Path, tmp_path: Path) -> None:
    options = {"name": "resnet", "size": 16, "width": 4}
    states = []
    for k, data in enumerate((f"{root}/photos", f"{memory}/photos", f"{memory}/shards")):
        torch.manual_seed(0)
        method = SimCLR(build_encoder(options))
        out = tmp_path / str(k)
        pretrain(method, data, Pretraining(epochs=1, batch_size=5), out=out, encoder_options=options)
        assert load_checkpoint(out)[1]["source"]["where"] == data
        states.append(method.state_dict())
    assert all(torch.equal(states[0][key], other[key]) for other in states[1:] for key in states[0])


def test_what_was_fetched_is_not_fetched_again(server: Server, root: Path) -> None:
    """Blocks of a shard once, although items are read in another order and by another source."""
    url = f"{server.url}/shards/00000.tar"
    whole = (root / "shards" / "00000.tar").read_bytes()
    (root / "shards" / "00000.tar.index.json").unlink(missing_ok=True)
    first = fastssl.data.open(url)
    first.items([2, 0, 3, 1])
    asked = [wanted for path, wanted in server.gets() if path.endswith(".tar")]
    spans = [tuple(int(n) for n in (wanted or "").removeprefix("bytes=").split("-")) for wanted in asked]
    fetched = [block for a, b in spans for block in range(a // BLOCK, b // BLOCK + 1)]
    assert sorted(fetched) == list(range(-(-len(whole) // BLOCK))) and len(asked) < len(fetched)
    server.asked.clear()
    fastssl.data.open(url).items([3, 2, 1, 0])
    assert server.gets() == []


def test_an_index_that_was_put_beside_a_shard_is_used(server: Server, root: Path) -> None:
    shard, index = root / "shards" / "00001.tar", root / "shards" / "00001.tar.index.json"
    assert len(fastssl.data.open(shard)) == 4 and index.is_file()
    fastssl.data.open(f"{server.url}/shards/00001.tar")
    asked = [wanted for path, wanted in server.gets() if path.endswith(".tar")]
    assert len(asked) == 1  # the header of the last image alone
    shutil.copy(shard, root / "other.tar")
    other = json.loads(index.read_text())  # of another shard of that size
    other["places"] = [[start + 512, size] for start, size in other["places"]]
    (root / "other.tar.index.json").write_text(json.dumps(other))
    assert fastssl.data.open(f"{server.url}/other.tar").read(3).label == 1


def test_a_file_that_changed_is_fetched_anew(memory: str, root: Path) -> None:
    fs = fsspec.filesystem("memory")
    before = fastssl.data.open(f"{memory}/photos").read(0).images[0]  # type: ignore[index]
    fs.pipe("/bucket/photos/black cats/00.png", (root / "photos" / "dogs" / "09.png").read_bytes())
    after = fastssl.data.open(f"{memory}/photos").read(0).images[0]  # type: ignore[index]
    assert before.shape[0] == 220 and after.shape[0] == 229


def test_requests_that_fail_are_made_again(server: Server) -> None:
    source = fastssl.data.open(f"{server.url}/shards/00000.tar")
    shutil.rmtree(storage.cache_folder())
    server.failing = 3
    assert source.read(0).images is not None
    shutil.rmtree(storage.cache_folder())
    server.failing = 10
    with pytest.raises(OSError, match=r"http://.*/shards/00000\.tar: cannot be read .*503"):
        source.read(1)


def test_a_file_of_the_same_size_is_told_by_the_time_that_the_server_reports(server: Server, root: Path) -> None:
    image, other = root / "one.bmp", np.full((8, 8, 3), 9, np.uint8)
    Image.fromarray(np.zeros_like(other)).save(image)
    os.utime(image, (1e9, 1e9))
    assert fastssl.data.open(f"{server.url}/one.bmp").read(0).images[0][..., :3].max() == 0
    Image.fromarray(other).save(image)
    assert RemoteFile(f"{server.url}/one.bmp").version != f"{image.stat().st_size}"
    assert fastssl.data.open(f"{server.url}/one.bmp").read(0).images[0][..., :3].min() == 9


def test_a_server_that_starts_late_is_waited_for_and_one_that_is_gone_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=r"all\.pack: cannot be read \(Client.*onnect") as found:
        RemoteFile(f"http://127.0.0.1:{port}/all.pack")
    assert not isinstance(found.value, FileNotFoundError)
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            server.__init__(root, port)  # type: ignore[misc]
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    root = Path(fastssl.__file__).parent
    monkeypatch.setattr(storage.time, "sleep", pause)
    assert RemoteFile(f"http://127.0.0.1:{port}/__init__.py").size > 0 and len(waits) == 2


BAD: dict[str, tuple[str, type[Exception], str]] = {
    "nothing there": ("shards/x.tar", FileNotFoundError, "no file or folder 'http"),
    "a folder of nothing": ("nothing/", FileNotFoundError, "no file or folder 'http"),
    "no images": ("texts/", ValueError, "expected images .* found none .*1 no image"),
    "a shard that is cut off": ("cut.tar", ShardError, r"http://.*/cut\.tar: .*cut off"),
    "an image that is none": ("broken.png", ImageError, r"http://.*/broken\.png: cannot be read as an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_behind_a_url_is_named(kind: str, server: Server, root: Path) -> None:
    (root / "cut.tar").write_bytes((root / "shards" / "00000.tar").read_bytes()[:100_000])
    (root / "broken.png").write_bytes(b"no image")
    (root / "texts").mkdir(exist_ok=True)
    (root / "texts" / "a.md").write_text("x")
    place, error, match = BAD[kind]
    with pytest.raises(error, match=match):
        fastssl.data.open(f"{server.url}/{place}").read(0)


def test_servers_without_ranges_and_unknown_kinds_of_urls(server: Server) -> None:
    server.ranges = False
    with pytest.raises(OSError, match="server does not support range requests: copy it to disk"):
        RemoteFile(f"{server.url}/all.pack").read(BLOCK, 10)
    with pytest.raises(ValueError, match="nosuch://x: Protocol not known"):
        fastssl.data.open("nosuch://x")


def test_patterns_are_written_out(tmp_path: Path) -> None:
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b{1,2}.tar"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(p).name for p in matching(f"{tmp_path}/a-{{08..10}}.tar")] == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert matching(f"{tmp_path}/b{{1,2}}.tar") == [f"{tmp_path}/b{{1,2}}.tar"]  # a file may be called so
    assert matching("s3://x/{train,val}/{0..1}.tar?a=1") == [
        f"s3://x/{part}/{k}.tar?a=1" for part in ("train", "val") for k in (0, 1)
    ]


# The cache on disk.


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    for k in range(8):
        cache.put(str(k), bytes([k]) * 1000)
        os.utime(tmp_path / str(k), (k, k))
    assert cache.get("0") == b"\0" * 1000  # used: it is the newest now
    for k in range(8, 14):
        cache.put(str(k), b"x" * 1000)
    kept = {path.name for path in tmp_path.iterdir()}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_500
    assert "0" in kept and "13" in kept and not kept & {"1", "2", "3", "4"}


def test_pieces_that_were_spoilt_are_not_given(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    cache.put("a", b"whole")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-5])
    assert cache.get("a") is None and cache.get("b") is None
    cache.put("a", b"whole")
    assert cache.get("a") == b"whole"
    nothing = DiskCache(tmp_path / "none", 0)
    nothing.put("a", b"x")
    assert nothing.get("a") is None and not (tmp_path / "none").exists()


def full(room: int) -> Callable[[Path, bytes], int]:
    """A disk that has room for so many bytes in a file's folder."""
    real = Path.write_bytes

    def write(self: Path, content: bytes) -> int:
        used = sum(p.stat().st_size for p in self.parent.rglob("*") if p.is_file())
        if used + len(content) > room:
            real(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, content)

    return write


def test_a_full_disk_first_takes_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", full(5000))
    cache = DiskCache(tmp_path, 10**9)
    for k in range(20):
        cache.put(str(k), bytes([k]) * 1000)
    assert cache.get("19") == bytes([19]) * 1000
    assert all(cache.get(p.name) is not None for p in tmp_path.iterdir())  # nothing half written


def test_a_full_disk_is_one_line_and_no_item_is_skipped_for_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSSL_CACHE_GIB", "1")
    source = fastssl.data.open(f"{server.url}/photos")
    monkeypatch.setattr(Path, "write_bytes", full(100))
    match = r"cache/fetched/.*: cannot be written \(No space left on device\); make room .* FASTSSL_CACHE_GIB \(now 1;"
    with pytest.raises(CacheError, match=match):
        next(iter(Loader(source, SimCLRAugment(8), 5, on_error="skip")))
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    monkeypatch.setenv("FASTSSL_CACHE_GIB", "0")
    assert len(next(iter(Loader(source, SimCLRAugment(8), 5))).ids) == 5
    monkeypatch.setenv("FASTSSL_CACHE_GIB", "much")
    with pytest.raises(ValueError, match="FASTSSL_CACHE_GIB: expected a number of GiB >= 0, got 'much'"):
        source.read(0)


def test_folders_in_archives_are_named(tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "a"), "zip", Path(__file__).parent)
    for place in (f"zip://::file://{tmp_path}/a.zip", f"zip://::{tmp_path}/a.zip"):
        with pytest.raises(ValueError, match=r"one in an archive \(::\); unpack it, or make tar shards"):
            fastssl.data.open(place)
