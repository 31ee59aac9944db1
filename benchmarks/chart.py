"""A bar chart as SVG, legible on light and dark pages: it brings its own ground for each."""

from __future__ import annotations

from html import escape

from benchmarks.running import Record
from benchmarks.works import METRICS

WIDTH = 760
MARGIN = 20
LABELS = 190
FIGURES = 90
BAR = 16
STEP = 23
TITLE = 44
GAP = 14
FOOT = 34

STYLE = """
  .ground { fill: #ffffff; } .title { fill: #1f2328; font-weight: 600; }
  .label, .note { fill: #424a53; } .ours { fill: #0a66c2; } .other { fill: #9aa4af; }
  .own { fill: #1f2328; font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117; } .title, .own { fill: #f0f3f6; } .label, .note { fill: #b7bdc8; }
    .ours { fill: #58a6ff; } .other { fill: #5b6570; }
  }
"""


def draw(record: Record) -> str:
    """Return the chart of a run: one block per work, one bar per contender, each to its scale."""
    parts: list[str] = []
    top = MARGIN
    for work in record["works"]:
        block, top = draw_work(work, top)
        parts += block
    machine = record["machine"]
    note = f"{machine['cpu']}, {record['versions']['python']}, {record['date'][:10]}; medians"
    parts.append(text(MARGIN, top + 6, "note", note))
    height = top + FOOT - 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' width="{WIDTH}" height="{height}" role="img" font-size="13"'
            ' font-family="system-ui, sans-serif">',
            "<title>Benchmarks of bridges and its peers</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def draw_work(work: Record, top: int) -> tuple[list[str], int]:
    """Return the elements of one work and where the next may start."""
    metric = METRICS[work["chart"]]
    better = "less is better" if metric.less_is_better else "more is better"
    parts = [
        text(MARGIN, top + 12, "title", f"{work['plan'].upper()}  {work['title']}"),
        text(MARGIN, top + 29, "note", f"{metric.heading}, {better}"),
    ]
    values = {
        item["name"]: item["medians"][work["chart"]]
        for item in work["contenders"]
        if "failed" not in item
    }
    most = max(values.values()) or 1.0
    room = WIDTH - 2 * MARGIN - LABELS - FIGURES
    y = top + TITLE
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        ours = name == work["subject"]
        length = max(2.0, room * value / most)
        x = MARGIN + LABELS
        words = "own" if ours else "label"
        parts.append(text(x - 8, y + 12, words, name, anchor="end"))
        parts.append(
            f'<rect class="{"ours" if ours else "other"}" x="{x}" y="{y}"'
            f' width="{length:.1f}" height="{BAR}" rx="2"/>'
        )
        parts.append(text(x + length + 7, y + 12, words, f"{value:,.{metric.digits}f}"))
        y += STEP
    return parts, y + GAP


def text(x: float, y: float, kind: str, words: str, anchor: str = "start") -> str:
    """Return a text element."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'
