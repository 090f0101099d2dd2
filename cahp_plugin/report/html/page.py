"""The whole page: one file, which needs nothing else and asks nobody for anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cahp_plugin._version import __version__
from cahp_plugin.errors import CheckpointError
from cahp_plugin.files import write_text
from cahp_plugin.report.html import words
from cahp_plugin.report.html.charts_comparison import extremes, named
from cahp_plugin.report.html.data import Contents
from cahp_plugin.report.html.markup import Html, tag
from cahp_plugin.report.html.sections import sections
from cahp_plugin.report.html.style import sheet

PAGE_NAME = "report.html"
#: Should anything in the page ever ask for the network or for a script, the browser refuses.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_page(contents: Sequence[Contents], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes a page about the contents of folders.

    Args:
        contents: What the folders hold, in the order of the page.
        path: File to write; it appears whole or not at all.
        overwrite: Whether a file that is there is replaced.

    Returns:
        The path.

    Raises:
        CheckpointError: The file is there and ``overwrite`` is false, or it can't be written.
    """
    output = Path(path)
    check_output_file(output, overwrite=overwrite)
    text = build_page(contents)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error}.") from error
    return output


def check_output_file(path: Path, *, overwrite: bool = False) -> None:
    """Checks that a file may be written, before work is put into what goes there.

    Raises:
        CheckpointError: It is a folder, or is there and ``overwrite`` is false or it is no HTML page.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a file name such as {PAGE_NAME}.")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists. Pass `overwrite=True` (`--overwrite`) or another name.")
    if path.exists() and path.suffix.lower() not in (".html", ".htm"):
        raise CheckpointError(f"{path} is there and is no HTML page: it is not replaced. Give a name with .html.")


def build_page(contents: Sequence[Contents]) -> str:
    """The page as text."""
    contents = [entry for entry in contents if entry]
    names = ", ".join(entry.name for entry in contents)
    parts = [
        section
        for number, entry in enumerate(contents)
        for section in sections(entry, number, alone=len(contents) == 1)
    ]
    links = [tag("li", tag("a", section.title, href=f"#{section.identity}")) for section in parts]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", content="width=device-width, initial-scale=1", name_="viewport"),
        tag("title", f"CAHP report: {names}"),
        tag("style", Html(sheet(_most_layers(contents)))),
    )
    header = tag(
        "header",
        tag("p", "Complementary Attention Head Pruning", class_="kicker"),
        tag("h1", f"Report: {names}"),
        [tag("p", line.replace(" %", "\u00a0%"), class_="summary") for entry in contents for line in _summary(entry)],
        _tiles(contents),
        tag("nav", tag("ul", links), aria_label="Sections"),
    )
    footer = tag("footer", tag("p", f"Written by cahp-plugin {__version__}. This page is one file without scripts."))
    body = tag("body", header, tag("main", [section.html() for section in parts]), footer)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _most_layers(contents: Sequence[Contents]) -> int:
    return max((max(entry.pruned.kept) + 1 for entry in contents if entry.pruned is not None), default=1)


def _summary(contents: Contents) -> list[str]:
    lines = []
    if contents.pruned is not None:
        lines.append(words.of_pruned(contents.pruned))
    if contents.compared is not None:
        lines.append(words.of_comparison(contents.compared))
    if contents.timed is not None:
        lines.append(words.of_times(contents.timed))
    return lines


def _tiles(contents: Sequence[Contents]) -> Html:
    """The few numbers that matter, large."""
    tiles: list[tuple[str, str, str]] = []
    for entry in contents:
        if entry.pruned is not None:
            pruned = entry.pruned
            share = f"{100 * pruned.num_heads / max(pruned.num_present, 1):.0f} % of {pruned.num_present}"
            tiles.append(("Heads kept", f"{pruned.num_heads}", share))
            if len(pruned.stages) > 1:
                first, last = pruned.stages[0], pruned.stages[-1]
                points = 100 * (last["accuracy"] - first["accuracy"])
                tiles.append(
                    (
                        "Accuracy",
                        words.percent(last["accuracy"]),
                        f"{points:+.1f} points from dense".replace("-", "\u2212"),
                    )
                )
                kept = last["parameters"] / max(first["parameters"], 1)
                tiles.append(("Parameters", _millions(last["parameters"]), f"{words.percent(kept)} of dense"))
        if entry.compared is not None:
            dense, best, own = extremes(entry.compared)
            if dense is not None:
                tiles.append(("Dense accuracy", words.percent(dense.mean), f"{dense.num_heads} heads"))
            for row in dict.fromkeys([best, own]) if own is not None else [best]:
                name = f"{row.method}, {row.num_heads} heads"
                tiles.append((name, words.percent(row.mean), named(row.recover)))
        if entry.timed is not None:
            reference = entry.timed.measurements[0]
            fastest = min(entry.timed.measurements, key=lambda one: one["ratio"])
            if fastest["target"] != reference["target"]:
                where = f"{fastest['target']}, {fastest['sequence_length']} tokens"
                tiles.append(("Fastest", f"{fastest['ratio']:.2f}\u00d7 the time", where))
    if not tiles or len(tiles) > 8:
        return Html()
    boxes = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", note)), class_="tile") for name, value, note in tiles
    ]
    return tag("dl", boxes, class_="tiles")


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"
