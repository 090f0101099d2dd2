"""Pictures of a comparison: accuracy against heads, differences from CAHP, and where the heads stay."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cahp_plugin.report.html.axes import WIDTH, Axes, Chart, legend, marker, points, short, swatch, text, ticks
from cahp_plugin.report.html.data import Compared
from cahp_plugin.report.html.markup import Html, tag
from cahp_plugin.report.html.style import SERIES

REFERENCE, DENSE, RANDOM = "cahp", "dense", "random"
RECOVERIES = {
    "none": "no recovery",
    "bias": "biases repaired",
    "least-squares": "least-squares repair",
    "finetune": "fine-tuning",
    "least-squares+finetune": "repair, then fine-tuning",
}
_ROW = 18.0


def methods_of(compared: Compared) -> dict[str, int]:
    """Method that was run -> number of its look, the same in every comparison; random's is the last, grey."""
    names = dict.fromkeys(row.method for row in compared.rows if row.method != DENSE)
    known = [*compared.methods, *(name for name in names if name not in compared.methods)]
    order = [name for name in known if name != RANDOM]
    numbers = {name: place % (len(SERIES) - 1) for place, name in enumerate(order) if name in names}
    return numbers | ({RANDOM: len(SERIES) - 1} if RANDOM in names else {})


def recoveries_of(compared: Compared) -> list[str]:
    """Recoveries in the order of growing effort."""
    names = dict.fromkeys(row.recover for row in compared.rows if row.method != DENSE)
    return sorted(names, key=lambda name: (list(RECOVERIES).index(name) if name in RECOVERIES else 99, name))


def counts_of(compared: Compared) -> list[int]:
    """Numbers of heads, the highest first."""
    return sorted({row.num_heads for row in compared.rows if row.method != DENSE}, reverse=True)


def dense_of(compared: Compared) -> Any:
    """The dense model's row, or ``None``."""
    return next((row for row in compared.rows if row.method == DENSE), None)


def extremes(compared: Compared) -> tuple[Any, Any, Any]:
    """Rows of the dense model, of the best method with the fewest heads, and of CAHP beside it.

    The best is that on the validation set where there is one, else on the test set. CAHP's is the one with the same
    recovery; the first and the last are ``None`` where they were not run.
    """
    fewest = counts_of(compared)[-1]
    rows = [row for row in compared.rows if row.method != DENSE and row.num_heads == fewest]
    best = max(rows, key=lambda row: row.mean if row.validation is None else row.validation)
    own = [row for row in rows if row.method == REFERENCE and row.recover == best.recover]
    return dense_of(compared), best, own[0] if own else None


def named(recovery: str) -> str:
    """A recovery in words."""
    return RECOVERIES.get(recovery, recovery)


def methods_legend(compared: Compared) -> Html:
    """The methods' colours and shapes, once for all panels."""
    return legend([(swatch(marker(number, 8, 8)), name) for name, number in methods_of(compared).items()])


def accuracy_panels(compared: Compared) -> list[Chart]:
    """Accuracy against heads kept, a panel a recovery, all on the same scales."""
    numbers, counts, dense = methods_of(compared), counts_of(compared), dense_of(compared)
    rows = [row for row in compared.rows if row.method != DENSE]
    ends = [100 * (row.mean + sign * (row.deviation or 0)) for row in rows for sign in (-1, 1)]
    ends += [] if dense is None else [100 * dense.mean]
    pad = max(0.08 * (max(ends) - min(ends)), 0.5)
    widen = max(0.12 * (counts[0] - counts[-1]), 0.5)
    axes = Axes((counts[-1] - widen, counts[0] + widen), (min(ends) - pad, max(ends) + 1.6 * pad), height=320)
    places = [axes.at_x(count) for count in counts]
    gap = min((a - b for a, b in itertools.pairwise(places)), default=160.0)
    shift = min(9.0, 0.8 * gap / max(len(numbers), 1), 2 * 0.8 * (places[-1] - axes.left) / max(len(numbers), 1))
    return [_accuracy_panel(compared, recovery, axes, shift) for recovery in recoveries_of(compared)]


