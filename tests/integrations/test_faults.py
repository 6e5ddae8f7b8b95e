"""What goes wrong with shards while a run trains: training is the run it would have been, the numbers are those of the items that
can be read, and the loss is reported by reason."""

import io
import json
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from radar_callback import Benchmark, RadarCallback
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError
from radar_callback.scoring.shelf import Shelf
from tests.helpers import tiny
from tests.helpers.training import PreTraining

N = 12
VICTIM = 4
"""The item that is damaged; it has an image."""


def build(folder):
    write_shards(tiny.samples(N, seed=3), folder, name="tiny", groups=tiny.GROUPS, max_samples=5)
    return folder


def fit(folder, root, make=PreTraining, **arguments):
    """A short run; what it evaluated, and its losses and weights."""
    callback = RadarCallback(folder, every_n_steps=2, **arguments) if folder else None
    seed_everything(1, verbose=False)
    module = make()
    Trainer(
        max_steps=4, callbacks=[callback] if callback else [], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root, accelerator="cpu", devices=1,
    ).fit(module)  # fmt: skip
    assert module.global_step == 4, "training did not finish"
    return callback, module


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    _, module = fit(None, tmp_path_factory.mktemp("alone"))
    return module


def assert_untouched(module, alone):
    assert module.losses == alone.losses
    for name, value in module.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name


def place(folder, index=VICTIM):
    """The shard of an item and the bytes it has there."""
    item = Benchmark(folder).items[index]
    return Path(folder) / item.shard, item


def tamper(folder, edit):
    """Changes an item's bytes and says so in the manifest: damage that no checksum finds, since it was there from the start."""
    shard, item = place(folder)
    data = bytearray(shard.read_bytes())
    part = edit(bytes(data[item.offset : item.offset + item.size]))
    assert len(part) == item.size
    data[item.offset : item.offset + item.size] = part
    shard.write_bytes(bytes(data))
    path = Path(folder) / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["shards"]:
        for row in entry["items"]:
            if row["key"] == item.key:
                row["crc32"] = zlib.crc32(part)
    path.write_text(json.dumps(manifest))


def members(part):
    with tarfile.open(fileobj=io.BytesIO(part)) as archive:
        return {member.name: (member.offset, member.offset_data, member.size) for member in archive}


def in_json(old, new):
    def edit(part):
        assert part.count(old) >= 1 and len(old) == len(new)
        return part.replace(old, new, 1)

    return edit


def in_image(change):
    def edit(part):
        _, begin, size = next(entry for name, entry in members(part).items() if not name.endswith(".json"))
        image = change(part[begin : begin + size])
        assert len(image) == size
        return part[:begin] + image + part[begin + size :]

    return edit


def in_header(change):
    """Changes the tar header of the image, with a checksum that fits."""

    def edit(part):
        header, _, _ = next(entry for name, entry in members(part).items() if not name.endswith(".json"))
        raw = bytearray(part[header : header + 512])
        change(raw)
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw)
        return part[:header] + bytes(raw) + part[header + 512 :]

    return edit


def named(name):
    def change(raw):
        raw[:100] = name.encode().ljust(100, b"\0")

    return in_header(change)


def linked(raw):
    raw[156:157] = b"2"
    raw[157:257] = b"/etc/passwd".ljust(100, b"\0")


def bomb(image):
    """The header of a PNG of a thousand million pixels."""
    assert image[12:16] == b"IHDR"
    head = b"IHDR" + struct.pack(">II", 40_000, 25_000) + image[24:29]
    return image[:12] + head + struct.pack(">I", zlib.crc32(head)) + image[33:]


DAMAGED_ITEM = {
    "bad JSON": (in_json(b'"question"', b"'question'"), "unreadable"),
    "a schema error": (in_json(b'"question"', b'"questiom"'), "unreadable"),
    "a missing image": (named("another.0.png"), "unreadable"),
    "an image that ends half way": (
        in_image(lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2)),
        "bad_image",
    ),
    "not an image": (in_image(lambda data: b"<html>".ljust(len(data))), "bad_image"),
    "a decompression bomb": (in_image(bomb), "bad_image"),
    "a name that climbs out": (named("../../escaped.0.png"), "unreadable"),
    "an absolute name": (named("/tmp/escaped.0.png"), "unreadable"),
    "a link": (in_header(linked), "unreadable"),
}


@pytest.mark.parametrize("fault", DAMAGED_ITEM)
def test_a_damaged_item_costs_that_item(fault, tmp_path, alone):
    edit, reason = DAMAGED_ITEM[fault]
    whole, _ = fit(build(tmp_path / "whole"), tmp_path / "a")
    tamper(build(tmp_path / "shards"), edit)
    callback, module = fit(tmp_path / "shards", tmp_path / "b")
    assert_untouched(module, alone)
    victim = Benchmark(tmp_path / "whole").items[VICTIM]
    for record, intact in zip(callback.records, whole.records, strict=True):
        assert record["failures"] == {reason: 1} and record["coverage"] == (N - 1) / N
        for name, row in record["abilities"].items():
            assert row["count"] == intact["abilities"][name]["count"] - (name == victim.ability)
            if name != victim.ability:
                assert row["sds"] == pytest.approx(intact["abilities"][name]["sds"], abs=1e-6)
    assert callback.errors == 0 and not (tmp_path / "escaped.0.png").exists()


def truncated(shard):
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def cut_inside_a_header(shard):
    shard.write_bytes(shard.read_bytes()[:700])


def emptied(shard):
    shard.write_bytes(b"")


def html(shard):
    shard.write_bytes(b"<!DOCTYPE html><title>404 Not Found</title>".ljust(shard.stat().st_size, b" "))


