"""Secrets of URLs are shown nowhere; signed URLs work; what changed on a server or on this disk is noticed."""

from __future__ import annotations

import functools
import http.server
import logging
import os
import shutil
import threading
import traceback
from collections import Counter

import pytest

from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.places import file_name, identity, join, parent, redacted, shown
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.verify import verify
from radar_callback.benchmark.writer import write_shards
from radar_callback.cli import main
from radar_callback.errors import BenchmarkError, ItemError

SECRET = "s3cr3t%2Fpa55"
SPELLINGS = ("s3cr3t%2Fpa55", "s3cr3t/pa55", "s3cr3t", "pa55")


def leaks(text: str) -> list[str]:
    return [spelling for spelling in SPELLINGS if spelling.lower() in text.lower()]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://host/bench/a.tar", "https://host/bench/a.tar"),
        ("path/to/a.tar", "path/to/a.tar"),
        ("hf://datasets/me/bench@main/a.tar", "hf://datasets/me/bench@main/a.tar"),
        (f"http://user:{SECRET}@host:8000/b", "http://***@host:8000/b"),
        (f"http://{SECRET}@host/b", "http://***@host/b"),
        (f"https://host/b?sig={SECRET}&x=1", "https://host/b?***"),
        (f"https://host/b#{SECRET}", "https://host/b#***"),
        (f"s3://key:{SECRET}@bucket/b", "s3://***@bucket/b"),
        (f"simplecache::http://user:{SECRET}@host/b?x={SECRET}", "simplecache::http://***@host/b?***"),
        (f"zip://in::https://host/b.zip?sig={SECRET}", "zip://in::https://host/b.zip?***"),
        ("http://user:s3cr3t/pa55@host/b", "http://***"),
        ("http://user:s3cr3t#pa55@host/b", "http://***"),
        ("http://user:s3cr3t::pa55@host/b", "http://***"),
        (f"http:/user:{SECRET}@host/b", "http:/***@host/b"),
        (f"user:{SECRET}@host/b", "***@host/b"),
    ],
)
def test_places_are_shown_without_secrets(place, expected):
    text = shown(place)
    assert not leaks(text)
    assert text == expected or text.endswith("@host/b"), text
    assert not leaks(redacted(f"Cannot connect to {place}, sorry", place))
    assert not leaks(redacted(f"url='{place}'"))


def test_places_are_taken_apart_and_joined_with_their_query():
    place = "https://u:p@host/bench/a.tar?sig=4f%2B"
    assert file_name(place) == "a.tar"
    assert parent(place) == "https://u:p@host/bench?sig=4f%2B"
    assert join(parent(place), MANIFEST) == "https://u:p@host/bench/manifest.json?sig=4f%2B"
    assert file_name("https://u:p@host") == ""
    assert identity(place) == identity("https://host/bench/a.tar?sig=other") != identity("https://host/bench/b.tar")


@pytest.fixture
def site(tmp_path, samples, groups):
    """A server that wants a signature, if told to, and can be told to know nothing of HEAD."""
    write_shards(samples, tmp_path / "site" / "bench", name="bench", groups=groups, max_samples=4)
    asked: Counter[str] = Counter()
    rules = {"query": "", "head": True}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[f"GET {self.path.partition('?')[0]}"] += 1
            if rules["query"] not in self.path:
                self.send_error(403)
            else:
                super().do_GET()

        def do_HEAD(self):
            asked["HEAD"] += 1
            if rules["head"]:
                super().do_HEAD()
            else:
                self.send_error(405)

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/bench", tmp_path / "site" / "bench", asked, rules
        server.shutdown()


FORMS = ["{b}?{q}", "{b}/?{q}", "{b}/manifest.json?{q}", "{b}/shard-{{000..002}}.tar?{q}", "simplecache::{b}?{q}"]


def test_a_signed_url_opens_in_every_form_and_its_renewal_fetches_nothing(site, tmp_path):
    url, folder, asked, rules = site
    local = Benchmark(folder)
    for number, form in enumerate(FORMS):
        rules["query"] = query = f"sig={SECRET}{number}"
        signed = Benchmark(form.format(b=url, q=query), cache_dir=tmp_path / "cache")
        assert [signed.read(i) for i in range(12)] == [local.read(i) for i in range(12)]
    assert {name: n for name, n in asked.items() if name.endswith(".tar")} == {
        f"GET /bench/shard-00{i}.tar": 1 for i in range(3)
    }
    assert not any(
        leaks(path.name) or leaks(path.read_text(errors="replace")) for path in (tmp_path / "cache").iterdir()
    )


