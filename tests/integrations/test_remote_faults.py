"""A server of shards that fails in the ways servers do: training goes on as without the callback, and the loss is counted."""

import functools
import http.server
import os
import threading
import time
from collections import Counter
from multiprocessing import get_context

import pytest

from radar_callback import Benchmark
from radar_callback.benchmark import reader, remote
from radar_callback.benchmark.remote import fetch
from radar_callback.errors import BenchmarkError, ItemError
from tests.helpers import tiny
from tests.integrations.test_faults import N, alone, assert_untouched, build, fit  # noqa: F401

FIRST = "shard-000.tar"


@pytest.fixture
def site(tmp_path):
    """Shards on a server that can be told to misbehave; counts what is asked for."""
    asked = Counter()
    faults = {}
    released = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked[name] += 1
            fault = faults.get(name)
            if fault == "reset":
                self.send_response(200)
                self.send_header("Content-Length", "50000")
                self.end_headers()
                self.wfile.write(b"x" * 100)
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
            elif fault == "silent":
                released.wait(20)
                self.close_connection = True
            elif fault == "page":
                self._send(200, b"<html>Please log in</html>")
            elif fault == "once":
                faults.pop(name)
                self._send(503, b"busy")
            elif isinstance(fault, int):
                self._send(fault, b"no")
            else:
                super().do_GET()

        def _send(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    folder = build(tmp_path / "shards")
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/shards", folder, faults, asked
        released.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Tests have no time to be patient."""
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(remote, "SILENCE", 0.5)


FAULTS = [404, 403, 500, "reset", "silent", "page"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_cannot_be_had_costs_its_items(fault, site, tmp_path, alone):  # noqa: F811
    url, folder, faults, asked = site
    inside = sum(item.shard == FIRST for item in Benchmark(folder).items)
    faults[FIRST] = fault
    begun = time.monotonic()
    callback, module = fit(Benchmark(url, cache_dir=tmp_path / "cache"), tmp_path / "run", workers=0)
    assert_untouched(module, alone)
    for record in callback.records:
        assert record["failures"] == {"unreadable": inside}
        assert sum(row["count"] for row in record["abilities"].values()) == N - inside
    assert callback.errors == 0
    tries = 1 if fault in (404, 403, "page") else 3
    assert asked[FIRST] <= tries + 1, "asked for once, not once an item"
    assert time.monotonic() - begun < 30
    assert not list((tmp_path / "cache").glob("*.tmp")), "nothing half-written is left"


def test_a_server_that_is_busy_for_a_moment_costs_nothing(site, tmp_path, alone):  # noqa: F811
    url, _, faults, _ = site
    faults[FIRST] = "once"
    callback, module = fit(Benchmark(url, cache_dir=tmp_path / "cache"), tmp_path / "run")
    assert_untouched(module, alone)
    assert [record["failed"] for record in callback.records] == [0, 0, 0]


def test_shards_that_take_long_to_fail_are_not_asked_for_again_for_long(tmp_path, monkeypatch):
    """Of a server that falls silent each shard takes a minute; asked again after a minute, an evaluation would never end."""
    folder = tiny.benchmark(tmp_path / "shards", n=12)
    benchmark = Benchmark(folder)
    now, asked = [0.0], []

    def silent(place, cache, expected):
        asked.append(expected.file)
        now[0] += 62.5
        raise BenchmarkError("silence")

    monkeypatch.setattr(reader, "fetch", silent)
    monkeypatch.setattr(reader.time, "monotonic", lambda: now[0])
    for index in range(len(benchmark)):
        with pytest.raises(ItemError):
            benchmark.read(index)
    assert len(asked) == len(set(asked)) == len({item.shard for item in benchmark.items}) > 1


@pytest.mark.parametrize("few", [1, 2, 16])
def test_few_fetched_shards_stay_open_and_all_can_be_read(few, site, tmp_path, monkeypatch):
    url, _, _, _ = site
    monkeypatch.setattr(reader, "OPEN_FETCHED", few)
    benchmark = Benchmark(url, cache_dir=tmp_path / "cache")
    shards = {item.shard for item in benchmark.items}
    assert len(shards) > 1
    for index in [*range(len(benchmark)), *range(len(benchmark))]:
        assert benchmark.read(index).key == benchmark.items[index].key
        assert len(benchmark._shards._open) <= few
    assert len(benchmark._shards._open) == min(few, len(shards))


def test_what_comes_back_is_scored_again(site, tmp_path, monkeypatch):
    url, _, faults, _ = site
    monkeypatch.setattr(reader, "RETRY_AFTER", 0.2)
    monkeypatch.setattr(reader, "RETRY_SHARE", 0)
    faults[FIRST] = 500
    benchmark = Benchmark(url, cache_dir=tmp_path / "cache")
    first = [item.index for item in benchmark.items if item.shard == FIRST]
    with pytest.raises(Exception, match=f"Cannot fetch {url}/{FIRST}"):
        benchmark.read(first[0])
    faults.clear()
    time.sleep(0.25)
    assert benchmark.read(first[0]).key


@pytest.mark.parametrize("fault", FAULTS)
def test_a_manifest_that_cannot_be_had_is_said_in_one_line(fault, site, tmp_path):
    url, _, faults, _ = site
    faults["manifest.json"] = fault
    with pytest.raises(BenchmarkError) as caught:
        Benchmark(url, cache_dir=tmp_path / "cache")
    assert url in str(caught.value) and len(str(caught.value).splitlines()) == 1


def _read_all(url, cache, done):
    benchmark = Benchmark(url, cache_dir=cache)
    done.put([benchmark.read(i).key for i in range(len(benchmark))])


def test_the_ranks_of_a_machine_fetch_a_shard_once(site, tmp_path):
    url, folder, _, asked = site
    context = get_context("spawn")
    done = context.Queue()
    ranks = [context.Process(target=_read_all, args=(url, tmp_path / "cache", done)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    found = [done.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join(30)
    assert found[0] == found[1] == found[2] == [item.key for item in Benchmark(folder).items]
    assert {name: n for name, n in asked.items() if name.endswith(".tar")} == {f"shard-00{i}.tar": 1 for i in range(3)}


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(site, tmp_path, monkeypatch):
    url, folder, _, asked = site
    cache = tmp_path / "cache"
    sizes = [(folder / f"shard-00{i}.tar").stat().st_size for i in range(3)]
    entries = {entry.file: entry for entry in Benchmark(folder)._shards._expected.values()}
    monkeypatch.setenv("RADAR_CALLBACK_CACHE_GB", str((sizes[0] + max(sizes[1:]) + 100) / 1e9))
    for number in (0, 1, 0, 2):
        name = f"shard-00{number}.tar"
        path = fetch(f"{url}/{name}", cache, entries[name])
        assert path.read_bytes() == (folder / name).read_bytes()
        os.utime(path, (time.time() + number, time.time() + number)) if number == 0 else None
    kept = {file.stem for file in cache.glob("*.tar")}
    assert kept == {entries["shard-000.tar"].sha256, entries["shard-002.tar"].sha256}
    assert asked["shard-000.tar"] == 1


@pytest.mark.parametrize("value", ["lots", "0", "-1", "nan"])
def test_a_bound_that_is_none(value, monkeypatch, site, tmp_path):
    monkeypatch.setenv("RADAR_CALLBACK_CACHE_GB", value)
    with pytest.raises(BenchmarkError, match="RADAR_CALLBACK_CACHE_GB to be a number above 0"):
        fetch(f"{site[0]}/{FIRST}", tmp_path / "cache")
