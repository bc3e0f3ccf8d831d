"""A picture of a bench: speed, time of one request, memory, and what each length leaves unread or costs in quality."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.bench.grid import Setting
from flag_rerank_integrations.bench.measurement import Row
from flag_rerank_integrations.bench.quality import Quality
from flag_rerank_integrations.bench.run import BenchResult
from flag_rerank_integrations.bench.wording import counted
from flag_rerank_integrations.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FILE", "check", "draw"]

FILE: Final = "bench.png"
_MEBIBYTE: Final = 1 << 20
_WIDTH: Final = 11.0
"""Inches."""
# Okabe and Ito's colours, which people with any colour vision can tell apart; yellow is too pale for lines.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS: Final = "osD^vPX"
_GREY: Final = "#666666"
_AXES: Final = {
    "max_length": "max_length, tokens",
    "max_batch_tokens": "token budget",
    "dtype": "data type",
    "device_name": "device",
}
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": "#e6e6e6",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
}


def check() -> None:
    """Make sure that a picture can be drawn.

    Raises:
        MissingExtraError: The extra `bench` is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        msg = (
            "The plot needs matplotlib, of the extra `bench`: pip install 'flag-rerank-integrations[bench]'. "
            "--no-plot does without."
        )
        raise MissingExtraError(msg, name="matplotlib")


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture as PNG.

    Args:
        result: What was measured; at least one setting has figures.
        path: Where to write it.

    Raises:
        MissingExtraError: The extra `bench` is not installed.
        InputError: Nothing was measured, or the file cannot be written.
    """
    check()
    layout = _Layout.of([row for row in result.rows if row.measured])
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(_STYLE):
        spaces = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04, hspace=0.04)
        figure = Figure(figsize=(_WIDTH, 7.8), layout=spaces)
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        recommended = result.recommendation
        chosen = None if recommended is None else recommended.setting
        _draw_speed(axes[0][0], layout, chosen)
        _draw_latency(axes[0][1], layout, chosen)
        _draw_memory(axes[1][0], layout, chosen)
        _draw_reading(axes[1][1], layout, result)
        _label(figure, result, axes[0][0].get_legend_handles_labels())
        try:
            figure.savefig(path, dpi=150, facecolor="white")
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror or error}"
            raise InputError(msg) from error


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which option runs along the horizontal axis, and which rows make a line."""

    axis: str
    ticks: tuple[Any, ...]
    lines: dict[str, list[Row]]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Layout:
        """Take the first option with several values for the axis, and the others for the lines."""
        if not rows:
            msg = "There is nothing to draw: no setting was measured."
            raise InputError(msg)
        values = {name: tuple(dict.fromkeys(getattr(row.setting, name) for row in rows)) for name in _AXES}
        axis = next((name for name in _AXES if len(values[name]) > 1), "max_length")
        others = [name for name in _AXES if name != axis and len(values[name]) > 1]
        lines: dict[str, list[Row]] = {}
        for row in rows:
            lines.setdefault(", ".join(_named(row.setting, name) for name in others), []).append(row)
        ticks = sorted(values[axis]) if axis == "max_length" else values[axis]
        return cls(axis, tuple(ticks), lines)

    def place(self, row: Row) -> int:
        """Return where a row stands on the axis: values are as far apart as any others."""
        return self.ticks.index(getattr(row.setting, self.axis))

    def offset(self, number: int) -> float:
        """Return by how much a line's points stand beside the tick, so that ranges do not hide each other."""
        return (number - (len(self.lines) - 1) / 2) * min(0.06, 0.4 / len(self.lines))


def _named(setting: Setting, name: str) -> str:
    value = getattr(setting, name)
    return f"budget {value}" if name == "max_batch_tokens" else str(value)


def _draw_lines(
    axes: Axes, layout: _Layout, figure_of: Callable[[Row], tuple[float, float, float]], chosen: Setting | None
) -> None:
    """Draw a line for each combination of the other options, with the range of each point."""
    for number, (name, rows) in enumerate(layout.lines.items()):
        ordered = sorted(rows, key=layout.place)
        places = [layout.place(row) + layout.offset(number) for row in ordered]
        middle, low, high = zip(*map(figure_of, ordered), strict=True)
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number // len(_COLOURS) % len(_MARKERS)]
        axes.vlines(places, low, high, color=colour, alpha=0.35, linewidth=5)
        axes.plot(places, middle, color=colour, marker=marker, linewidth=1.6, markersize=6, label=name)
        for row, place, value in zip(ordered, places, middle, strict=True):
            if row.setting == chosen:
                axes.plot(
                    [place], [value], marker="o", markersize=15, markerfacecolor="none", markeredgecolor="#222222",
                    markeredgewidth=1.4, linestyle="none",
                )  # fmt: skip
    _finish(axes, layout)


