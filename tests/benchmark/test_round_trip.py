"""What is written comes back: through our reader, through byte ranges, and through plain webdataset."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from radar_callback.benchmark.manifest import MANIFEST
from radar_callback.benchmark.options import appearance
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.record import split_members, to_fields, to_sample
from radar_callback.benchmark.sample import Sample, Skipped
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, Reason

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
WORDS = TEXT.filter(appearance)
KEYS = st.from_regex(r"[A-Za-z0-9_#é-][A-Za-z0-9_ é-]{0,120}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT, lambda inner: st.lists(inner, max_size=3)
)


@st.composite
def any_samples(draw: st.DrawFn, image: bytes) -> list[Sample]:
    made = []
    for key in draw(st.lists(KEYS, unique=True, min_size=1, max_size=6)):
        answer, *distractors = draw(st.lists(WORDS, unique_by=appearance, min_size=2, max_size=5))
        count = draw(st.integers(0, 12))
        question = draw(TEXT.filter(lambda text: "<image>" not in text))
        if draw(st.booleans()):
            question += "<image> and " * count
        ability = draw(st.sampled_from(["colour", "maths"]))
        made.append(
            Sample(
                key=key,
                question=question,
                answer=answer,
                distractors=tuple(distractors),
                ability=ability,
                category=draw(st.sampled_from(["area", "Fläche"])) if ability == "maths" else None,
                images=(image,) * count,
                image_names=tuple(f"{i}.png" for i in range(count)),
                source=draw(TEXT),
                meta=draw(st.dictionaries(TEXT, JSON, max_size=3)),
            )
        )
    return made


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_gives_back_what_was_written(data, tmp_path_factory, image, groups):
    written = data.draw(any_samples(image()))
    out = tmp_path_factory.mktemp("bench") / "out"
    write_shards(written, out, name="any", groups=groups, max_samples=data.draw(st.integers(1, 4)))
    benchmark = Benchmark(out)
    assert [benchmark.read(i) for i in range(len(benchmark))] == written
    for item, one in zip(benchmark.items, written, strict=True):
        assert item.key == one.key
        assert item.image_sizes == ((7, 5),) * len(one.images)
        assert (item.n_images, item.question_chars) == (len(one.images), len(one.question))
        assert item.candidate_chars == tuple(map(len, one.candidates))


def test_the_same_samples_give_the_same_bytes(tmp_path, samples, groups):
    def digests(name: str) -> list[str]:
        write_shards(samples, tmp_path / name, name="bench", groups=groups, max_samples=5)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / name).iterdir())]

    assert digests("a") == digests("b")


def test_shards_hold_what_the_contract_says(folder):
    with tarfile.open(folder / "shard-000.tar") as tar:
        members = tar.getmembers()
        record = json.load(tar.extractfile("item-01.json"))
    assert [member.name for member in members][:5] == [
        "item-00.0.png",
        "item-00.json",
        "item-01.0.png",
        "item-01.1.jpg",
        "item-01.json",
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "radar", "radar")}
    assert record == {
        "question": "Question 1?",
        "answer": "red",
        "distractors": ["blue", "green"],
        "ability": "colour",
        "category": None,
        "images": ["0.png", "1.jpg"],
        "source": "test",
        "meta": {"id": "item-01"},
    }


def test_a_byte_range_holds_what_plain_webdataset_streams(folder):
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    streamed = list(wds.WebDataset(shards, shardshuffle=False, nodesplitter=None))
    benchmark = Benchmark(folder)
    assert [one["__key__"] for one in streamed] == [item.key for item in benchmark.items]
    for one, item in zip(streamed, benchmark.items, strict=True):
        with (folder / item.shard).open("rb") as file:
            file.seek(item.offset)
            fields = split_members(file.read(item.size), item.key, "here")
        assert fields == {name: data for name, data in one.items() if not name.startswith("__")}


def test_twelve_images_keep_their_order(tmp_path, sample, image, groups):
    images = tuple(image((i, i, i)) for i in range(12))
    names = tuple(f"{i}.png" for i in range(12))
    write_shards([sample(images=images, image_names=names)], tmp_path / "out", name="n", groups=groups)
    read = Benchmark(tmp_path / "out").read(0)
    assert read.images == images
    assert read.image_names == names


def test_reading_in_forked_processes_and_after_pickling(folder):
    benchmark = Benchmark(folder)
    here = [benchmark.read(i) for i in range(12)]  # descriptors are open when the others start
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(benchmark.read, range(12)) == here
    copy = pickle.loads(pickle.dumps(benchmark))
    assert [copy.read(i) for i in range(12)] == here
    assert copy.fingerprint == benchmark.fingerprint
    del copy
    gc.collect()
    assert benchmark.read(0) == here[0]  # the copy has closed its own descriptors, not these


def test_a_fixed_fingerprint_for_fixed_content(folder, tmp_path, samples, groups):
    def fingerprint(changed: list, size: int) -> str:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_shards(changed, out, name="bench", groups=groups, max_samples=size)
        return Benchmark(out).fingerprint

    first = Benchmark(folder).fingerprint
    assert fingerprint(samples, 7) == first
    assert fingerprint(samples[1:], 4) != first
    assert fingerprint([*samples[1:], samples[0]], 4) != first
    assert Benchmark(folder).limit(1).fingerprint != first
    assert Benchmark(folder).select(["colour"]).fingerprint != first


def test_skipped_items_are_kept_apart_from_the_others(tmp_path, sample, groups):
    left_out = Skipped("two", "maths", Reason.TOO_MANY_IMAGES, "13 images", "area", {"id": 2, "x": None})
    write_shards([sample("one"), left_out], tmp_path / "out", name="n", groups=groups)
    benchmark = Benchmark(tmp_path / "out")
    assert len(benchmark) == 1
    assert list(benchmark.skipped) == [left_out]
    assert benchmark.taxonomy.cells == (("colour", None), ("maths", "area"))


def test_a_shard_is_closed_at_its_size(tmp_path, samples, groups):
    manifest = write_shards(samples, tmp_path / "out", name="n", groups=groups, max_bytes=15_000)
    assert len(manifest.shards) > 1
    assert sum(shard.samples for shard in manifest.shards) == 12
    assert all(shard.bytes < 30_000 for shard in manifest.shards)


@pytest.mark.parametrize("broken", ["answer", "image", "group", "twice", "none", "name", "surrogate", "meta"])
def test_nothing_is_left_behind_when_an_item_is_bad(broken, tmp_path, sample, groups):
    def stream():
        yield sample("one")
        if broken == "answer":
            yield sample("two", answer="blue")
        if broken == "image":
            yield sample("two", images=(b"<html>not found</html>",))
        if broken == "group":
            yield sample("two", ability="smell")
        if broken == "twice":
            yield sample("one")
        if broken == "name":
            yield sample("two", image_names=("picture.PNG",))
        if broken == "surrogate":
            yield sample("two", question="\ud800")
        if broken == "meta":
            yield sample("two", meta={"id": float("nan")})

    expected = {
        "answer": "has its answer 'blue' among them",
        "image": "two: 0.png is not an image",
        "group": "a group for ability 'smell' of item 'two'",
        "twice": "'one' comes twice",
        "none": "at least one item",
        "name": "field images.0",
        "surrogate": "'two'",
        "meta": "'two'",
    }[broken]
    with pytest.raises(BenchmarkError, match=expected) as caught:
        write_shards([] if broken == "none" else stream(), tmp_path / "out", name="n", groups=groups)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_image_is_refused_when_the_shard_is_built(tmp_path, sample, image, groups):
    cut = image(size=(60, 60), format="JPEG")[:-200]
    with pytest.raises(BenchmarkError, match=r"one: 0\.jpg is not an image"):
        write_shards([sample(images=(cut,), image_names=("0.jpg",))], tmp_path / "out", name="n", groups=groups)


def test_what_is_in_the_way(tmp_path, folder, samples, groups):
    def write(out: Path, overwrite: bool = True) -> None:
        write_shards(samples[:1], out, name="n", groups=groups, overwrite=overwrite)

    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BenchmarkError, match="is something else"):
        write(file)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(BenchmarkError, match=r"thesis\.tex"):
        write(other)
    with pytest.raises(BenchmarkError, match="--overwrite"):
        write(folder, overwrite=False)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(BenchmarkError, match=r"notes\.txt"):
        write(folder)
    (folder / "notes.txt").unlink()
    assert len(Benchmark(folder)) == 12
    write(folder)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "shard-000.tar"]
    assert not list(tmp_path.glob(".*"))


def test_an_error_leaves_the_old_benchmark(folder, sample, groups):
    before = Benchmark(folder).fingerprint
    with pytest.raises(BenchmarkError):
        write_shards([sample("a"), sample("a")], folder, name="n", groups=groups, overwrite=True)
    assert Benchmark(folder).fingerprint == before


def test_fields_and_back(sample):
    one = sample(category="x")
    assert to_sample(to_fields(one), one.key, "here") == one


def test_a_big_image_is_refused_unopened(tmp_path, sample, groups):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with pytest.raises(BenchmarkError, match="9000x9000"):
        write_shards([sample(images=(buffer.getvalue(),))], tmp_path / "out", name="n", groups=groups)
