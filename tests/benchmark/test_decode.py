"""Images as a person sees them, and files that are not opened at all."""

from __future__ import annotations

import ast
import io
import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

import radar_callback
from radar_callback.benchmark.decode import FORMATS, readable_formats, sniff
from radar_callback.benchmark.images import probe
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.sample import decode_image
from radar_callback.benchmark.verify import verify
from radar_callback.benchmark.writer import write_shards
from radar_callback.cli import main
from radar_callback.errors import BenchmarkError, ItemError, Reason
from radar_callback.scoring.blind import BlindEncoder


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey(data: bytes) -> list[int]:
    """Levels of the first row."""
    seen = np.asarray(decode_image(data, "it"))
    assert (seen[..., 0] == seen[..., 1]).all() and (seen[..., 0] == seen[..., 2]).all()
    return seen[0, :, 0].tolist()


def tiff(values: np.ndarray, **tags) -> bytes:
    """A TIFF file of one row, written by hand: Pillow does not write all that it reads."""
    fields = {
        256: values.shape[0],
        257: 1,
        258: values.dtype.itemsize * 8,
        259: 1,
        262: tags.get("photometric", 1),
        273: 8,
        277: 1,
        278: 1,
        279: values.nbytes,
        339: {"u": 1, "i": 2, "f": 3}[values.dtype.kind],
    }
    data = values.tobytes() + b"\0" * (values.nbytes % 2)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(fields)) + table + b"\0" * 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(orientation, format):
    stored = Image.fromarray(np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    seen = decode_image(data, "it")
    assert seen.size == ((16, 8) if orientation < 5 else (8, 16)) == probe(data, "it").size
    assert np.array_equal(np.asarray(seen), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    if orientation == 6 and format == "PNG":  # turned clockwise: what was stored at the bottom left is at the top left
        assert np.array_equal(np.asarray(seen)[0, 0], np.asarray(stored)[7, 0])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0not EXIF at all", b"Exif\0\0II*\0\xff\xff\xff\x7f", b""])
def test_exif_data_that_cannot_be_read_cost_no_image(exif):
    assert decode_image(saved(Image.new("RGB", (16, 8)), "JPEG", exif=exif), "it").size == (16, 8)


@pytest.mark.parametrize("value", [0, 9, 60_000])
def test_an_orientation_that_does_not_exist_is_none(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode_image(saved(Image.new("RGB", (16, 8)), "JPEG", exif=exif), "it").size == (16, 8)


def test_transparency_and_grey_are_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (16, 8), (0, 0, 0, 0))
    clear.putpixel((0, 7), (10, 20, 30, 255))
    seen = decode_image(saved(clear, "PNG", exif=exif), "it")
    assert (seen.size, seen.getpixel((0, 0)), seen.getpixel((7, 15))) == ((8, 16), (10, 20, 30), (255, 255, 255))
    wide = Image.fromarray(np.arange(8, dtype=np.uint16).reshape(2, 4) * 257 * 10)
    assert decode_image(saved(wide, "PNG", exif=exif), "it").getpixel((0, 0)) == (40, 40, 40)


def test_the_manifest_and_the_blind_control_have_the_turned_size(tmp_path, sample, groups):
    exif = Image.Exif()
    exif[0x0112] = 8
    data = saved(Image.new("RGB", (16, 8)), "JPEG", exif=exif)
    write_shards([sample(images=(data,), image_names=("0.jpg",))], tmp_path / "b", name="b", groups=groups)
    benchmark = Benchmark(tmp_path / "b")
    assert benchmark.items[0].image_sizes == ((8, 16),)
    assert benchmark.read(0).images == (data,)  # the file itself stays as it was
    assert verify(tmp_path / "b") == []
    seen = []
    BlindEncoder(lambda blind: seen.append(decode_image(blind.images[0], "it").size))(benchmark.read(0))
    assert seen == [(8, 16)]


SIXTEEN = np.array([0, 128, 129, 257, 4095, 32768, 65535])
EIGHT = [0, 0, 1, 1, 16, 128, 255]


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(SIXTEEN.astype(np.uint16)[None]), "PNG"),
        saved(Image.fromarray(SIXTEEN.astype(np.uint16)[None]), "TIFF"),
        tiff(SIXTEEN.astype("<u2")),
        b"P5 7 1 65535\n" + SIXTEEN.astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "tiff by hand", "pgm"],
)
def test_16_bits_of_grey_are_taken_by_their_full_range(data):
    assert grey(data) == EIGHT


def test_16_bits_big_endian_and_jpeg_2000():
    big = Image.fromarray(SIXTEEN.astype(">u2")[None])
    assert big.mode == "I;16B"
    assert grey(saved(big, "TIFF")) == EIGHT
    if features.check("jpg_2000"):
        tile = np.repeat(np.repeat(SIXTEEN.astype(np.uint16)[None], 8, 0), 8, 1)
        assert grey(saved(Image.fromarray(tile), "JPEG2000", irreversible=False))[::8] == EIGHT


def test_where_zero_is_white():
    assert grey(tiff(SIXTEEN.astype("<u2"), photometric=0)) == [255 - level for level in EIGHT]


