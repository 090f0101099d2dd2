"""Pictures of a pruned checkpoint: which heads stayed, in which layers, and why so many."""

from __future__ import annotations

import numpy as np

from cahp_plugin.report.html.axes import WIDTH, Axes, Chart, points, swatch, text, ticks
from cahp_plugin.report.html.data import Pruned
from cahp_plugin.report.html.markup import Html, tag
from cahp_plugin.selectors.cahp.selection import HeadSelection


def charts(pruned: Pruned) -> list[Chart]:
    """All pictures that the files allow."""
    found = [kept_heads(pruned), heads_per_layer(pruned)]
    if pruned.selection is not None:
        if len(pruned.selection.curve.k):
            found.append(curve(pruned.selection))
        if len(pruned.selection.heads):
            found.append(graph_space(pruned.selection))
    return found


def kept_heads(pruned: Pruned) -> Chart:
    """Map of layers and heads: kept, removed now, or removed before; the shade is the salience."""
    layers, width = list(pruned.kept), pruned.num_original_heads
    left, top = 34.0, 32.0
    side = min((WIDTH - left - 6) / width, 34.0)
    x0 = left + (WIDTH - left - 6 - side * width) / 2
    gap = 1.5 if side > 12 else 0.8
    salience = None if pruned.selection is None else pruned.selection.salience
    marks = [text(x0 + side * width / 2, 10, "head", anchor="middle", class_="soft small")]
    marks.append(text(0, top - 2, "layer", class_="soft small"))
    step = 1 if side >= 18 else 2 if side >= 10 else 4
    for head in range(0, width, step):
        marks.append(text(x0 + (head + 0.5) * side, top - 2, f"{head}", anchor="middle", class_="soft small"))
    states = {"kept": 0, "removed": 0, "removed before": 0}
    for row, layer in enumerate(layers):
        y = top + 3 + row * side
        if row % step == 0:
            marks.append(text(x0 - 7, y + side / 2 + 4, f"{layer}", anchor="end", class_="soft small"))
        for head in range(width):
            state = (
                "removed before"
                if head not in pruned.present[layer]
                else "kept"
                if head in pruned.kept[layer]
                else "removed"
            )
            states[state] += 1
            value = None if salience is None or state == "removed before" else float(salience[layer, head])
            if value is not None and np.isnan(value):
                value = None
            marks.append(_cell(x0 + head * side, y, side - gap, state, value, f"Layer {layer}, head {head}: {state}"))
    legend = [(swatch(_square(state, 1.0)), f"{state}, {count}") for state, count in states.items() if count]
    shade = "" if salience is None else " The stronger its colour, the more salient: the more the loss depends on it."
    share = f"{100 * pruned.num_heads / max(pruned.num_present, 1):.0f} %"
    return Chart(
        "kept",
        f"{pruned.num_heads} of {pruned.num_present} heads stay ({share})",
        "Map of layers and heads. "
        + "; ".join(f"layer {layer} keeps {_list(heads)}" for layer, heads in pruned.kept.items())
        + ".",
        top + 5 + side * len(layers),
        marks,
        legend,
        f"Each square is a head, with its index before any pruning.{shade}",
    )


def _list(heads: tuple[int, ...]) -> str:
    return ", ".join(map(str, heads)) or "none"


def _cell(x: float, y: float, side: float, state: str, salience: float | None, note: str) -> Html:
    if salience is not None:
        note += f", salience {salience:.3f}"
    look = _look(state, 1.0 if salience is None else 0.5 + 0.5 * float(np.sqrt(salience)))
    return tag("rect", tag("title", note), x=x, y=y, width=side, height=side, rx=min(3.0, side / 6), **look)


def _look(state: str, shade: float) -> dict[str, str | float]:
    if state == "removed before":
        return {"fill": "none", "stroke": "var(--line)", "stroke_dasharray": "2 2"}
    return {"fill": "var(--kept)" if state == "kept" else "var(--dropped)", "fill_opacity": shade}


def _square(state: str, shade: float) -> Html:
    return tag("rect", x=2, y=2, width=12, height=12, rx=2, **_look(state, shade))


