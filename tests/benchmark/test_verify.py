"""Every damage is found, wherever it is done."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile

import pytest

from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.verify import verify
from radar_callback.errors import BenchmarkError
from tests.helpers import tiny


def lines(folder) -> list[str]:
    found = [str(damage) for damage in verify(folder)]
    assert not any("\n" in line for line in found)
    return found


@pytest.fixture
def edit(folder):
    def change(alter) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        alter(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return change


@pytest.fixture
def believe(folder, edit):
    """Makes the manifest agree with a changed shard in size and checksum, so that only what is inside gives it away."""

    def change(name: str) -> None:
        data = (folder / name).read_bytes()

        def alter(manifest) -> None:
            for shard in manifest["shards"]:
                if shard["file"] == name:
                    shard.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

        edit(alter)

    return change


def test_a_whole_benchmark(folder):
    assert lines(folder) == []
    assert lines(str(folder / "shard-{000..001}.tar")) == []
    (folder / MANIFEST).unlink()
    assert lines(folder) == []


def test_a_cut_anywhere(folder, believe):
    """Also inside a tar header, where tarfile and webdataset see only a shorter file."""
    path = folder / "shard-001.tar"
    whole = path.read_bytes()
    for end in [0, 1, 511, 512, *range(600, len(whole), 997), len(whole) - 1024, len(whole) - 1]:
        path.write_bytes(whole[:end])
        found = lines(folder)
        assert f"shard-001.tar: has {end} bytes where the manifest says {len(whole)}" in found
        assert "shard-001.tar: is not the file the manifest describes: its sha256 differs" in found
    # Zero blocks after the end are padding: a cut within them loses no item, but only up to a point.
    last = max(item.offset + item.size for item in Benchmark(folder).items if item.shard == path.name)
    for end in [0, 512, last - 512, last - 100, last, last + 512, last + 1023]:
        path.write_bytes(whole[:end])
        believe(path.name)
        assert lines(folder), f"cut at {end} of {last}"


def test_a_flipped_bit_anywhere(folder, believe):
    path = folder / "shard-000.tar"
    whole = path.read_bytes()
    rng = random.Random(0)
    last = max(item.offset + item.size for item in Benchmark(folder).items if item.shard == path.name)
    for position in sorted(rng.sample(range(last), 60)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert "shard-000.tar: is not the file the manifest describes: its sha256 differs" in lines(folder)
        believe(path.name)
        key = next(i.key for i in Benchmark(folder).items if i.offset <= position < i.offset + i.size)
        assert any(f"item '{key}'" in line and "crc32" in line for line in lines(folder)), position


def test_every_damage_is_listed_not_only_the_first(folder):
    benchmark = Benchmark(folder)
    for index in (1, 3, 9):
        item = benchmark.items[index]
        with (folder / item.shard).open("r+b") as file:
            file.seek(item.offset + 530)
            file.write(b"\xff\xff\xff")
    (folder / "shard-001.tar").unlink()
    shutil.copy(folder / "shard-000.tar", folder / "old.tar")
    found = lines(folder)
    assert [line for line in found if "crc32" in line] == [
        f"shard-00{shard}.tar: item 'item-0{i}': its bytes are not those that were written: crc32 differs"
        for shard, i in [(0, 1), (0, 3), (2, 9)]
    ]
    assert any("shard-001.tar: expected a file at" in line for line in found)
    assert "old.tar: lies beside the manifest, which does not list it" in found


def rewrite(path, change) -> None:
    """Writes a shard anew with members changed: `change(name, data)` gives `[(name or TarInfo, data)]`."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            for new, contents in change(name, data):
                info = new if isinstance(new, tarfile.TarInfo) else tarfile.TarInfo(new)
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda n, d: [] if n == "item-01.1.jpg" else [(n, d)], "item 'item-01': image item-01.1.jpg is missing"),
        (lambda n, d: [] if n == "item-01.json" else [(n, d)], "item 'item-01': member item-01.json is missing"),
        (
            lambda n, d: [] if n.startswith("item-01") else [(n, d)],
            "item 'item-01': the manifest lists it, but it is not",
        ),
        (
            lambda n, d: [(n, d), (n.replace("01", "77"), d)] if n == "item-01.json" else [(n, d)],
            "item 'item-77': is in the shard, but the manifest does not list it",
        ),
        (
            lambda n, d: [(n, d), ("item-01.2.png", d)] if n == "item-01.json" else [(n, d)],
            "item 'item-01': member item-01.2.png belongs to no image",
        ),
        (lambda n, d: [(n, d[:40] if n.endswith("01.1.jpg") else d)], "item 'item-01': 1.jpg is not an image"),
        (lambda n, d: [(n, b"{" if n == "item-01.json" else d)], "item 'item-01': item-01.json: Invalid JSON"),
        (
            lambda n, d: [(n, d.replace(b'"colour"', b'"smells"') if n == "item-01.json" else d)],
            "item 'item-01': its ability is 'smells' where the manifest says 'colour'",
        ),
        (
            lambda n, d: [(n, d.replace(b'"red"', b'"reddish"') if n == "item-01.json" else d)],
            "item 'item-01': its list of candidate lengths is [7, 4, 5] where the manifest says [3, 4, 5]",
        ),
        (lambda n, d: [(n, d), (n, d)] if n == "item-01.json" else [(n, d)], "member 'item-01.json' comes twice"),
        (
            lambda n, d: [("../evil.json", b""), (n, d)] if n == "item-01.json" else [(n, d)],
            "'../evil.json' is not named",
        ),
        (lambda n, d: [(link("evil.json"), b""), (n, d)] if n == "item-02.json" else [(n, d)], "'evil.json' is a link"),
        (
            lambda n, d: [("item-00.x", b""), (n, d)] if n == "item-02.json" else [(n, d)],
            "'item-00' do not lie side by",
        ),
    ],
)
def test_a_shard_that_was_written_by_someone_else(change, expected, folder, believe):
    rewrite(folder / "shard-000.tar", change)
    believe("shard-000.tar")
    found = lines(folder)
    assert any(expected in line for line in found), found


