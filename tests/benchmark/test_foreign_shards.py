"""Shards of webdataset's own writer and of `tar`: they open with the same items, or one line says what to do."""

from __future__ import annotations

import io
import json
import tarfile
import zlib

import pytest
import webdataset

from radar_callback.benchmark import shard_cache
from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.record import to_fields
from radar_callback.benchmark.verify import verify
from radar_callback.cli import main
from radar_callback.errors import BenchmarkError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADAR_CALLBACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def items(samples, groups):
    return [(s.key, {**to_fields(s), "json": _with_group(s, groups)}) for s in samples]


def _with_group(sample, groups) -> bytes:
    return json.dumps({**json.loads(to_fields(sample)["json"]), "group": groups[sample.ability]}).encode()


def renamed(fields, old: str, new: str) -> dict:
    record = json.loads(fields["json"])
    record["images"] = [new if name == old else name for name in record["images"]]
    return {**{new if name == old else name: data for name, data in fields.items()}, "json": record}


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda key, fields: {"__key__": key, **fields}, {}),
        (lambda key, fields: {"__key__": f"train/{key}", **fields}, {}),
        (lambda key, fields: {"__key__": key, **renamed(fields, "0.png", "png")}, {}),
        (lambda key, fields: {"__key__": key, **renamed(fields, "0.png", "0.PNG")}, {}),
        (lambda key, fields: {"__key__": key, **fields, "txt": "x", "cls": 1}, {}),
        (lambda key, fields: {"__key__": key, **fields}, {"compress": True}),
    ],
)
def test_what_a_shard_writer_writes(change, options, items, samples, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxcount=5, verbose=0, **options) as writer:
        for key, fields in items:
            writer.write(change(key, fields))
    for _ in range(2):
        opened = Benchmark(folder)
        found = [opened.read(i) for i in range(len(opened))]
        assert [(s.question, s.candidates, s.images) for s in found] == [
            (s.question, s.candidates, s.images) for s in samples
        ]
        assert sorted(opened.taxonomy.groups) == ["perception", "reasoning"]
        assert verify(folder) == []
        if not (folder / MANIFEST).exists():
            assert main(["shards", "index", str(folder), "--name", "mine", "--licence", "CC0"]) == 0
    assert (opened.name, opened.licence) == ("mine", "CC0")


def pack(path, members) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_what_tar_writes(items, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    members = [(f"./{key}.{name}", data) for key, fields in items for name, data in sorted(fields.items())]
    hidden = [("./._item-00.json", b"macOS")]
    pack(folder / "s.tar", [("./", None), *members[:1], *hidden, *members[1:]])
    opened = Benchmark(folder)
    assert [opened.read(i).key for i in range(12)] == [key for key, _ in items]
    assert verify(folder) == []
    pack(folder / "s.tar", sorted(members, key=lambda member: zlib.crc32(member[0].encode())))
    with pytest.raises(BenchmarkError, match="tar --sort=name"):
        Benchmark(folder)


def test_a_key_in_two_shards_is_blamed_on_them(items, tmp_path):
    members = [(f"{key}.{name}", data) for key, fields in items for name, data in fields.items()]
    pack(tmp_path / "a.tar", members)
    pack(tmp_path / "b.tar", members)
    with pytest.raises(BenchmarkError, match=r"'item-00' is in a\.tar and in b\.tar") as caught:
        Benchmark(tmp_path)
    assert "manifest" not in str(caught.value)


def test_index_chooses_groups_and_keeps_what_is_there(folder, capsys):
    assert main(["shards", "index", str(folder)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    words = ["shards", "index", str(folder), "--overwrite"]
    assert main([*words, "--groups", "one=colour", "--groups", "two=maths"]) == 0
    assert Benchmark(folder).taxonomy.tree == {"two": {"maths": ["area", "angle"]}, "one": {"colour": []}}
    assert main([*words, "--groups", "one=smell"]) == 2
    assert "(colour, maths) in --groups, but got 'smell'" in capsys.readouterr().err
    assert main([*words, "--groups", "smell"]) == 2
    assert verify(folder) == []


def test_a_shard_without_a_manifest_is_decoded_once_on_a_machine(folder, monkeypatch):
    (folder / MANIFEST).unlink()
    first = Benchmark(folder)
    monkeypatch.setattr(shard_cache, "index_shard", None)
    assert Benchmark(folder).items == first.items