def heads_per_layer(pruned: Pruned) -> Chart:
    """Share of its heads that each layer keeps, with the count above the bar."""
    layers = list(pruned.kept)
    axes = Axes((-0.6, len(layers) - 0.4), (0, 100), height=280)
    step = 1 if len(layers) <= 13 else 2 if len(layers) <= 26 else 4
    marks = axes.frame(
        "layer (0 is next to the input)",
        "heads kept, % of the layer's",
        x_ticks=range(0, len(layers), step),
        x_format=lambda place: f"{layers[int(place)]}",
        y_ticks=[0, 25, 50, 75, 100],
    )
    width = min(34.0, 0.72 * (axes.at_x(1) - axes.at_x(0)))
    counts = []
    for place, layer in enumerate(layers):
        kept, before = len(pruned.kept[layer]), len(pruned.present[layer])
        counts.append(kept)
        share = 100 * kept / before if before else 0.0
        x, y = axes.at_x(place), axes.at_y(share)
        note = f"Layer {layer}: {kept} of {before} heads, {share:.1f} %"
        bar = {"x": x - width / 2, "width": width}
        ceiling, floor = axes.at_y(100), axes.at_y(0)
        marks.append(
            tag("rect", y=ceiling, height=floor - ceiling, fill="var(--dropped)", fill_opacity=0.28, rx=2, **bar)
        )
        marks.append(
            tag("rect", tag("title", note), y=y, height=floor - y, fill="var(--kept)", rx=min(2, share), **bar)
        )
        inside = share > 90  # the count would stand above the frame
        marks.append(
            tag(
                "text",
                f"{kept}",
                x=x,
                y=y + 14 if inside else y - 5,
                text_anchor="middle",
                class_="small bold",
                style="fill:var(--on-kept)" if inside else None,
            )
        )
    told = "; ".join(f"layer {layer}: {len(pruned.kept[layer])} of {len(pruned.present[layer])}" for layer in layers)
    even = min(counts) == max(counts)
    return Chart(
        "layers",
        f"Every layer keeps {counts[0]}" if even else f"Layers keep {min(counts)} to {max(counts)} heads",
        f"Bars. {told}.",
        axes.height,
        marks,
        (),
        "The number on a bar is a count of heads; the pale bar is what the layer had.",
    )  # fmt: skip


