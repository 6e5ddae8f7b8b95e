"""The radar chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from radar_callback.reporting.html.drawing import FONT, colour, literal, pale
from radar_callback.reporting.style import GRID, INK, MUTED, readable, short


class Trace(NamedTuple):
    """One outline: a name, a score by ability, and whether it is there at first or only after a click."""

    name: str
    scores: Mapping[str, float]
    shown: bool = True


def radar(traces: Iterable[Trace], abilities: Sequence[str], chance: Sequence[float]) -> go.Figure | None:
    """A radar chart; None with fewer than three abilities, which span no area.

    Args:
        traces: What to draw.
        abilities: In the order of the spokes.
        chance: Of each.
    """
    if len(abilities) < 3:
        return None
    # Spokes by number: two names may look alike once they are shortened, and one that is a number would be taken for an angle.
    around = [str(i) for i in [*range(len(abilities)), 0]]
    names = [literal(readable(name)) for name in [*abilities, abilities[0]]]
    figure = go.Figure()
    for i, one in enumerate(traces):
        values = [one.scores.get(ability) for ability in abilities]
        figure.add_scatterpolar(
            r=[*values, values[0]], theta=around, name=literal(one.name), mode="lines+markers", fill="toself",
            fillcolor=pale(colour(i), 0.07), line={"color": colour(i), "width": 2}, marker={"size": 5},
            visible=True if one.shown else "legendonly",
            text=names, hovertemplate="%{text}: %{r:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.add_scatterpolar(
        r=[*chance, chance[0]], theta=around, name="chance", mode="lines", hoverinfo="skip",
        line={"color": MUTED, "dash": "dash", "width": 1.5},
    )  # fmt: skip
    ticks = {"size": 10, "color": MUTED}
    figure.update_layout(
        # No height: the page gives it, so that it can be less on a phone.
        polar={
            "radialaxis": {
                "range": [0, 1], "gridcolor": GRID, "tickfont": ticks, "angle": 90, "tickangle": 90,
                # The rim has no number: it would lie on the first spoke's name.
                "tickvals": [0.25, 0.5, 0.75, 1], "ticktext": ["0.25", "0.5", "0.75", ""],
            },
            "angularaxis": {
                "type": "category", "gridcolor": GRID, "tickfont": {"size": 11}, "direction": "clockwise",
                "tickvals": around[:-1], "ticktext": [literal(short(name)) for name in abilities],
            },
            "bgcolor": "white",
        },
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
        margin={"l": 70, "r": 70, "t": 36, "b": 64},
        font={"family": FONT, "color": INK},
        paper_bgcolor="white",
    )  # fmt: skip
    return figure
