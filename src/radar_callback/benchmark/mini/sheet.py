"""A contact sheet: items of every ability with their question, answer and distractors, for the documentation and the eye."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from radar_callback.benchmark.sample import Sample, decode_image

_GAP = 12
_LINE = 17


def contact_sheet(samples: Iterable[Sample], per_row: int = 5, side: int = 176) -> Image.Image:
    """Lays out samples row by row, a new row for each ability.

    Args:
        samples: Items in the order they should stand.
        per_row: The first this many of each ability are shown, the rest left out.
        side: Pixels of each picture.
    """
    rows: dict[str, list[Sample]] = {}
    for sample in samples:
        row = rows.setdefault(sample.ability, [])
        if len(row) < per_row:
            row.append(sample)
    height = _LINE * 6 + side + _GAP
    sheet = Image.new("RGB", ((side + _GAP) * per_row + _GAP, height * len(rows) + _GAP), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    title, body = ImageFont.load_default(15), ImageFont.load_default(12)
    for i, (ability, row) in enumerate(rows.items()):
        top = _GAP + i * height
        draw.text((_GAP, top), ability, fill=(30, 30, 36), font=title, stroke_width=0.4)
        for j, sample in enumerate(row):
            left = _GAP + j * (side + _GAP)
            picture = decode_image(sample.images[0], sample.key).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top + _LINE + 4))
            draw.rectangle((left, top + _LINE + 4, left + side - 1, top + _LINE + 3 + side), outline=(190, 190, 196))
            y = top + _LINE + side + 8
            for line in wrap(f"{sample.question} …", 29):
                draw.text((left, y), line, fill=(60, 60, 66), font=body)
                y += _LINE - 2
            draw.text((left, y), sample.answer, fill=(0, 110, 60), font=body, stroke_width=0.3)
            y += _LINE - 2
            for line in wrap(f"not: {', '.join(sample.distractors)}", 30):
                draw.text((left, y), line, fill=(150, 60, 60), font=body)
                y += _LINE - 2
    return sheet