def test_an_item_in_two_shards(folder, edit):
    data = (folder / "shard-000.tar").read_bytes()
    (folder / "shard-001.tar").write_bytes(data)

    def alter(manifest) -> None:
        manifest["shards"][1] = {**manifest["shards"][0], "file": "shard-001.tar"}

    edit(alter)
    found = lines(folder)
    assert "shard-001.tar: item 'item-00': also lies in shard-000.tar" in found
    assert "shard-001.tar: item 'item-00': the manifest lists this key twice" in found


@pytest.mark.parametrize(
    ("alter", "expected"),
    [
        (lambda m: m["shards"][0].update(samples=9), "says 9 samples but lists 4 items"),
        (lambda m: m["shards"][0]["items"][1].update(crc32=1), "item 'item-01': its bytes"),
        (lambda m: m["shards"][0]["items"][1].update(size=512), "item 'item-01': lies at byte"),
        (lambda m: m["shards"][0]["items"][3].update(size=2**50), "item 'item-03': the shard ends before byte"),
        (lambda m: m["shards"][0]["items"][1].update(images=[[7, 5]]), "its list of image sizes is [(7, 5), (9, 4)]"),
        (lambda m: m["shards"][0]["items"][1].update(ability="maths"), "'maths' is not in the manifest's tree"),
        (lambda m: m["shards"][0]["items"].pop(), "item 'item-03': is in the shard, but the manifest does not list it"),
        (lambda m: m["shards"].pop(), "shard-002.tar: lies beside the manifest, which does not list it"),
        (lambda m: m.update(tree={"a": {"a": []}}), "manifest.json: Expected every group and ability to have a name"),
    ],
)
def test_a_manifest_that_disagrees(alter, expected, folder, edit):
    edit(alter)
    found = lines(folder)
    assert any(expected in line for line in found), found


def test_nothing_to_verify(tmp_path):
    with pytest.raises(BenchmarkError, match="there is no"):
        verify(tmp_path / "absent")


def test_damaged_shards_without_a_manifest(folder):
    (folder / MANIFEST).unlink()
    rewrite(folder / "shard-000.tar", lambda n, d: [] if n == "item-01.1.jpg" else [(n, d)])
    path = folder / "shard-001.tar"
    path.write_bytes(path.read_bytes()[:4000])
    (folder / "shard-003.tar").write_bytes((folder / "shard-002.tar").read_bytes())
    found = lines(folder)
    assert found[0] == "shard-000.tar: item 'item-01': image item-01.1.jpg is missing"
    assert any(line.startswith("shard-001.tar: not a whole tar file") for line in found)
    assert [line for line in found if line.startswith("shard-003.tar")] == [
        f"shard-003.tar: item 'item-{i:02d}': also lies in shard-002.tar" for i in range(8, 12)
    ]


def test_a_damaged_header_is_not_the_end_of_the_shard(folder):
    """tarfile stops there and says nothing; the items after it would be missing from an index."""
    path = folder / "shard-000.tar"
    item = Benchmark(folder).items[2]
    data = bytearray(path.read_bytes())
    data[item.offset] ^= 1
    path.write_bytes(data)
    (folder / MANIFEST).unlink()
    assert lines(folder)[0].startswith(f"shard-000.tar: damaged at byte {item.offset}: expected a tar header")
    with pytest.raises(BenchmarkError, match=r"Expected shard-000\.tar to be a whole shard, but it is damaged at byte"):
        Benchmark(folder)


def test_a_broken_header_hides_no_items_that_can_still_be_read(tmp_path):
    folder = tiny.benchmark(tmp_path / "bench", n=9)
    items = Benchmark(folder).items
    shard = folder / items[0].shard
    data = bytearray(shard.read_bytes())
    data[items[1].offset + 150] ^= 0xFF  # in the checksum of a header
    shard.write_bytes(bytes(data))
    damages = verify(str(folder))
    assert {damage.key for damage in damages if damage.key} == {items[1].key}
    assert any(damage.key is None for damage in damages)
