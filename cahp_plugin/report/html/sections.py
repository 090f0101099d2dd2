"""The sections of the page: pictures first, tables below."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cahp_plugin.report.html import charts_comparison, charts_latency, charts_selection
from cahp_plugin.report.html.axes import Chart, legend
from cahp_plugin.report.html.charts_comparison import DENSE, REFERENCE, named
from cahp_plugin.report.html.commands import commands
from cahp_plugin.report.html.data import Compared, Contents, Pruned, Timed
from cahp_plugin.report.html.markup import Child, Html, join, table, tag
from cahp_plugin.report.html.words import percent


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        identity: Its id, unique in the page.
        title: Its heading.
        body: What is below the heading.
    """

    identity: str
    title: str
    body: Html

    def html(self) -> Html:
        """The section as an element."""
        heading = tag("h2", self.title, id=f"{self.identity}-heading")
        return tag("section", heading, self.body, id=self.identity, aria_labelledby=f"{self.identity}-heading")


def sections(contents: Contents, number: int, *, alone: bool) -> list[Section]:
    """The sections of a folder.

    Args:
        contents: What it holds.
        number: Number of the folder in the page; keeps the ids apart.
        alone: Whether the page is about this folder only, so that the headings need not name it.
    """
    where = "" if alone else f": {contents.name}"
    found = []
    if contents.pruned is not None:
        found.append(("pruned", "Heads kept", _pruned(contents.pruned, f"pruned-{number}")))
    if contents.compared is not None:
        found.append(("compared", "Ways of choosing heads", _compared(contents.compared, f"compared-{number}")))
    if contents.timed is not None:
        found.append(("latency", "Latency", _timed(contents.timed, f"latency-{number}")))
    if contents.exports:
        found.append(("exports", "Exported graphs", _exports(contents.exports)))
    found.append(("settings", "Settings, versions, commands", _settings(contents)))
    return [Section(f"{name}-{number}", title + where, body) for name, title, body in found]


def _figures(charts: Sequence[Chart], identity: str) -> Html:
    kind = {1: " one", 3: " three", 5: " three", 6: " three"}.get(len(charts), "")
    return tag(
        "div",
        [chart.figure(f"{identity}-{chart.name}-{place}") for place, chart in enumerate(charts)],
        class_=f"figures{kind}",
    )


def _card(*children: Child) -> Html:
    return tag("div", children, class_="card wide")


def _block(*children: Child) -> Html:
    """What introduces a row of pictures; it stands on the page itself, not on a card."""
    return tag("div", children, class_="block")


def _note(words: str) -> Html:
    return tag("p", words, class_="note")


def _folded(name: str, summary: str, rows: Sequence[Mapping[str, str]]) -> Html:
    """A table that opens when asked for."""
    return tag("details", tag("summary", summary), table(name, rows, heading=False))


def _pruned(pruned: Pruned, identity: str) -> Html:
    below: list[Html] = []
    if pruned.stages:
        dense = pruned.stages[0]
        rows = [
            {
                "stage": stage["name"],
                "accuracy": percent(stage["accuracy"], 2),
                "loss, nat": f"{stage['loss']:.3f}",
                "heads": f"{stage['heads']}",
                "parameters": f"{stage['parameters']:,}",
                "of dense": percent(stage["parameters"] / max(dense["parameters"], 1)),
            }
            for stage in pruned.stages
        ]
        below.append(table("The model at each stage, on the evaluation set", rows))
    if pruned.reload_difference is not None:
        found = (
            f"logits that differ by {pruned.reload_difference:.1e} at most"
            if pruned.reload_difference
            else "exactly the same logits"
        )
        below.append(_note(f"Saved and loaded again, the model computes {found}."))
    if pruned.seconds:
        total = sum(pruned.seconds.values())
        phases = [*pruned.seconds.items(), ("all", total)]
        rows = [{"phase": name, "seconds": f"{value:.1f}"} for name, value in phases]
        below.append(_folded("Seconds by phase", f"Seconds by phase: {total:.1f} in all", rows))
    pictures = _figures(charts_selection.charts(pruned), identity)
    return join([pictures, _card(below) if below else None])


def _compared(compared: Compared, identity: str) -> Html:
    least, most = (find(row.num_seeds for row in compared.rows if row.method != DENSE) for find in (min, max))
    seeds = f"{least} to {most} seeds" if least < most else f"{most} seed{'s' if most != 1 else ''}"
    bars = "bars: one standard deviation. " if most > 1 else ""
    methods = charts_comparison.methods_legend(compared)
    parts = [
        _block(
            tag("h3", "Accuracy against heads kept, by recovery"),
            _note(
                f"Mean over {seeds}; {bars}At each number of heads the methods stand "
                "side by side. All panels have the same scales."
            ),
            methods,
        ),
        _figures(charts_comparison.accuracy_panels(compared), f"{identity}-a"),
    ]
    differences = charts_comparison.difference_panels(compared)
    if differences:
        parts += [
            _block(
                tag("h3", "Difference from cahp, by recovery"),
                _note(
                    "On the same test examples, with 95 % bootstrap intervals over them. Filled: the interval "
                    "excludes zero. Hollow: the difference can\u2019t be told from zero. Right of the line: better "
                    "than cahp."
                ),
            ),
            _figures(differences, f"{identity}-d"),
        ]
    parts += [
        _block(
            tag("h3", "Where the heads stay"),
            _note("Heads kept in each layer, mean over seeds; the stronger the colour, the more."),
        ),
        _figures(charts_comparison.layer_panels(compared), f"{identity}-l"),
    ]
    tables = [
        table(
            f"All methods, {named(recovery)}",
            [_row(row) for row in compared.rows if row.method != DENSE and row.recover == recovery],
        )
        for recovery in charts_comparison.recoveries_of(compared)
    ]
    explained = _note(
        "Accuracy: mean \u00b1 standard deviation over seeds. Against cahp: difference of the means in percentage "
        "points. Seconds: median of choosing and recovering, without the observation of the model that all methods "
        "share."
    )
    return join([*parts, _card(tables, explained)])


