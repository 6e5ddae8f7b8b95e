"""What the report says in words: the summary of a run, and its findings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from radar_callback.diagnosis import Emergence, Finding, Kind
from radar_callback.reporting.html.markup import Markup, percent, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable


def summary(run: Run) -> Markup:
    """What a reader with one minute should know."""
    first, last = run.records[0], run.records[-1]
    risen = [one for one in run.diagnosis.emergence if one.onset is not None]
    waiting = [one for one in run.diagnosis.emergence if one.onset is None]
    span = (
        f"{len(run.records)} evaluations from step {first['step']:,} to {last['step']:,}"
        if len(run.records) > 1
        else f"1 evaluation, at step {last['step']:,}"
    )
    said = [
        f"{span}; overall SDS {text(last['overall'].get('sds'))} where guessing gives "
        f"{text(last['overall'].get('chance'))}."
    ]
    if risen:
        said.append(
            f"{len(risen)} of {len(risen) + len(waiting)} abilities have emerged: {_names(risen)}."
            + (f" Not yet: {_names(waiting)}." if waiting else "")
        )
    else:
        said.append(f"None of {len(waiting)} abilities has emerged yet.")
    if found := run.diagnosis.bottleneck:
        said.append(
            f"Furthest behind its peers is {text(readable(found.name))}: {percent(found.progress)} of the way from chance "
            f"to 1, where the median of the others is {percent(found.peers)}."
        )
    broke = f"{len(run.alarms)} alarm{'s' if len(run.alarms) != 1 else ''}." if run.alarms else "No alarm."
    return Markup(f'<p class="lead">{" ".join(said)} <strong>{broke}</strong></p>')


def findings(run: Run) -> Markup:
    """Alarms first, then notes, each in the order in which they could be known."""
    notes = [one for one in run.diagnosis.findings if not one.is_alarm]
    parts = []
    if run.alarms:
        parts.append(f'<ul class="alarms">{"".join(map(_finding, run.alarms))}</ul>')
    if notes:
        parts.append(f'<ul class="notes">{"".join(_notes(notes))}</ul>')
    return Markup("".join(parts) or "<p>Nothing to report.</p>")


def _finding(one: Finding) -> str:
    said, _, causes = one.message.partition(". Usual causes: ")
    told = f'<span class="cause">Usual causes: {text(causes)}.</span>' if causes else ""
    return f"<li><strong>{text(readable(one.kind))}</strong> {_with_minus(text(said))}. {told}</li>"


def _notes(notes: Sequence[Finding]) -> Iterator[str]:
    """Abilities that are at chance are often many: they share a line."""
    still = [one for one in notes if one.kind is Kind.AT_CHANCE]
    yield from (_finding(one) for one in notes if one.kind is not Kind.AT_CHANCE)
    for step in dict.fromkeys(one.step for one in still):
        names = ", ".join(text(readable(one.subject)) for one in still if one.step == step)
        yield f"<li><strong>at chance</strong> still at step {text(step)}: {names}.</li>"


def _names(found: Sequence[Emergence]) -> str:
    return ", ".join(text(readable(one.name)) for one in found)


def _with_minus(markup: str) -> str:
    """Negative numbers with a real minus, which is as wide as a plus."""
    return re.sub(r"(?<=[ (])-(?=\d)", "−", markup)
