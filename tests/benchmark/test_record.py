"""Slices of a tar file that must not be believed."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.record import split_members, to_fields, to_sample
from radar_callback.errors import BenchmarkError, ItemError, Reason


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([special("one.json", tarfile.SYMTYPE, "/etc/passwd")], "link, folder or special file"),
        ([special("one.json", tarfile.LNKTYPE, "two.json")], "link, folder or special file"),
        ([special("one.fifo", tarfile.FIFOTYPE)], "link, folder or special file"),
        ([("/one.json", b"")], "not named KEY.FIELD"),
        ([("../one.json", b"")], "not named KEY.FIELD"),
        ([("..", b"")], "not named KEY.FIELD"),
        ([("one", b"")], "not named KEY.FIELD"),
        ([("a/../one.json", b"")], "not named KEY.FIELD"),
        ([("a/one.json", b"")], "belongs to another item"),
        ([("two.json", b"")], "belongs to another item"),
        ([("one.json", b"{}"), ("one.json", b"{}")], "comes twice"),
    ],
)
def test_unsafe_members(members, expected, tmp_path):
    data = tar_of(*members)
    with pytest.raises(ItemError, match=expected) as caught:
        split_members(data, "one", "here")
    assert caught.value.reason is Reason.UNREADABLE
    assert caught.value.detail.startswith("here: ")
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(BenchmarkError):
        Benchmark(tmp_path)


def test_no_tar_at_all():
    for data in (b"", b"x" * 1024, b"\0" * 1024, tar_of(("one.json", b"x" * 5000))[:3000]):
        with pytest.raises(ItemError) as caught:
            to_sample(split_members(data, "one", "here"), "one", "here")
        assert caught.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r.pop("answer"), "field answer: Field required"),
        (lambda r: r.update(answer=7), r"field answer: .*string \(got 7\)"),
        (lambda r: r.update(distractors="blue"), "field distractors"),
        (lambda r: r.update(distractors=[]), "at least one distractor"),
        (lambda r: r.update(distractors=["red"]), "answer 'red' among them"),
        (lambda r: r.update(distractors=["blue", "blue"]), "repeats one"),
        (lambda r: r.update(images=["../0.png"]), r"field images\.0"),
        (lambda r: r.update(question="<image> <image>"), "2 marks for 1 images"),
    ],
)
def test_json_that_is_no_item(change, expected, sample):
    fields = to_fields(sample())
    record = json.loads(fields["json"])
    change(record)
    with pytest.raises(ItemError, match=expected) as caught:
        to_sample({**fields, "json": json.dumps(record).encode()}, "one", "here")
    assert caught.value.reason is Reason.UNREADABLE
    assert "\n" not in str(caught.value)


def test_parts_that_are_missing(sample):
    fields = to_fields(sample())
    with pytest.raises(ItemError, match=r"image one\.0\.png is missing") as caught:
        to_sample({"json": fields["json"]}, "one", "here")
    assert caught.value.reason is Reason.BAD_IMAGE
    with pytest.raises(ItemError, match=r"one\.json is missing"):
        to_sample({"0.png": b""}, "one", "here")
    with pytest.raises(ItemError, match="Invalid JSON"):
        to_sample({**fields, "json": b"{"}, "one", "here")


def test_shards_of_others_that_cannot_be_indexed(tmp_path, sample):
    one, two = to_fields(sample("one")), to_fields(sample("two"))
    split = [("one.json", one["json"]), ("two.json", two["json"]), ("one.0.png", one["0.png"])]
    (tmp_path / "x.tar").write_bytes(tar_of(*split))
    with pytest.raises(BenchmarkError, match="do not lie side by side"):
        Benchmark(tmp_path)
    (tmp_path / "x.tar").write_bytes(tar_of(("one.0.jpg", one["0.png"]), ("one.cls", b"3")))
    with pytest.raises(BenchmarkError, match=r"x\.tar: one: member one\.json is missing"):
        Benchmark(tmp_path)
    assert not (tmp_path / MANIFEST).exists()
