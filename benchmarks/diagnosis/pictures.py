"""`python -m benchmarks.diagnosis.pictures`: the field guide's curves, from the committed runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.diagnosis.__main__ import HELD_OUT, read
from benchmarks.diagnosis.faults import FAULTS, Fault
from benchmarks.diagnosis.runs import PLANTED, RUNS, slug
from radar_callback.diagnosis import alarms_of
from radar_callback.diagnosis.emergence import ABOVE
from radar_callback.reporting.style import GRID, INK, MUTED, line_style, literal_text, readable, to_png

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "field_guide.png"

Record = Mapping[str, Any]


def main() -> None:
    """Draws it."""
    healthy = read(RUNS / f"base-{HELD_OUT}" / "history.jsonl.gz")
    figure = Figure(figsize=(13, 15))
    for fault, axes in zip(FAULTS, figure.subplots(5, 2, sharex=True, sharey=True).flat, strict=True):
        _panel(axes, fault, read(RUNS / f"base-{HELD_OUT}-{slug(fault.name)}" / "history.jsonl.gz"), healthy)
    figure.supxlabel("training step", fontsize=11, color=INK)
    figure.supylabel("SDS", fontsize=11, color=INK)
    figure.tight_layout(rect=(0.01, 0.01, 1, 1), h_pad=1.6, w_pad=1.2)
    PICTURE.write_bytes(to_png(literal_text(figure), width=1600))
    print(PICTURE)


def _panel(axes: Axes, fault: Fault, faulty: Sequence[Record], healthy: Sequence[Record]) -> None:
    last = faulty[-1]["step"]
    healthy = [record for record in healthy if record["step"] <= last]
    alarms = [alarm for alarm in alarms_of(faulty) if alarm.step > PLANTED]
    abilities = [name for name, row in healthy[-1]["abilities"].items() if row["sds"] - row["chance"] >= ABOVE]
    # The same colour for the same ability in every panel.
    for i, name in enumerate(abilities):
        style = line_style(i)
        steps, values = _line(healthy, name)
        axes.plot(steps, values, color=style.colour, alpha=0.3, linewidth=1, linestyle=(0, (3, 2)))
        steps, values = _line(faulty, name)
        axes.plot(steps, values, color=style.colour, marker=style.marker, markersize=3.5, linewidth=1.5)
    axes.axvline(PLANTED, color=MUTED, linewidth=1)
    for step in dict.fromkeys(alarm.step for alarm in alarms):
        axes.axvline(step, color="#aa3344", linewidth=1.2, linestyle=(0, (1.5, 1.2)))
    said = "; ".join(dict.fromkeys(f"{readable(a.kind)}: {readable(a.subject)}" for a in alarms)) or "no alarm"
    axes.set_title(fault.name, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_title(said, loc="right", fontsize=9, color="#aa3344" if alarms else MUTED)
    axes.set_xlim(700, last + 260)
    axes.set_ylim(0.18, 1.02)
    _labels(axes, faulty, abilities, last)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _labels(axes: Axes, faulty: Sequence[Record], abilities: Sequence[str], last: int) -> None:
    """Each name beside its curve's end, pushed apart where curves end at the same height."""
    ends = sorted((faulty[-1]["abilities"][name]["sds"], i, name) for i, name in enumerate(abilities))
    heights = [value for value, _, _ in ends]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + 0.062)
    top = 1.0
    for k in reversed(range(len(heights))):
        heights[k] = top = min(heights[k], top)
        top -= 0.062
    for height, (_, i, name) in zip(heights, ends, strict=True):
        axes.text(last + 18, height, readable(name), color=line_style(i).colour, fontsize=8, va="center")


def _line(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    return [r["step"] for r in records], [r["abilities"][name]["sds"] for r in records]


if __name__ == "__main__":
    main()
