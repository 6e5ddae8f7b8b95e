"""What can be opened, what of it can be chosen, and what is said when it cannot."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections import Counter

import pytest

from radar_callback.benchmark import locate
from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import Skipped
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, ConfigError, ItemError, Reason


def keys(benchmark: Benchmark) -> list[str]:
    return [item.key for item in benchmark.items]


@pytest.fixture
def edit(folder):
    """Changes the manifest on disk."""

    def change(alter) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        alter(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


# What can be opened


def test_a_folder_its_manifest_a_pattern_and_a_list_are_the_same_benchmark(folder):
    whole = Benchmark(folder)
    shards = sorted(folder.glob("*.tar"))
    for source in (
        str(folder),
        f"{folder}/",
        f"file://{folder}",
        folder / MANIFEST,
        str(folder / "shard-{000..002}.tar"),
        shards,
        whole,
    ):
        assert Benchmark(source).fingerprint == whole.fingerprint
        assert Benchmark(source).read(7) == whole.read(7)
    assert repr(whole) == "Benchmark('bench': 12 items, 2 abilities)"


def test_some_shards_of_a_benchmark(folder):
    part = Benchmark(str(folder / "shard-{001..002}.tar"))
    assert keys(part) == [f"item-{i:02d}" for i in range(4, 12)]
    assert [item.index for item in part.items] == list(range(8))
    assert part.read(0).key == "item-04"
    assert part.taxonomy.group_of("maths") == "reasoning"
    assert keys(Benchmark(folder / "shard-001.tar")) == keys(part)[:4]


def test_only_what_is_in_the_chosen_shards_is_in_the_tree(tmp_path, sample, groups):
    both = [sample("a"), sample("b", ability="maths", category="area"), sample("c", ability="maths", category="angle")]
    write_shards(both, tmp_path / "out", name="n", groups=groups, max_samples=1)
    assert Benchmark(tmp_path / "out" / "shard-000.tar").taxonomy.cells == (("colour", None),)
    assert Benchmark(tmp_path / "out" / "shard-002.tar").taxonomy.cells == (("maths", "angle"),)


def test_shards_without_a_manifest_are_indexed(folder):
    whole = Benchmark(folder)
    (folder / MANIFEST).unlink()
    found = Benchmark(folder)
    assert found.items == whole.items
    assert (found.name, found.taxonomy.groups) == ("bench", ("all",))
    assert [found.read(i) for i in range(12)] == [whole.read(i) for i in range(12)]
    assert keys(Benchmark(str(folder / "shard-{000..001}.tar"))) == keys(whole)[:8]


def test_a_built_in_name_goes_before_a_folder_of_that_name(folder, tmp_path, monkeypatch, samples, groups):
    home = tmp_path / "builtin"
    write_shards(samples[:2], home / "radar-tiny", name="radar-tiny", groups=groups)
    monkeypatch.setattr(locate, "_builtin_homes", lambda: (tmp_path / "absent", home))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "radar-tiny")
    assert len(Benchmark("radar-tiny")) == 2
    assert len(Benchmark("./radar-tiny")) == 12
    with pytest.raises(BenchmarkError, match=r"built-in name \(radar-tiny\)"):
        Benchmark("radar-other")


@pytest.fixture
def web(folder):
    """A web server that has the benchmark; counts what is asked for."""
    asked = Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            super().do_GET()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_remote_shards_are_fetched_once(folder, tmp_path, web):
    url, asked = web
    local, cache = Benchmark(folder), tmp_path / "cache"
    remote = Benchmark(f"{url}/bench", cache_dir=cache)
    assert remote.fingerprint == local.fingerprint
    assert not any(path.endswith(".tar") for path in asked)  # nothing is fetched before it is needed
    assert [remote.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    again = Benchmark(f"{url}/bench/shard-{{000..001}}.tar", cache_dir=cache)
    assert [again.read(i) for i in range(8)] == [local.read(i) for i in range(8)]
    assert {path: n for path, n in asked.items() if path.endswith(".tar")} == {
        f"/bench/shard-00{i}.tar": 1 for i in range(3)
    }
    assert not list(cache.glob("*.tmp"))


def test_a_remote_shard_that_is_not_the_one_described(folder, tmp_path, web):
    url, _ = web
    remote = Benchmark(f"{url}/bench/{MANIFEST}", cache_dir=tmp_path / "cache")
    (folder / "shard-001.tar").write_bytes(b"<html>" * 4000)
    with pytest.raises(ItemError, match="sha256") as caught:
        remote.read(5)
    assert caught.value.reason is Reason.UNREADABLE
    assert remote.read(0).key == "item-00"
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_remote_shards_without_a_manifest(folder, tmp_path, web):
    url, _ = web
    local = Benchmark(folder)
    (folder / MANIFEST).unlink()
    remote = Benchmark(f"{url}/bench/shard-{{000..002}}.tar", cache_dir=tmp_path / "cache")
    assert [remote.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    with pytest.raises(
        BenchmarkError, match=rf"^Expected {MANIFEST} at http://.*/bench/{MANIFEST}, but there is none\.$"
    ):
        Benchmark(f"{url}/bench", cache_dir=tmp_path / "cache")


# What can be chosen


def test_limits_are_nested_and_balanced(folder):
    whole = Benchmark(folder)
    before: set[str] = set()
    for limit in range(1, 10):
        part = whole.limit(limit)
        chosen = set(keys(part))
        assert before <= chosen
        before = chosen
        assert [item.index for item in part.items] == list(range(len(part)))
        assert keys(part) == sorted(chosen)  # the order of the benchmark
        count = Counter((item.ability, item.category) for item in part.items)
        assert count["colour", None] == min(limit, 8)
        assert abs(count["maths", "area"] - count["maths", "angle"]) <= 1
        assert count["maths", "area"] + count["maths", "angle"] == min(limit, 4)
        assert all(part.read(i).key == item.key for i, item in enumerate(part.items))
    assert before == set(keys(whole))


def test_a_limit_does_not_depend_on_the_other_items(tmp_path, samples, groups):
    def chosen(some) -> set[str]:
        write_shards(some, tmp_path / "out", name="n", groups=groups, overwrite=True)
        return set(keys(Benchmark(tmp_path / "out").limit(2).select(["colour"])))

    assert chosen(samples) == chosen(samples[::-1]) == chosen([one for one in samples if one.ability == "colour"])


def test_select_and_without(tmp_path, samples, groups):
    left_out = [
        Skipped("s-colour", "colour", Reason.INVALID, "x"),
        Skipped("s-maths", "maths", Reason.INVALID, "x", category="area"),
    ]
    write_shards([*samples, *left_out], tmp_path / "out", name="n", groups=groups)
    whole = Benchmark(tmp_path / "out")
    colour = whole.select(["colour"])
    assert colour.taxonomy.tree == {"perception": {"colour": []}}
    assert {item.ability for item in colour.items} == {"colour"}
    assert [one.key for one in colour.skipped] == ["s-colour"]
    assert whole.without(["maths"]).fingerprint == colour.fingerprint
    assert len(whole) == 12
    assert len(whole.skipped) == 2
    assert whole.limit(2).skipped == ()
    for choose in (whole.select, whole.without):
        with pytest.raises(ConfigError, match=r"Unknown ability 'smell': this benchmark has maths, colour\."):
            choose(["smell"])
        with pytest.raises(ConfigError, match="list of abilities"):
            choose("colour")
    with pytest.raises(ConfigError, match="at least one ability"):
        whole.without(["colour", "maths"])
    with pytest.raises(ConfigError, match="at least 1 item"):
        whole.limit(0)


# Bad input


def line_of(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_there_is_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for source, expected in [
        (tmp_path / "empty", r"Expected manifest\.json or \*\.tar shards in folder .*empty, but found neither"),
        (tmp_path / "absent", "there is no '.*absent'"),
        (tmp_path / "absent" / MANIFEST, r"Expected manifest\.json at .*absent.*, but there is none"),
        (tmp_path / "absent.tar", r"Expected a shard at .*absent\.tar, but there is none"),
        (tmp_path / "text.txt", "is another kind of file"),
        ([], "at least one shard in the list"),
        ([tmp_path / "x.tgz"], r"to end in \.tar"),
        (["a/x.tar", "b/x.tar"], "two of those given have the same"),
        ("http://127.0.0.1:1/bench", "Cannot read http://127"),
        ("nope://host/bench", "Cannot read nope://"),
        ("shard-{000..003.tar", "Expected braces that match|there is no"),
    ]:
        with pytest.raises(BenchmarkError, match=expected) as caught:
            Benchmark(source)
        line_of(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{", "but Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"\xff\xfe", "manifest of a benchmark, but"),
        (b"{}", "field format: Field required"),
        (b'{"format": "coco", "version": 1}', "format 'radar-benchmark', but got 'coco'"),
        (
            b'{"format": "radar-benchmark", "version": 2}',
            "version up to 1, but got 2: it was written by another release",
        ),
        (b'{"format": "radar-benchmark", "version": 1, "name": "n"}', "field licence: Field required"),
    ],
)
def test_a_bad_manifest(text, expected, folder):
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(BenchmarkError, match=expected) as caught:
        Benchmark(folder)
    assert str(folder / MANIFEST) in line_of(caught.value)


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda m: m["shards"][0].update(file="../x.tar"), r"field shards\.0\.file: .*got '\.\./x\.tar'"),
        (lambda m: m["shards"][0].update(bytes="7"), r"field shards\.0\.bytes: .*integer \(got '7'\)"),
        (lambda m: m["shards"][1]["items"][2].pop("crc32"), r"field shards\.1\.items\.2\.crc32: Field required"),
        (lambda m: m["shards"][1]["items"][2].update(candidates=[3]), r"field shards\.1\.items\.2\.candidates"),
        (lambda m: m["shards"][1].update(samples=3), "shard-001.tar: the manifest says 3 samples but lists 4 items"),
        (
            lambda m: m["shards"][1]["items"][2].update(ability="smell"),
            "ability 'smell' with category 'area' is not in the",
        ),
        (lambda m: m["shards"][1]["items"][2].update(key="item-00"), "lists this key twice"),
        (lambda m: m["shards"][1]["items"][2].update(offset=0), "overlap"),
        (lambda m: m["shards"][1]["items"][2].update(offset=7), "not multiples of 512"),
        (lambda m: m["shards"][1]["items"][3].update(size=51200), "up to byte"),
        (lambda m: m["shards"].append(m["shards"][0]), "lists this shard twice"),
        (lambda m: m.update(tree={}), "at least one ability"),
        (
            lambda m: m.update(skipped=[{"key": "item-00", "ability": None, "reason": "invalid", "detail": "x"}]),
            "once as skipped",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself(alter, expected, folder, edit):
    edit(alter)
    with pytest.raises(BenchmarkError, match=expected) as caught:
        Benchmark(folder)
    line_of(caught.value)


def test_a_shard_that_the_manifest_does_not_list(folder):
    shutil.copy(folder / "shard-000.tar", folder / "shard-009.tar")
    with pytest.raises(BenchmarkError, match=r"does not list shard-009\.tar"):
        Benchmark(folder / "shard-009.tar")


def test_a_missing_shard_is_said_at_once(folder):
    (folder / "shard-001.tar").unlink()
    with pytest.raises(BenchmarkError, match=r"Expected shard shard-001\.tar of the manifest at .*, but there is none"):
        Benchmark(folder)


def test_a_short_shard_costs_only_the_items_it_has_lost(folder, caplog):
    path = folder / "shard-001.tar"
    whole = Benchmark(folder)
    lost = whole.items[6]
    path.write_bytes(path.read_bytes()[: lost.offset + 700])
    short = Benchmark(folder)
    assert "shards verify" in caplog.text
    read, failed = [], []
    for i in range(12):
        try:
            read.append(short.read(i).key)
        except ItemError as error:
            assert error.reason is Reason.UNREADABLE
            assert f"shard-001.tar: item '{whole.items[i].key}': the shard ends after" in line_of(error)
            failed.append(whole.items[i].key)
    assert failed == ["item-06", "item-07"]
    assert len(read) == 10


def test_a_changed_byte_is_noticed(folder):
    benchmark = Benchmark(folder)
    item = benchmark.items[1]
    with (folder / item.shard).open("r+b") as file:
        file.seek(item.offset + 600)
        byte = file.read(1)[0]
        file.seek(item.offset + 600)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ItemError, match=r"shard-000\.tar: item 'item-01': .*crc32"):
        benchmark.read(1)
    assert benchmark.read(0).key == "item-00"


def test_a_shard_that_vanishes_after_opening(folder):
    benchmark = Benchmark(folder)
    (folder / "shard-002.tar").unlink()
    with pytest.raises(ItemError, match=r"shard-002\.tar: item 'item-08'"):
        benchmark.read(8)
