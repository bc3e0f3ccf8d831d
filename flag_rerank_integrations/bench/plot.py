"""A picture of a bench: speed, time of one request, memory, and what each length leaves unread or costs in quality."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flag_rerank_integrations.bench.grid import Setting
from flag_rerank_integrations.bench.measurement import Row
from flag_rerank_integrations.bench.run import BenchResult
from flag_rerank_integrations.errors import ConfigError, InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FILE", "check", "draw"]

FILE: Final = "bench.png"
_MEBIBYTE: Final = 1 << 20
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
_STYLE: Final = {
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
        ConfigError: The extra `bench` is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        msg = (
            "The plot needs matplotlib, of the extra `bench`: pip install 'flag-rerank-integrations[bench]'. "
            "--no-plot does without."
        )
        raise ConfigError(msg)


def draw(result: BenchResult, path: Path) -> None:
    """Write the picture as PNG.

    Args:
        result: What was measured; at least one setting has figures.
        path: Where to write it.

    Raises:
        ConfigError: The extra `bench` is not installed.
        InputError: Nothing was measured, or the file cannot be written.
    """
    check()
    layout = _Layout.of([row for row in result.rows if row.measured])
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 7.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.04, wspace=0.04)  # type: ignore[union-attr]
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
        return 0.06 * (number - (len(self.lines) - 1) / 2)


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
    axes.set_ylim(bottom=0)
    axes.margins(y=0.12)
    axes.grid(visible=False, axis="x")


def _draw_speed(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    axes.set_title("Throughput: pairs a second, higher is better")
    _draw_lines(axes, layout, lambda row: (row.pairs_per_second, row.slowest, row.fastest), chosen)


def _draw_latency(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    axes.set_title("One request: milliseconds, median to 95th percentile")
    _draw_lines(axes, layout, lambda row: (row.latency * 1000, row.latency * 1000, row.latency_p95 * 1000), chosen)


def _draw_memory(axes: Axes, layout: _Layout, chosen: Setting | None) -> None:
    on_device = any(row.device_memory is not None for rows in layout.lines.values() for row in rows)
    axes.set_title(f"Peak memory of {'one accelerator' if on_device else 'all processes'}: MiB")

    def peak(row: Row) -> tuple[float, float, float]:
        size = row.device_memory if on_device else row.host_memory
        value = float("nan") if size is None else size / _MEBIBYTE
        return value, value, value

    _draw_lines(axes, layout, peak, chosen)


def _draw_reading(axes: Axes, layout: _Layout, result: BenchResult) -> None:
    """Draw nDCG@10 by length where it was measured, and what each tick leaves unread."""
    rows = [row for each in layout.lines.values() for row in each]
    cut = [max(row.truncated_share for row in rows if layout.place(row) == place) for place in range(len(layout.ticks))]
    ndcg = {each.max_length: each for each in result.qualities if each.ndcg is not None}
    if layout.axis != "max_length" or not ndcg:
        axes.set_title("Passages cut: % not read to their end")
        _draw_bars(axes, layout, [100 * share for share in cut])
        return
    axes.set_title("Quality: nDCG@10 (bars: % of passages cut)")
    beside = axes.twinx()
    _draw_bars(axes, layout, [100 * share for share in cut])
    found = [(place, ndcg[tick]) for place, tick in enumerate(layout.ticks) if tick in ndcg]
    beside.plot(
        [place for place, _ in found], [each.ndcg for _, each in found], color=_COLOURS[2], marker="D", linewidth=1.6
    )
    for place, each in found:
        beside.annotate(
            f"{each.ndcg:.3f}", (place, each.ndcg or 0), xytext=(0, 9), textcoords="offset points", ha="center",
            color=_COLOURS[2], fontweight="bold",
        )  # fmt: skip
    first = next((each.first_stage for _, each in found if each.first_stage is not None), None)
    if first is not None:
        beside.axhline(first, color=_GREY, linestyle="--", linewidth=1)
        beside.annotate(
            f"first stage {first:.3f}", (1, first), xycoords=("axes fraction", "data"), xytext=(-2, 4),
            textcoords="offset points", ha="right", color=_GREY,
        )  # fmt: skip
    beside.set_ylim(0, 1.05)
    beside.grid(visible=False)


def _draw_bars(axes: Axes, layout: _Layout, heights: Sequence[float]) -> None:
    bars = axes.bar(range(len(heights)), heights, width=0.5, color="#c9d6e2")
    axes.bar_label(bars, fmt="%.1f%%", padding=3, color=_GREY)
    _finish(axes, layout)
    axes.set_ylim(0, max(10.0, 1.2 * max(heights)) if max(heights) <= 80 else 110)  # noqa: PLR2004 - per cent


def _label(figure: Any, result: BenchResult, entries: tuple[list[Any], list[str]]) -> None:  # noqa: ANN401 - a Figure or SubFigure
    """Put the title above, and the legend and what was chosen below."""
    work = result.workload
    state = " (interrupted)" if result.interrupted else ""
    figure.suptitle(
        f"{result.config.model}: {work.pairs} pairs, {work.passages} passages a request, "
        f"{result.limits.repeats} rounds{state}",
        x=0.01, ha="left", fontsize=13, fontweight="bold",
    )  # fmt: skip
    handles, labels = entries
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower left", ncols=min(4, len(labels)), frameon=False)
    recommended = result.recommendation
    if recommended is not None:
        figure.supxlabel(f"circled: recommended, {recommended.setting}", x=0.99, ha="right", fontsize=9, color=_GREY)
