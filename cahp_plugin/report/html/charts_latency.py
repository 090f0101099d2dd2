"""A picture of measured times, with what the multiply-accumulates allow."""

from __future__ import annotations

from cahp_plugin.report.html.axes import WIDTH, Axes, Chart, swatch, text, ticks
from cahp_plugin.report.html.data import Timed
from cahp_plugin.report.html.markup import Html, tag

_ROW = 40.0


def latency_legend() -> list[tuple[Html, str]]:
    """What the marks mean, once for all panels."""
    return [
        (swatch(tag("rect", x=1, y=4, width=14, height=8, fill="var(--bar)")), "reference"),
        (swatch(tag("rect", x=1, y=4, width=14, height=8, fill="var(--kept)")), "median"),
        (
            swatch(tag("line", x1=1, x2=15, y1=8, y2=8, stroke="var(--ink)", stroke_width=1.6)),
            "middle half of the calls",
        ),
        (
            swatch(tag("line", x1=8, x2=8, y1=1, y2=15, stroke="var(--accent)", stroke_width=3)),
            "theory: reference times the ratio of multiply-accumulates",
        ),
    ]


def latency_panels(timed: Timed) -> list[Chart]:
    """Median time of each target, a panel a shape.

    The theoretical limit stands only where the same library computes in the same numbers as the reference does: less
    work is less time there.
    """
    shapes = dict.fromkeys((entry["batch_size"], entry["sequence_length"]) for entry in timed.measurements)
    found = []
    for batch, length in shapes:
        entries = [
            entry for entry in timed.measurements if (entry["batch_size"], entry["sequence_length"]) == (batch, length)
        ]
        reference = entries[0]
        height = 6 + _ROW * len(entries) + 42
        longest = max(entry["p50_ms"] + entry["iqr_ms"] / 2 for entry in entries)
        axes = Axes((0, longest * 1.38), (0, 1), height=height, left=4, right=8, top=4)
        marks = axes.frame(
            "milliseconds a call (median)", "", x_ticks=ticks(0, longest * 1.1, most=7), y_ticks=(), x_grid=True
        )
        told = []
        for place, entry in enumerate(entries):
            y = 6 + place * _ROW
            comparable = (entry["backend"], entry["precision"]) == (reference["backend"], reference["precision"])
            middle, half = entry["p50_ms"], entry["iqr_ms"] / 2
            limit = reference["p50_ms"] * entry["theory"] if place and comparable else None
            ratio = f" ({entry['ratio']:.2f}\u00d7)" if place else ""
            note = f"{entry['target']}: {middle:.2f} ms{ratio}"
            if limit is not None:
                note += f", theory {entry['theory']:.2f}\u00d7"
            told.append(note)
            end = max(axes.at_x(middle + half), 0 if limit is None else axes.at_x(limit))
            name = f"{entry['target']} \u2013 {entry['num_heads']} heads, {entry['precision']}"
            bar = {"height": 13, "rx": 2, "fill": "var(--kept)" if place else "var(--bar)"}
            marks += [
                text(axes.left + 2, y + 14, name if len(name) < 62 else name[:60] + "\u2026", class_="small halo"),
                tag("rect", tag("title", note), x=axes.left, y=y + 19, width=axes.at_x(middle) - axes.left, **bar),
                tag("line", x1=axes.at_x(middle - half), x2=axes.at_x(middle + half), y1=y + 25.5, y2=y + 25.5,
                    stroke="var(--ink)", stroke_width=1.4),
                tag("line", x1=axes.at_x(limit), x2=axes.at_x(limit), y1=y + 16.5, y2=y + 34.5,
                    stroke="var(--accent)", stroke_width=3) if limit is not None else Html(),
                text(min(end + 7, WIDTH - 82), y + 30, f"{middle:.1f} ms{ratio}", class_="halo bold"),
            ]  # fmt: skip
        found.append(
            Chart(
                "latency",
                f"{length} tokens, batch of {batch}",
                f"Median milliseconds a call at {length} tokens, batch {batch}. " + "; ".join(told) + ".",
                height,
                marks,
            )
        )
    return found
