"""A run's record as text for the terminal and as Markdown for the docs; charts are in `chart`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import chart
from benchmarks.running import Record
from benchmarks.works import METRICS

# Timer ticks and kernel threads take a little of any core.
QUIET_PER_CENT = 10.0
RATIO_METRICS = ("rate", "cpu_us", "mb_s", "cpu_ms_mb", "trips", "trip_us")
RESULTS = Path(__file__).resolve().parent / "results"


def figure(metric: str, value: float | None) -> str:
    """Write a figure with the digits that its metric deserves."""
    return "–" if value is None else f"{value:,.{METRICS[metric].digits}f}"


def times(value: float | None) -> str:
    """Write a ratio."""
    return "–" if value is None else f"{value:.2f} ×"


def rows_of(work: Record) -> list[list[str]]:
    """Return the table of a work, heading first: medians, spreads, and ratios to the subject."""
    first: dict[str, Any] = work["contenders"][0]
    metrics = list(first["medians"])
    heading = ["contender", *(METRICS[metric].heading for metric in metrics)]
    heading += [f"ratio of {METRICS[metric].heading}" for metric in ratio_metrics(work)]
    rows = [heading]
    for contender in work["contenders"]:
        row = [contender["name"]]
        if "failed" in contender:
            rows.append(row + ["–"] * (len(heading) - 1))
            continue
        for metric in metrics:
            values = [sample[metric] for sample in contender["samples"]]
            low, high = figure(metric, min(values)), figure(metric, max(values))
            median = figure(metric, contender["medians"][metric])
            row.append(median if low == high else f"{median} ({low} to {high})")
        for metric in ratio_metrics(work):
            same = contender["name"] == work["subject"]
            row.append("" if same else times(contender["ratios"][metric]["median"]))
        rows.append(row)
    return rows


def ratio_metrics(work: Record) -> list[str]:
    """Choose the metrics whose ratios are worth a column: speed and CPU."""
    present = work["contenders"][0]["medians"]
    return [metric for metric in RATIO_METRICS if metric in present]


def verdict(target: Record) -> str:
    """Say what came of a target."""
    unit = " ×" if target["how"] in ("ratio", "up_to") else ""
    word = "reached" if target["reached"] else "MISSED"
    return f"{word}: {target['median']:.2f}{unit}"


def failures_of(work: Record) -> list[str]:
    """Say of each contender that could not be measured why."""
    return [
        f"{contender['name']} could not be measured: {contender['failed']}"
        for contender in work["contenders"]
        if "failed" in contender
    ]


def disturbance(record: Record) -> str:
    """Warn when others used the server's core; empty when they hardly did."""
    shares = [
        contender["medians"].get("others", 0.0)
        for work in record["works"]
        for contender in work["contenders"]
    ]
    if max(shares) <= QUIET_PER_CENT:
        return ""
    return (
        f"Others used up to {max(shares):.0f} % of the server's core (medians):"
        " rates are unsure, CPU figures less so."
    )


def as_text(record: Record) -> str:
    """Write a record for a terminal."""
    parts = [disturbance(record)]
    for work in record["works"]:
        rows = rows_of(work)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        parts.append(f"\n{work['plan'].upper()}  {work['title']}")
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            parts.append("  " + "  ".join(cells))
        parts += [f"  {sentence}" for sentence in failures_of(work)]
        for target in work["targets"]:
            parts.append(f"  {verdict(target):<22} {target['sentence']}")
    return "\n".join(parts)


def as_markdown(record: Record, picture: str) -> str:
    """Write a record for the docs; ``picture`` is the chart's file name beside the page."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    machine = record["machine"]
    lines = [
        "<!-- Written by `python -m benchmarks --report-only`; do not edit. -->",
        "",
        f"Measured {record['date']} by `{record['command']}`",
        f"({record['rounds']} rounds, {record['seconds']} s for each run of wrk).",
        "",
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory']},"
        f" {machine['kernel']}",
        f"- Versions: {versions}",
        *([f"- {disturbance(record)}"] if disturbance(record) else []),
        "",
        f"![Bars of each work's main figure, ours highlighted; the tables say the same]({picture})",
    ]
    for work in record["works"]:
        lines += ["", f"**{work['plan'].upper()}: {work['title']}**", ""]
        heading, *rows = rows_of(work)
        lines.append("| " + " | ".join(heading) + " |")
        lines.append("| --- |" + " ---: |" * (len(heading) - 1))
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        for sentence in failures_of(work):
            lines += ["", f"{sentence}"]
        lines += ["", "| target | outcome |", "| --- | --- |"]
        lines += [f"| {target['sentence']} | {verdict(target)} |" for target in work["targets"]]
    lines += ["", "**Commands**", "", "| work | contender | command |", "| --- | --- | --- |"]
    for work in record["works"]:
        for contender in work["contenders"]:
            cells = [work["plan"].upper(), contender["name"], f"`{contender['command']}`"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(record: Record, name: str) -> None:
    """Write a record as JSON, and from that the page and the chart."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    rewrite(name)


def rewrite(name: str) -> Record:
    """Write page and chart anew from a run's JSON, and return its record."""
    record: Record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    (RESULTS / f"{name}.svg").write_text(chart.draw(record), encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(as_markdown(record, f"{name}.svg"), encoding="utf-8")
    return record