def test_grey_that_is_marked_transparent_is_white():
    image = Image.fromarray(SIXTEEN.astype(np.uint16)[None])
    assert grey(saved(image, "PNG", transparency=4095)) == [0, 0, 1, 1, 255, 128, 255]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.array([0.0, 0.25, 0.5, 1.0], "f4"), [0, 64, 128, 255]),
        (np.array([-100.0, 0.0, 100.0], "f4"), [0, 128, 255]),
        (np.array([np.nan, -np.inf, 0.0, 10.0, np.inf], "f4"), [0, 0, 0, 255, 255]),
        (np.array([7.0, 7.0], "f4"), [127, 127]),
        (np.array([-(2**31), 0, 2**31 - 1], "i4"), [0, 128, 255]),
        (np.array([0, 500, 1000], "i4"), [0, 128, 255]),
        (np.array([-32768, 0, 32767], "i2"), [0, 128, 255]),
        (np.array([0, 2**31, 2**32 - 1], "u4"), [0, 128, 255]),
    ],
)
def test_32_bits_are_taken_by_the_range_of_their_values(values, levels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grey(tiff(values)) == levels


def test_a_float_image_without_a_number_is_refused():
    with pytest.raises(ItemError, match="none of its values is a finite number"):
        decode_image(tiff(np.full(3, np.nan, "f4")), "it")


def test_a_12_bit_tiff_has_a_range_of_12_bits():
    # Two values of 12 bits in three bytes: 0xfff and 0x800.
    fields = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\0\0" + struct.pack("<H", len(fields)) + table + b"\0" * 4
    assert grey(data) == [255, 128]


def test_ordinary_images_are_what_they_were():
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
    for image in (colours, colours.convert("L"), colours.convert("P"), colours.convert("1")):
        assert np.array_equal(np.asarray(decode_image(saved(image, "PNG"), "it")), np.asarray(image.convert("RGB")))
    cmyk = saved(colours.convert("CMYK"), "JPEG")
    assert np.array_equal(np.asarray(decode_image(cmyk, "it")), np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB")))


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A stand-in for Ghostscript; returns the file it makes when it is started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "started"


def test_a_file_that_would_start_a_program_is_not_opened(ghostscript, tmp_path, sample, groups, capsys):
    eps = saved(Image.new("RGB", (32, 32), "red"), "EPS")
    with pytest.raises(
        ItemError, match=r"item is not an image that can be opened: it is EPS, expected .*JPEG"
    ) as caught:
        decode_image(eps, "item")
    assert caught.value.reason is Reason.BAD_IMAGE
    with pytest.raises(BenchmarkError, match="it is EPS"):
        write_shards([sample(images=(eps,), image_names=("0.jpg",))], tmp_path / "b", name="b", groups=groups)
    (tmp_path / "photo.jpg").write_bytes(eps)
    (tmp_path / "questions.jsonl").write_text(
        '{"question": "Q", "answer": "a", "distractors": ["b"], "image": "photo.jpg"}'
    )
    assert main(["shards", "build", str(tmp_path), str(tmp_path / "out"), "--from", "jsonl"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "photo.jpg" in said and "EPS" in said
    assert not ghostscript.exists()


def test_one_place_in_the_package_opens_images():
    places = []
    for path in sorted(Path(radar_callback.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == "open"
                and ast.unparse(node.value) in ("Image", "PIL.Image")
            ):
                places.append(path.name)
    assert places == ["decode.py"]


@pytest.mark.parametrize("format", readable_formats())
def test_a_stored_image_is_named_by_its_format(format, tmp_path):
    data = saved(Image.new("RGB", (16, 8), "red"), format)
    assert sniff(data) == format
    assert (probe(data, "it").suffix, probe(data, "it").size) == (FORMATS[format], (16, 8))
    (tmp_path / "photo.jpg").write_bytes(data)
    (tmp_path / "questions.jsonl").write_text(
        '{"question": "Q", "answer": "a", "distractors": ["b"], "image": "photo.jpg"}'
    )
    assert main(["shards", "build", str(tmp_path), str(tmp_path / "out"), "--from", "jsonl"]) == 0
    assert Benchmark(tmp_path / "out").read(0).image_names == (f"0.{FORMATS[format]}",)


def test_a_jpeg_of_several_pictures_is_a_jpeg():
    several = saved(Image.new("RGB", (16, 8)), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8))])
    assert Image.open(io.BytesIO(several)).format == "MPO"
    assert probe(several, "it").suffix == "jpg"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (saved(Image.new("RGB", (16, 16)), "ICO"), "ICO"),
    ],
)
def test_what_is_not_opened_is_named(data, name):
    with pytest.raises(ItemError, match=f"it is {name}, expected"):
        decode_image(data, "item")


def test_avif_without_its_codec_is_refused_by_name(monkeypatch):
    readable_formats.cache_clear()
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    try:
        assert "AVIF" not in readable_formats() and "JPEG2000" in readable_formats()
        with pytest.raises(ItemError, match="it is AVIF, expected BMP"):
            decode_image(b"\0\0\0\x18ftypavif\0\0\0\0", "item")
    finally:
        readable_formats.cache_clear()