def test_no_error_repeats_the_secret(site, tmp_path, caplog):
    url, _, _, rules = site
    caplog.set_level(logging.DEBUG)
    rules["query"] = "never"
    for source in (
        f"{url}?sig={SECRET}",
        url.replace("http://", f"http://user:{SECRET}@"),
        f"nope://user:{SECRET}@h/b",
    ):
        with pytest.raises(BenchmarkError) as caught:
            Benchmark(source, cache_dir=tmp_path / "cache")
        assert caught.value.__cause__ is None and caught.value.__context__ is None
        assert not leaks("".join(traceback.format_exception(caught.value)))
    assert not leaks(caplog.text)


def test_the_command_line_repeats_no_secret(capsys, site, tmp_path):
    url, _, _, rules = site
    rules["query"] = "never"
    for words in (
        ["shards", "verify", f"{url}?sig={SECRET}"],
        ["shards", "inspect", f"http:/user:{SECRET}@host/b"],
        ["shards", "inspect", "radar-mini", f"http://user:{SECRET}@host/b"],
        ["report", f"http://user:{SECRET}@host/b", "--html", str(tmp_path / "x.html")],
    ):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert not leaks(out + err), out + err


def test_shards_at_the_root_of_a_server_are_not_named_by_it(site, tmp_path):
    url, folder, _, _ = site
    shutil.copy(folder / "shard-000.tar", folder.parent / "first.tar")
    root = url.removesuffix("/bench").replace("http://", "http://user:word@")
    opened = Benchmark(f"{root}/first.tar", cache_dir=tmp_path / "cache")
    assert opened.name == "first"
    assert "word" not in repr(opened)


@pytest.mark.parametrize("head", [True, False])
def test_a_replaced_shard_without_a_manifest_is_noticed(head, site, tmp_path, samples, groups):
    url, folder, asked, rules = site
    rules["head"] = head
    (folder / MANIFEST).unlink()
    shard, cache = folder / "shard-000.tar", tmp_path / "cache"
    os.utime(shard, (1_600_000_000, 1_600_000_000))
    place = f"{url}/shard-000.tar"
    first = Benchmark(place, cache_dir=cache)
    assert first.read(0).key == "item-00"
    assert asked[f"GET /bench/{shard.name}"] == 1  # indexed and read from one fetch
    Benchmark(place, cache_dir=cache).read(0)
    assert asked[f"GET /bench/{shard.name}"] == (1 if head else 2)  # the second answers that nothing changed
    data = shard.read_bytes().replace(b"Question 0?", b"Question X?")
    shard.write_bytes(data)
    os.utime(shard, (1_600_000_100, 1_600_000_100))
    assert Benchmark(place, cache_dir=cache).read(0).question == "Question X?"
    shard.write_bytes(data.replace(b"Question X?", b"Question Y?"))  # just now, told in whole seconds
    assert Benchmark(place, cache_dir=cache).read(0).question == "Question Y?"
    shard.write_bytes(data.replace(b"Question X?", b"Question Z?"))
    assert Benchmark(place, cache_dir=cache).read(0).question == "Question Z?"


def test_a_kept_shard_damaged_at_the_same_size_is_fetched_again_once(site, tmp_path, caplog):
    url, _, asked, _ = site
    cache = tmp_path / "cache"
    whole = [Benchmark(url, cache_dir=cache).read(i) for i in range(12)]

    def damage() -> None:
        for path in cache.glob("*.tar"):
            path.write_bytes(bytes(path.stat().st_size))

    damage()
    again = Benchmark(url, cache_dir=cache)
    assert [again.read(i) for i in range(12)] == whole
    said = [record.getMessage() for record in caplog.records if "was damaged" in record.getMessage()]
    assert len(said) == 3 and all(f"{url}/shard-00{i}.tar" in line for i, line in enumerate(said))
    assert asked["GET /bench/shard-000.tar"] == 2
    for descriptor in list(again._shards._open.values()):
        os.close(descriptor)
    again._shards._open.clear()
    damage()
    with pytest.raises(ItemError, match="crc32 differs"):
        again.read(0)  # once only
    assert asked["GET /bench/shard-000.tar"] == 2
    assert verify(url, cache_dir=cache) == []