def curve(selection: HeadSelection) -> Chart:
    """Mean Simplified Silhouette against the number of clusters, with the fitted polynomial and the chosen number."""
    line = selection.curve
    k, mss = [float(value) for value in line.k], [float(value) for value in line.mss]
    smoothed = [float(value) for value in line.smoothed]
    values = [value for value in [*mss, *smoothed] if np.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.05
    axes = Axes((k[0], k[-1]), (low - pad, high + pad), left=44, height=290)
    marks = axes.frame(
        "number of clusters k",
        "Mean Simplified Silhouette (no unit)",
        x_ticks=ticks(k[0], k[-1], most=9, whole=True),
        y_ticks=ticks(*axes.y),
    )
    for place, value in zip(k, mss, strict=True):
        if np.isfinite(value):
            note = tag("title", f"k = {place:.0f}: {value:.4f}")
            marks.append(
                tag("circle", note, cx=axes.at_x(place), cy=axes.at_y(value), r=2.2, fill="var(--muted)",
                    fill_opacity=0.75)
            )  # fmt: skip
    legend = [(swatch(tag("circle", cx=8, cy=8, r=3, fill="var(--muted)")), "measured")]
    if smoothed:
        path = points([(axes.at_x(a), axes.at_y(b)) for a, b in zip(k, smoothed, strict=True)])
        marks.append(tag("polyline", points=path, fill="none", stroke="var(--kept)", stroke_width=2))
        degree = min(selection.config.polynomial_degree, len(k) - 1)
        legend.append((_line("var(--kept)"), f"polynomial of degree {degree}"))
    chosen = selection.num_clusters
    word = "knee" if selection.knee is not None else "taken"
    if chosen in k:
        x, y = axes.at_x(chosen), axes.at_y(mss[k.index(chosen)])
        late = chosen > k[0] + 0.62 * (k[-1] - k[0])
        marks += [
            tag("line", x1=x, x2=x, y1=axes.top, y2=axes.height - axes.bottom, stroke="var(--accent)",
                stroke_dasharray="5 4"),
            tag("circle", cx=x, cy=y, r=6, fill="none", stroke="var(--accent)", stroke_width=2.2),
            tag("text", f"{word}: k = {chosen}", x=x + (-8 if late else 8), y=axes.height - axes.bottom - 10,
                text_anchor="end" if late else None, class_="bold halo", style="fill:var(--accent)"),
        ]  # fmt: skip
    title = f"The curve bends at k = {chosen}" if selection.knee is not None else f"{chosen} clusters taken, no knee"
    return Chart(
        "curve",
        title,
        f"Mean Simplified Silhouette for {k[0]:.0f} to {k[-1]:.0f} clusters, from {mss[0]:.3f} to {mss[-1]:.3f}. "
        + selection.note,
        axes.height,
        marks,
        legend,
        selection.note,
    )


def _line(colour: str) -> Html:
    return swatch(tag("line", x1=0, x2=22, y1=8, y2=8, stroke=colour, stroke_width=2.4), width=22)


def graph_space(selection: HeadSelection) -> Chart:
    """Heads in the plane of t-SNE, coloured by layer; kept heads ringed and joined to the heads they stand for."""
    xy = np.asarray(selection.coordinates, dtype=float)
    middle = (xy.max(0) + xy.min(0)) / 2
    height, left, top, bottom, right = 330.0, 44.0, 30.0, 42.0, 12.0
    inside = np.array([WIDTH - left - right, height - top - bottom])
    # One scale for both axes: distances are what the method looks at.
    unit = float(np.max(np.ptp(xy, axis=0) * 1.1 / inside)) or 1.0
    low, high = middle - inside * unit / 2, middle + inside * unit / 2
    axes = Axes((low[0], high[0]), (low[1], high[1]), height=height, left=left, top=top, bottom=bottom, right=right)
    marks = axes.frame(
        "t-SNE 1 (no unit)", "t-SNE 2 (no unit)", x_ticks=ticks(*axes.x), y_ticks=ticks(*axes.y), x_grid=True
    )
    places = [(axes.at_x(x), axes.at_y(y)) for x, y in xy]
    kept = np.array([head in selection.kept.heads[layer] for layer, head in selection.heads])
    for label in range(selection.num_clusters):
        members = np.flatnonzero(selection.clusters == label)
        anchors = members[kept[members]]
        for row in members[~kept[members]] if len(anchors) else []:
            nearest = anchors[np.argmin(np.linalg.norm(xy[anchors] - xy[row], axis=1))]
            (x1, y1), (x2, y2) = places[row], places[nearest]
            marks.append(tag("line", x1=x1, x2=x2, y1=y1, y2=y2, stroke="var(--muted)", stroke_opacity=0.55))
    size = float(np.clip(60 / np.sqrt(len(xy)), 2.6, 5.0))
    for row in [*np.flatnonzero(~kept), *np.flatnonzero(kept)]:
        (layer, head), (x, y) = selection.heads[row], places[row]
        salience = selection.salience[layer, head]
        note = f"Layer {layer}, head {head}: {'kept' if kept[row] else 'removed'}, cluster {selection.clusters[row]}"
        look: dict[str, str | float] = (
            {"r": 1.5 * size, "stroke": "var(--accent)", "stroke_width": 2.2}
            if kept[row]
            else {"r": size, "stroke": "var(--card)", "stroke_width": 0.6}
        )
        marks.append(
            tag("circle", tag("title", f"{note}, salience {salience:.3f}"), cx=x, cy=y, fill=f"var(--layer-{layer})",
                **look)
        )  # fmt: skip
    layers = selection.salience.shape[0]
    strip = min(12.0, 168 / layers)
    colours = swatch(
        *(tag("rect", x=strip * layer, y=2, width=strip, height=12, fill=f"var(--layer-{layer})")
          for layer in range(layers)),
        width=strip * layers,
    )  # fmt: skip
    ring = swatch(tag("circle", cx=8, cy=8, r=5.5, fill="none", stroke="var(--accent)", stroke_width=2.2))
    dot = swatch(tag("circle", cx=8, cy=8, r=3.5, fill="var(--muted)"))
    clusters = selection.num_clusters
    return Chart(
        "space",
        f"The kept heads come from {clusters} cluster{'s' if clusters != 1 else ''}",
        f"Graph space: {len(xy)} heads, of which {int(kept.sum())} are kept, as points in a plane, coloured by layer. "
        "The table of kept heads is in the map of heads.",
        height,
        marks,
        [(ring, "kept"), (dot, "removed"), (colours, f"layer 0 (left) to {layers - 1} (right)")],
        "Heads that separate the classes alike lie close together. Lines lead from removed heads to the nearest head "
        "kept in their cluster.",
    )