def _accuracy_panel(compared: Compared, recovery: str, axes: Axes, shift: float) -> Chart:
    numbers, counts, dense = methods_of(compared), counts_of(compared), dense_of(compared)
    shown = counts[:1]
    for count in counts[1:]:
        if axes.at_x(shown[-1]) - axes.at_x(count) > 22:
            shown.append(count)
    marks = axes.frame("heads kept", "accuracy, %", x_ticks=shown, y_ticks=ticks(*axes.y))
    if dense is not None:
        y = axes.at_y(100 * dense.mean)
        marks += [
            tag("line", x1=axes.left, x2=WIDTH - axes.right, y1=y, y2=y, stroke="var(--ink)", stroke_dasharray="6 4"),
            text(axes.left + 4, y - 6, f"dense {100 * dense.mean:.1f} %", class_="small halo"),
        ]
    told = []
    # CAHP is drawn last, above the others.
    for name in sorted(numbers, key=lambda name: name == REFERENCE):
        number = numbers[name]
        offset = (list(numbers).index(name) - (len(numbers) - 1) / 2) * shift
        entries = [row for row in compared.rows if row.method == name and row.recover == recovery]
        entries.sort(key=lambda row: row.num_heads)
        spots = [(axes.at_x(row.num_heads) + offset, axes.at_y(100 * row.mean)) for row in entries]
        colour = f"var(--series-{number})"
        wide = 2.4 if name == REFERENCE else 1.2
        marks.append(
            tag("polyline", points=points(spots), fill="none", stroke=colour, stroke_width=wide,
                stroke_opacity=1 if name == REFERENCE else 0.55)
        )  # fmt: skip
        for row, (x, _) in zip(entries, spots, strict=True):
            if row.deviation:
                ends = [axes.at_y(100 * (row.mean + sign * row.deviation)) for sign in (-1, 1)]
                marks.append(tag("line", x1=x, x2=x, y1=ends[0], y2=ends[1], stroke=colour, stroke_width=1.4))
        for row, (x, y) in zip(entries, spots, strict=True):
            spread = "" if row.deviation is None else f" \u00b1 {100 * row.deviation:.1f}"
            note = f"{name}, {row.num_heads} heads: {100 * row.mean:.1f}{spread} % ({row.num_seeds} seeds)"
            marks.append(marker(number, x, y, note=note))
            told.append(note)
    return Chart(
        "accuracy",
        named(recovery).capitalize(),
        f"Accuracy against heads kept after {named(recovery)}. " + "; ".join(reversed(told)) + ".",
        axes.height,
        marks,
    )


def difference_panels(compared: Compared) -> list[Chart]:
    """Each method's difference from CAHP with its interval, a panel a recovery; none where CAHP was not run."""
    rows = [row for row in compared.rows if row.difference is not None and row.interval is not None]
    if not rows:
        return []
    ends = [100 * end for row in rows for end in row.interval]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    pad = 0.05 * (high - low) or 1.0
    found = []
    for recovery in recoveries_of(compared):
        entries = [row for row in rows if row.recover == recovery]
        if entries:
            found.append(_difference_panel(compared, recovery, entries, (low - pad, high + pad)))
    return found


