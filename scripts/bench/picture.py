"""The picture: time of finds and saves over the number of tokens, on logarithmic scales, in light and in dark."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from bench.report import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.timing import Spread

#: The seconds of an operation, by the number of tokens.
Line = dict[int, "Spread"]

#: The name of the line that is drawn for the aim.
AIM = "aim"


class Panel(NamedTuple):
    """One operation: its title, a note below the title, and the lines by the candidates' names."""

    title: str
    note: str
    lines: dict[str, Line]


_WIDTH, _HEIGHT = 1_060, 460
_TOP, _BOTTOM = 78, 392
_PLOT_WIDTH = 308
_LEFTS = (70, 592)
#: The distance between a line's end and its name, and between two names.
_GAP, _LABEL_HEIGHT = 9, 17

#: Of each candidate, on light and on dark.
_COLOURS = (
    ("#0969da", "#58a6ff"),
    ("#59636e", "#a5b0bb"),
    ("#cf222e", "#ff8a80"),
    ("#1a7f37", "#56d364"),
    ("#9a6700", "#e3b341"),
    ("#8250df", "#c9a5ff"),
)

_STYLE = """
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .card { fill: #ffffff; stroke: #d1d9e0; }
  .grid { stroke: #e4e8ec; stroke-width: 1; }
  .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
  .spread { stroke-width: 1.2; }
  .c0 .line { stroke-width: 3.2; }
  .c0 text { font-weight: 700; }
  .c1 .line { stroke-dasharray: 5 4; }
  .aim .line { stroke: #8c959f; stroke-width: 1.2; stroke-dasharray: 1 4; }"""


class _Scales(NamedTuple):
    """The scales of one panel."""

    left: float
    sizes: tuple[int, ...]
    least_s: float
    most_s: float

    def x(self, tokens: int) -> float:
        part = math.log(tokens / self.sizes[0]) / math.log(max(self.sizes[-1] / self.sizes[0], 2))
        return self.left + _PLOT_WIDTH * part

    def y(self, seconds: float) -> float:
        part = math.log(seconds / self.least_s) / math.log(self.most_s / self.least_s)
        return _BOTTOM - (_BOTTOM - _TOP) * part


def draw(panels: Sequence[Panel], names: Sequence[str], caption: str) -> str:
    """Return the picture as SVG.

    Args:
        panels: At most two operations.
        names: All candidates in the order of their colours: ours first, then the limit.
        caption: The line below.
    """
    inner = []
    for left, panel in zip(_LEFTS, panels, strict=False):
        inner += _drawn(left, panel, names)
    size = f'width="{_WIDTH}" height="{_HEIGHT}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {size} role="img">',
            f"<title>{escape(' and '.join(panel.title for panel in panels))} over the number of tokens</title>",
            f"<style>{_STYLE}{_colours(0)}",
            "  @media (prefers-color-scheme: dark) {",
            "  text { fill: #f0f6fc; } .small { fill: #a5b0bb; }",
            "  .card { fill: #0d1117; stroke: #3d444d; } .grid { stroke: #262c36; }" + _colours(1),
            "  }",
            "</style>",
            f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="8"/>',
            *inner,
            _text(_LEFTS[0] - 50, _HEIGHT - 16, caption, "small"),
            "</svg>",
            "",
        ]
    )


def _colours(scheme: int) -> str:
    return "".join(
        f"\n  .c{number} * {{ stroke: {pair[scheme]}; }} .c{number} text {{ stroke: none; fill: {pair[scheme]}; }}"
        for number, pair in enumerate(_COLOURS)
    )


def _drawn(left: float, panel: Panel, names: Sequence[str]) -> list[str]:
    every = [found for line in panel.lines.values() for found in line.values()]
    scales = _Scales(
        left,
        tuple(sorted({tokens for line in panel.lines.values() for tokens in line})),
        10.0 ** math.floor(math.log10(min(found.q1 for found in every))),
        10.0 ** math.ceil(math.log10(max(found.q3 for found in every)) + 1e-9),
    )
    drawn = [_text(left, 34, panel.title, "title"), _text(left, 54, panel.note, "small"), *_grid(scales)]
    label_y = 0.0
    # From the top down, so that a name that would cover the one above moves below it.
    for name, line in sorted(panel.lines.items(), key=lambda one: -one[1][max(one[1])].median):
        label_y = max(label_y + _LABEL_HEIGHT, scales.y(line[max(line)].median) + 4)
        points = " ".join(f"{scales.x(tokens):.1f},{scales.y(line[tokens].median):.1f}" for tokens in sorted(line))
        drawn.append(f'<g class="{"aim" if name == AIM else f"c{names.index(name)}"}">')
        drawn.append(f'<polyline class="line" points="{points}"/>')
        for tokens, found in line.items() if name != AIM else ():
            x, y1, y2 = scales.x(tokens), scales.y(found.q1), scales.y(found.q3)
            drawn.append(f'<line class="spread" x1="{x:.1f}" y1="{y1:.1f}" x2="{x:.1f}" y2="{y2:.1f}"/>')
        drawn.append(_text(left + _PLOT_WIDTH + _GAP, label_y, name, "label"))
        drawn.append("</g>")
    return drawn


def _grid(scales: _Scales) -> Iterable[str]:
    right = scales.left + _PLOT_WIDTH
    for power in range(round(math.log10(scales.least_s)), round(math.log10(scales.most_s)) + 1):
        y = scales.y(10.0**power)
        yield f'<line class="grid" x1="{scales.left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield _text(scales.left - 8, y + 4, duration(10.0**power), "small", anchor="end")
    for tokens in scales.sizes:
        x = scales.x(tokens)
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_BOTTOM}"/>'
        yield _text(x, _BOTTOM + 18, f"{tokens:,}", "small", anchor="middle")
    yield _text(scales.left + _PLOT_WIDTH / 2, _BOTTOM + 36, "tokens in the store", "small", anchor="middle")


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