def flipped(shard):
    data = bytearray(shard.read_bytes())
    for index in range(100, len(data), 512):
        data[index] ^= 1
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize("fault", [truncated, cut_inside_a_header, emptied, html, flipped])
def test_a_damaged_shard_costs_what_was_in_it(fault, tmp_path, alone):
    folder = build(tmp_path / "shards")
    shard, _ = place(folder)
    inside = sum(item.shard == shard.name for item in Benchmark(folder).items)
    fault(shard)
    callback, module = fit(folder, tmp_path / "run")
    assert_untouched(module, alone)
    for record in callback.records:
        assert record["failures"].keys() == {"unreadable"} and 1 <= record["failed"] <= inside
        assert sum(row["count"] for row in record["abilities"].values()) == N - record["failed"]
    assert callback.errors == 0


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.parametrize(("suffix", "reason"), [(b"png", "bad_image"), (b"pkl", "bad_image")])
def test_a_pickle_in_a_shard_is_never_opened(suffix, reason, tmp_path, alone):
    trace = tmp_path / "opened"
    payload = pickle.dumps(Evil(trace))
    pickle.loads(payload).close()
    assert trace.exists(), "it would"
    trace.unlink()

    def renamed(raw):
        raw[:100] = bytes(raw[:100]).replace(b".png", b"." + suffix)

    folder = build(tmp_path / "shards")
    tamper(folder, in_image(lambda image: payload + bytes(len(image) - len(payload))))
    tamper(folder, in_header(renamed))
    assert (b".0.pkl" in place(folder)[0].read_bytes()) == (suffix == b"pkl")
    callback, module = fit(folder, tmp_path / "run")
    assert not trace.exists()
    assert_untouched(module, alone)
    assert [record["failures"] for record in callback.records] == 3 * [{reason: 1}]
    assert all(sum(row["count"] for row in record["abilities"].values()) == N - 1 for record in callback.records)


def test_a_shard_that_vanishes_in_the_middle_of_a_run(tmp_path, alone, monkeypatch):
    """What is remembered is still scored; without memory, what is gone is counted."""
    folder = build(tmp_path / "shards")
    shard, _ = place(folder)
    inside = sum(item.shard == shard.name for item in Benchmark(folder).items)

    class Vanishing(PreTraining):
        def on_train_batch_start(self, batch, index):
            if self.global_step == 1:
                # As a network file system does it: the name is there, and reading fails.
                callback._evaluator._source._shelf = Shelf(0)
                shard.unlink()
                for descriptor in callback.benchmark._shards._open.values():
                    import os

                    os.close(descriptor)
                callback.benchmark._shards._open.clear()

    callback = RadarCallback(folder, every_n_steps=2)
    seed_everything(1, verbose=False)
    module = Vanishing()
    Trainer(
        max_steps=4, callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, accelerator="cpu", devices=1,
    ).fit(module)  # fmt: skip
    assert_untouched(module, alone)
    failed = [record["failures"] for record in callback.records]
    assert failed == [{}, {"unreadable": inside}, {"unreadable": inside}]


def test_a_manifest_that_disagrees_is_said_before_the_first_step(tmp_path):
    folder = build(tmp_path / "shards")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["samples"] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(BenchmarkError):
        RadarCallback(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_score(value, tmp_path, alone):
    folder = build(tmp_path / "shards")

    class Poisoned(PreTraining):
        """One word of its vocabulary has no finite logit, but in training."""

        def __init__(self):
            super().__init__()
            head, word = self.model.lm_head, tiny.tokenizer().convert_tokens_to_ids("12"[0])

            def spoil(module, inputs, output):
                if module.training:
                    return output
                output = output.clone()
                output[..., word] = value
                return output

            head.register_forward_hook(spoil)

    callback, module = fit(folder, tmp_path / "run", Poisoned)
    assert_untouched(module, alone)
    for record in callback.records:
        assert record["failures"] == {"not_finite": N} and record["coverage"] == 0
        assert record["overall"]["sds"] is None


def test_memory_that_runs_out_halves_batches_and_loses_nothing(tmp_path, alone, monkeypatch, caplog):
    from radar_callback.scoring.packed import PackedScorer

    whole, _ = fit(build(tmp_path / "whole"), tmp_path / "a", scorer="packed")
    right = PackedScorer.__call__

    def short(self, samples):
        if len(samples) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, samples)

    monkeypatch.setattr(PackedScorer, "__call__", short)  # not in the check, behind which another way is taken
    callback, module = fit(tmp_path / "whole", tmp_path / "b", scorer="packed")
    assert_untouched(module, alone)
    assert "Out of memory in a batch" in caplog.text
    for record, intact in zip(callback.records, whole.records, strict=True):
        assert record["failed"] == 0
        for name, row in record["abilities"].items():
            assert row["count"] == intact["abilities"][name]["count"]
            assert row["sds"] == pytest.approx(intact["abilities"][name]["sds"], abs=1e-6)


def test_an_item_that_memory_never_holds_is_counted(tmp_path, alone, monkeypatch):
    from radar_callback.scoring.packed import PackedScorer

    right = PackedScorer.__call__

    def short(self, samples):
        if any(sample.prompt_images == 3 for sample in samples):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(self, samples)

    folder = build(tmp_path / "shards")
    large = sum(item.n_images == 3 for item in Benchmark(folder).items)
    monkeypatch.setattr(PackedScorer, "__call__", short)  # not in the check, behind which another way is taken
    callback, module = fit(folder, tmp_path / "run", scorer="packed")
    assert_untouched(module, alone)
    assert large > 0 and all(record["failures"] == {"out_of_memory": large} for record in callback.records)