def _difference_panel(compared: Compared, recovery: str, rows: Sequence[Any], span: tuple[float, float]) -> Chart:
    numbers = methods_of(compared)
    groups = [(count, [row for row in rows if row.num_heads == count]) for count in counts_of(compared)]
    groups = [(count, sorted(entries, key=lambda row: -row.difference)) for count, entries in groups if entries]
    left = min(max(7.0 * max(len(row.method) for row in rows) + 14, 60.0), 150.0)
    height = 24 + sum(24 + _ROW * len(entries) for _, entries in groups) + 46
    axes = Axes(span, (0, 1), height=height, left=left, top=8)
    marks = axes.frame(
        "percentage points against cahp",
        "",
        x_ticks=ticks(*span, most=8),
        y_ticks=(),
        x_format=lambda value: ("+" if value > 0 else "") + short(value),
        x_grid=True,
    )
    zero = axes.at_x(0)
    marks.append(tag("line", x1=zero, x2=zero, y1=axes.top, y2=height - axes.bottom, stroke="var(--series-0)",
                     stroke_width=2))  # fmt: skip
    y, told = 22.0, []
    for count, entries in groups:
        marks.append(text(0, y + 4, f"{count} heads", class_="bold"))
        y += 20
        for row in entries:
            ends = [axes.at_x(100 * end) for end in row.interval]
            low, high = (100 * end for end in row.interval)
            note = f"{row.method}, {count} heads: {100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
            told.append(note)
            colour = f"var(--series-{numbers[row.method]})"
            marks += [
                text(left - 8, y + 4, _shortened(row.method, 19), anchor="end"),
                tag("line", x1=ends[0], x2=ends[1], y1=y, y2=y, stroke=colour, stroke_width=2),
                marker(numbers[row.method], axes.at_x(100 * row.difference), y, hollow=row.side == 0, note=note),
            ]
            y += _ROW
        y += 6
    return Chart(
        "difference",
        named(recovery).capitalize(),
        f"Difference from cahp in percentage points with 95 % intervals, after {named(recovery)}. "
        + "; ".join(told)
        + ".",
        height,
        marks,
    )


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def layer_panels(compared: Compared) -> list[Chart]:
    """Heads kept in each layer by each method, mean over seeds: a panel a number of heads."""
    return [_layer_panel(compared, count) for count in counts_of(compared)]


def _layer_panel(compared: Compared, count: int) -> Chart:
    numbers = methods_of(compared)
    means: dict[str, np.ndarray[Any, Any]] = {}
    layers = sorted({int(layer) for run in compared.runs for layer in run.kept})
    for name in numbers:
        # The recovery does not change which heads were kept.
        kept = {run.seed: run.kept for run in compared.runs if run.method == name and run.num_heads == count}
        if kept:
            means[name] = np.mean([[len(one[str(layer)]) for layer in layers] for one in kept.values()], axis=0)
    top, row = 24.0, 24.0
    left = min(max(7.0 * max(map(len, means), default=4) + 14, 60.0), 150.0)
    width = (WIDTH - left - 2) / len(layers)
    most = float(max([1.0, *(value.max() for value in means.values())]))
    marks = [text(left, 10, "layer", class_="soft small")]
    step = 1 if width >= 16 else 2 if width >= 9 else 4
    for place, layer in list(enumerate(layers))[::step]:
        marks.append(text(left + (place + 0.5) * width, top - 2, f"{layer}", anchor="middle", class_="soft small"))
    for line, (name, values) in enumerate(means.items()):
        y = top + 4 + line * row
        marks.append(text(left - 8, y + 16, _shortened(name, 19), anchor="end"))
        for place, value in enumerate(values):
            shade = float(value) / most
            x = left + place * width
            note = tag("title", f"{name}, layer {layers[place]}: {value:.1f} heads on average")
            # --depth keeps the darkest cell light enough (or, in the dark, dim enough) for the number on it.
            depth = f"fill-opacity:calc({0.06 + 0.94 * shade:.3f}*var(--depth))"
            side = {"width": max(width - 1.5, 1), "height": row - 1.5, "rx": 2}
            marks.append(tag("rect", note, x=x, y=y, fill="var(--kept)", style=depth, **side))
            if width >= 22:
                label = f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"
                marks.append(text(x + width / 2 - 0.75, y + 15.5, label, anchor="middle", class_="small"))
    told = "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in means.items())
    return Chart(
        "perlayer",
        f"{count} heads kept",
        f"Heads kept in layers {layers[0]} to {layers[-1]}, mean over seeds. {told}.",
        top + 6 + row * len(means),
        marks,
    )