def _finish(axes: Axes, layout: _Layout) -> None:
    axes.set_xticks(range(len(layout.ticks)), [str(tick) for tick in layout.ticks])
    axes.set_xlim(-0.5, len(layout.ticks) - 0.5)
    axes.set_xlabel(_AXES[layout.axis])
    axes.margins(y=0.12)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")


def _draw_speed(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    axes.set_title("Throughput: pairs a second, higher is better")
    _draw_lines(axes, layout, lambda row: (row.pairs_per_second, row.slowest, row.fastest), chosen)


def _draw_latency(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    axes.set_title("One request: milliseconds, median to 95th percentile")
    _draw_lines(axes, layout, lambda row: (row.latency * 1000, row.latency * 1000, row.latency_p95 * 1000), chosen)


def _draw_memory(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    on_device = any(row.device_memory is not None for rows in layout.lines.values() for row in rows)
    axes.set_title(f"Peak memory of {'the fullest accelerator' if on_device else 'all processes'}: MiB")

    def peak(row: Row) -> tuple[float, float, float]:
        size = row.device_memory if on_device else row.host_memory
        value = float("nan") if size is None else size / _MEBIBYTE
        return value, value, value

    _draw_lines(axes, layout, peak, chosen)


def _draw_reading(axes: Axes, layout: _Layout, result: BenchResult) -> None:
    """Draw what each tick leaves unread; or nDCG@10 by length where it was measured, with that share below it."""
    rows = [row for each in layout.lines.values() for row in each]
    cut = [max(row.truncated_share for row in rows if layout.place(row) == place) for place in range(len(layout.ticks))]
    judged = [each for each in result.qualities if each.ndcg is not None and each.max_length in layout.ticks]
    if layout.axis == "max_length" and judged:
        _draw_quality(axes, layout, sorted(judged, key=lambda each: each.max_length))
        ticks = [f"{tick}\n({share:.0%} cut)" for tick, share in zip(layout.ticks, cut, strict=True)]
        axes.set_xticks(range(len(ticks)), ticks)
        return
    axes.set_title("Passages cut: % not read to their end")
    heights = [100 * share for share in cut]
    bars = axes.bar(range(len(heights)), heights, width=0.5, color="#c9d6e2")
    axes.bar_label(bars, fmt="%.1f%%", padding=3, color=_GREY)
    _finish(axes, layout)
    axes.set_ylim(0, max(10.0, 1.2 * max(heights)))


def _draw_quality(axes: Axes, layout: _Layout, judged: Sequence[Quality]) -> None:
    """Draw nDCG@10 with the interval of its difference to the first stage."""
    axes.set_title("Quality: nDCG@10, and 95% interval of the gain")
    places = [layout.ticks.index(each.max_length) for each in judged]
    values = [each.ndcg or 0.0 for each in judged]
    ends = list(values)
    for place, each in zip(places, judged, strict=True):
        if each.gain is not None and each.first_stage is not None:
            interval = each.first_stage + each.gain.low, each.first_stage + each.gain.high
            axes.vlines(place, *interval, color=_COLOURS[2], alpha=0.3, linewidth=5)
            ends += interval
    axes.plot(places, values, color=_COLOURS[2], marker="D", linewidth=1.6)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3f}", (place, value), xytext=(-7, 5), textcoords="offset points", ha="right", color="#00664a"
        )
    first = judged[0].first_stage
    if first is not None:
        ends.append(first)
        axes.axhline(first, color=_GREY, linestyle="--", linewidth=1)
        axes.annotate(
            f"first stage {first:.3f}", (0, first), xycoords=("axes fraction", "data"), xytext=(4, 4),
            textcoords="offset points", color=_GREY,
        )  # fmt: skip
    _finish(axes, layout)
    room = 0.15 * (max(ends) - min(ends)) + 0.005
    axes.set_ylim(max(0.0, min(ends) - room), max(ends) + room)


def _label(figure: Any, result: BenchResult, entries: tuple[list[Any], list[str]]) -> None:  # noqa: ANN401 - a Figure or SubFigure
    """Put the title above, and the legend and what was chosen below."""
    work = result.workload
    state = ", interrupted" if result.interrupted else ""
    recommended = result.recommendation
    chosen = "" if recommended is None else f"\ncircled: recommended, {recommended.setting}"
    figure.suptitle(
        f"{result.config.model}: {work.pairs} pairs, {work.passages} passages a request, "
        f"{counted(result.limits.repeats, 'round')}{state}{chosen}",
        x=0.01, ha="left", fontsize=12,
    )  # fmt: skip
    handles, labels = entries
    if len(labels) > 1:
        width = 0.6 + 0.08 * max(map(len, labels))  # of one entry at this size, in inches
        columns = max(1, min(len(labels), int(_WIDTH / width)))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
