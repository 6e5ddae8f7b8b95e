"""The report's tables and lists."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radar_callback.diagnosis import Emergence, Finding, Kind
from radar_callback.reporting.html.markup import Markup, section, signed, table, text
from radar_callback.reporting.html.run import Run
from radar_callback.reporting.style import readable


def summary(run: Run) -> Markup:
    """What a reader with one minute should know."""
    first, last = run.records[0], run.records[-1]
    risen = [one for one in run.diagnosis.emergence if one.onset is not None]
    waiting = [one for one in run.diagnosis.emergence if one.onset is None]
    alarms = [one for one in run.diagnosis.findings if one.is_alarm]
    said = [
        f"{len(run.records)} evaluation{'s' if len(run.records) > 1 else ''} from step {first['step']:,} to "
        f"{last['step']:,}; overall SDS {text(last['overall'].get('sds'))} where guessing gives "
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
            f"Furthest behind its peers is {text(readable(found.name))}: {_share(found.progress)} of the way from chance "
            f"to 1, where the median of the others is {_share(found.peers)}."
        )
    broke = f"{len(alarms)} alarm{'s' if len(alarms) != 1 else ''}." if alarms else "No alarm."
    return Markup(f'<p class="lead">{" ".join(said)} <strong>{broke}</strong></p>')


def findings(run: Run) -> Markup:
    """Alarms first, then notes, each in the order in which they could be known."""
    alarms = [one for one in run.diagnosis.findings if one.is_alarm]
    notes = [one for one in run.diagnosis.findings if not one.is_alarm]
    parts = []
    if alarms:
        parts.append(f'<ul class="alarms">{"".join(map(_finding, alarms))}</ul>')
    if notes:
        parts.append(f'<ul class="notes">{"".join(_notes(notes))}</ul>')
    return section("Findings", *parts) or section("Findings", "<p>Nothing to report.</p>")


def emergence(run: Run) -> Markup:
    """When each ability emerged and how it stands."""
    rows = [
        [
            readable(one.name),
            readable(one.group),
            _with_interval(one.onset, one.onset_low, one.onset_high),
            _with_interval(one.rank, one.rank_low, one.rank_high),
            one.half_rise,
            one.level,
            _share(one.progress),
            Markup(f"{signed(one.slope)} ± {text(one.slope_se)}") if not math.isnan(one.slope) else None,
            "plateau" if one.plateau else "rising" if one.slope > 2 * one.slope_se else "",
        ]
        for one in run.diagnosis.emergence
    ]
    heads = ["ability", "group", "onset", "order", "half-rise", "level", "progress", "slope a 1,000 steps", ""]
    return table(heads, rows, "numbers")


def changes(run: Run) -> Markup:
    """How many items were learned and forgotten, by ability, over the latest evaluations."""
    recent = [record for record in run.records if (record.get("change") or {}).get("abilities")][-6:]
    if not recent:
        return Markup("")
    heads = ["ability", *(f"{r['change']['since']:,} → {r['step']:,}" for r in recent)]
    rows = []
    for name in run.abilities:
        rows.append([readable(name), *(_change(r["change"]["abilities"].get(name)) for r in recent)])
    return table(heads, rows, "numbers")


def comparison(runs: Sequence[Run]) -> Markup:
    """Onset and final score of each ability in each run."""
    found = [{one.name: one for one in run.diagnosis.emergence} for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.abilities)
    heads = ["ability", *(f"onset: {run.name}" for run in runs), *(f"level: {run.name}" for run in runs)]
    rows = [
        [
            readable(name),
            *(
                _with_interval(e[name].onset, e[name].onset_low, e[name].onset_high) if name in e else None
                for e in found
            ),
            *(run.records[-1]["abilities"].get(name, {}).get("sds") for run in runs),
        ]
        for name in names
    ]
    return table(heads, rows, "numbers")


def configuration(runs: Sequence[Run]) -> Markup:
    """What was asked of each run and what that took."""
    facts: list[tuple[str, list[object]]] = []
    for name, get in _FACTS:
        facts.append((name, [get(run.records) for run in runs]))
    heads = ["", *(run.name for run in runs)]
    return table(heads, [[name, *values] for name, values in facts if any(v is not None for v in values)], "numbers")


def _finding(one: Finding) -> str:
    said, _, causes = one.message.partition(". Usual causes: ")
    told = f'<span class="cause">Usual causes: {text(causes)}.</span>' if causes else ""
    return f"<li><strong>{text(readable(one.kind))}</strong> {text(said)}. {told}</li>"


def _notes(notes: Sequence[Finding]) -> Iterator[str]:
    """Abilities that are at chance are often many: they share a line."""
    still = [one for one in notes if one.kind is Kind.AT_CHANCE]
    yield from (_finding(one) for one in notes if one.kind is not Kind.AT_CHANCE)
    for step in dict.fromkeys(one.step for one in still):
        names = ", ".join(text(readable(one.subject)) for one in still if one.step == step)
        yield f"<li><strong>at chance</strong> still at step {text(step)}: {names}.</li>"


def _names(found: Sequence[Emergence]) -> str:
    return ", ".join(text(readable(one.name)) for one in found)


def _share(value: float) -> Markup:
    return Markup("–") if math.isnan(value) else Markup(f"{100 * value:.0f}%".replace("-", "−"))


def _with_interval(value: int | None, low: int | None, high: int | None) -> Markup:
    if value is None:
        return Markup("–")
    if low == high == value:
        return text(value)
    return Markup(
        f'{text(value)} <span class="interval">{text(low)} – {text(high) if high is not None else "?"}</span>'
    )


def _change(row: Mapping[str, Any] | None) -> Markup:
    if not row:
        return Markup("–")
    sds, se = row.get("sds"), row.get("se")
    sure = sds is not None and se is not None and abs(sds) > 3 * se and abs(sds) >= 0.02
    counts = f'<span class="interval">+{row.get("learned", 0)} −{row.get("forgotten", 0)}</span>'
    return Markup(f"{'<strong>' if sure else ''}{signed(sds)}{'</strong>' if sure else ''} {counts}")


def _mean(records: Sequence[Mapping[str, Any]], field: str) -> float | None:
    known = [record[field] for record in records[1:] or records if record.get(field) is not None]
    return sum(known) / len(known) if known else None


def _failures(records: Sequence[Mapping[str, Any]]) -> str | None:
    found = records[-1].get("failures") or {}
    return ", ".join(f"{n} {reason}" for reason, n in found.items()) or "none"


def _shares(records: Sequence[Mapping[str, Any]]) -> str | None:
    shares = sorted({record["share"] for record in records if record.get("share") is not None})
    return ", ".join(f"{share:g}" for share in shares) or None


_FACTS: list[tuple[str, Any]] = [
    ("benchmark", lambda records: records[-1]["benchmark"]),
    ("items", lambda records: records[-1].get("samples")),
    ("evaluations", len),
    ("last step", lambda records: records[-1]["step"]),
    ("share of the items asked", _shares),
    ("coverage", lambda records: records[-1].get("coverage")),
    ("not scored", _failures),
    ("way of scoring", lambda records: records[-1].get("scorer")),
    ("seconds an evaluation (first)", lambda records: records[0].get("seconds")),
    ("seconds an evaluation (later, mean)", lambda records: _mean(records, "seconds")),
    ("of these, seconds waited for data", lambda records: _mean(records, "waited")),
    (
        "memory beyond what training needed (MiB)",
        lambda records: max(r.get("memory_growth", 0) for r in records) / 2**20,
    ),
    ("padding (share of tokens)", lambda records: records[-1].get("padding")),
]