def _row(row: Any) -> dict[str, str]:
    spread = "" if row.deviation is None else f" \u00b1 {100 * row.deviation:.1f}"
    against, interval = "", ""
    if row.difference is not None and row.interval is not None:
        low, high = (100 * end for end in row.interval)
        against, interval = f"{100 * row.difference:+.1f}", f"[{low:+.1f}, {high:+.1f}]"
    return {
        "method": row.method,
        "heads": f"{row.num_heads}",
        "accuracy, %": f"{100 * row.mean:.1f}{spread}",
        "seeds": f"{row.num_seeds}",
        "loss, nat": f"{row.loss:.3f}",
        f"against {REFERENCE}": against,
        "95 % interval": interval,
        "seconds": f"{row.seconds:.1f}",
    }


def _timed(timed: Timed, identity: str) -> Html:
    settings, machine = timed.settings, timed.environment
    where = machine.get("gpu") or machine.get("cpu") or "an unknown machine"
    lead = (
        f"Measured on {where}, {settings.get('threads', '?')} thread(s), {settings.get('rounds', '?')} rounds, "
        f"in random order within each round; {machine.get('date', 'date unknown')}."
    )
    rows = [
        {
            "target": entry["target"],
            "tokens": f"{entry['sequence_length']}",
            "batch": f"{entry['batch_size']}",
            "runs in": entry["backend"],
            "precision": entry["precision"],
            "heads": f"{entry['num_heads']}",
            "p50, ms": f"{entry['p50_ms']:.2f}",
            "p90, ms": f"{entry['p90_ms']:.2f}",
            "p99, ms": f"{entry['p99_ms']:.2f}",
            "ratio": f"{entry['ratio']:.3f}",
            "95 % interval": f"[{entry['ratio_low']:.3f}, {entry['ratio_high']:.3f}]",
            "theory": f"{entry['theory']:.3f}",
            "disk, MiB": "-" if entry["mib"] is None else f"{entry['mib']:.1f}",
            "peak, MiB": "-" if entry["peak_mib"] is None else f"{entry['peak_mib']:.0f}",
        }
        for entry in timed.measurements
    ]
    ratio = f"Ratio: median over rounds of the time over that of {timed.measurements[0]['target']} in the same round."
    return join(
        [
            _block(_note(lead), legend(charts_latency.latency_legend())),
            _figures(charts_latency.latency_panels(timed), identity),
            _card(table("All times", rows), _note(f"{ratio} {timed.convention}")),
        ]
    )


def _exports(exports: Mapping[str, Mapping[str, Any]]) -> Html:
    def shown(value: float | None, text: str) -> str:
        return "-" if value is None else text.format(value)

    rows = [
        {
            "graph": name,
            "precision": export["precision"],
            "heads": f"{export['num_heads']}",
            "MiB": f"{export['mib']:.1f}",
            "accuracy": shown(None if export["accuracy"] is None else 100 * export["accuracy"], "{:.2f} %"),
            "same class as fp32": shown(
                None if export["agreement"] is None else 100 * export["agreement"], "{:.2f} %"
            ),
            "largest difference": shown(export["difference"] or export["parity"], "{:.1e}"),
        }
        for name, export in exports.items()
    ]
    note = "Largest difference of an output: an fp32 graph from torch, a quantized graph from its fp32 original."
    return _card(table("Graphs for onnxruntime", rows), _note(note))


def _settings(contents: Contents) -> Html:
    parts: list[Html] = []
    lines = commands(contents)
    if lines:
        parts += [
            tag("h3", "Commands"),
            tag(
                "p",
                "They repeat what is shown here; put your own files in place of the words in capitals. Settings that "
                "are not named have their defaults.",
                class_="note",
            ),
            *(tag("pre", tag("code", line), tabindex="0", aria_label="Command") for line in lines),
        ]
    groups: dict[str, Mapping[str, Any]] = {}
    versions: dict[str, str] = {}
    if contents.pruned is not None:
        pruned = contents.pruned
        groups["Method"] = pruned.config
        groups["Recovery"] = pruned.recovery
        groups["Model"] = {
            key: value
            for key, value in (("architecture", pruned.architecture), ("pruned from", pruned.origin))
            if value is not None
        }
        versions |= pruned.versions
    if contents.compared is not None:
        setup = contents.compared.setup
        groups["Method, compared"] = _mapping(setup.get("config"))
        groups["Recovery, compared"] = _mapping(setup.get("recovery"))
        groups["Fingerprints"] = {key: setup[key] for key in ("model", "train", "test") if key in setup}
        versions |= {str(key): str(value) for key, value in _mapping(setup.get("versions")).items()}
    if contents.timed is not None:
        groups["Measurement"] = contents.timed.settings
        groups["Machine"] = {key: value for key, value in contents.timed.environment.items() if key != "versions"}
        more = _mapping(contents.timed.environment.get("versions"))
        versions |= {str(key): str(value) for key, value in more.items()}
    for export in contents.exports.values():
        versions |= export["versions"]
    groups["Versions"] = versions
    tables = [
        _folded(name, name, [{"name": key, "value": _plain(value)} for key, value in values.items()])
        for name, values in groups.items()
        if values
    ]
    return _card(*parts, *tables)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
