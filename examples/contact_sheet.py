"""Draws the contact sheets of radar-mini that the documentation shows.

python examples/contact_sheet.py docs/images
"""

import sys
from pathlib import Path

from radar_callback.benchmark.mini import ABILITIES, Ability
from radar_callback.benchmark.mini.canvas import flat
from radar_callback.benchmark.mini.items import item
from radar_callback.benchmark.mini.sheet import contact_sheet
from radar_callback.benchmark.sample import Sample


def varied(ability: Ability, wanted: int = 5) -> list[Sample]:
    """Early items that repeat one another's questions and answers as little as can be."""
    rest = [item(ability, seed=0, index=index) for index in range(40)]
    found: list[Sample] = []
    while len(found) < wanted:
        questions, answers = [s.question for s in found], [s.answer for s in found]
        found.append(min(rest, key=lambda s: answers.count(s.answer) + (s.question in questions)))
        rest.remove(found[-1])
    return found


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for group in ("perception", "reasoning"):
        sheet = contact_sheet(s for a in ABILITIES if a.group == group for s in varied(a))
        flat(sheet, exact=96, mixed=128).save(folder / f"radar_mini_{group}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/images"))
