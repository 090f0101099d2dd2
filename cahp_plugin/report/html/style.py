"""The look of the page: one sheet, with variables for light and dark."""

from __future__ import annotations

from cahp_plugin.report import style

#: Colours of up to thirteen ways of choosing heads, (light, dark); with as many shapes they differ in print as well.
#: In the order of ``Compared.methods``, so that a way looks the same on every page; those that are compared by default
#: are the furthest apart.
SERIES = (
    (style.KEPT, "#5cb3e6"),
    ("#1b2a6b", "#7d93ff"),
    ("#0d7488", "#4cc9dd"),
    ("#37474f", "#b7c4cb"),
    ("#b3303c", "#f47c85"),
    (style.ACCENT, "#ff8c4a"),
    ("#91532c", "#d69a72"),
    ("#8a6a00", "#e0bd4a"),
    ("#5a4fc4", "#a59cf5"),
    ("#a63d86", "#e58cc8"),
    ("#4a7a12", "#a3d15c"),
    ("#00795c", "#3ccf9f"),
    (style.MUTED, "#9aa3af"),
)
#: viridis, trimmed at the end that would vanish into the background: light, dark.
_RAMPS = (
    ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#86c03a"),
    ("#7a6bd0", "#5f8fd3", "#35a4b5", "#1fb08f", "#4ac16d", "#a0da39", "#fde725"),
)
_LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": style.INK,
    "muted": "#5b6270",
    "line": "#d5d9e0",
    "grid": style.GRID,
    "kept": style.KEPT,
    "dropped": style.DROPPED,
    "accent": "#c25500",
    "on-kept": "#ffffff",
    "bar": "#a9b0ba",
    "depth": "0.75",
}
_DARK = {
    "page": "#0f1318",
    "card": "#181d24",
    "ink": "#e8eaed",
    "muted": "#a3acb9",
    "line": "#3a4250",
    "grid": "#2a313b",
    "kept": "#5cb3e6",
    "dropped": "#434b58",
    "accent": "#ff8c4a",
    "on-kept": "#0f1318",
    "bar": "#66707f",
    "depth": "0.5",
}

_SHEET = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1200px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
footer{padding-top:20px;padding-bottom:40px;color:var(--muted);font-size:14px}
h1,h2,h3,p,figure,ul,dl{margin:0;padding:0}
h1,h2,h3,p,li,dd,figcaption{overflow-wrap:anywhere}
.kicker{color:var(--muted);font-size:14px}
h1{font-size:30px;line-height:1.2;letter-spacing:-.01em;margin:2px 0 14px}
h2{font-size:22px;line-height:1.3;margin:44px 0 6px}
h3{font-size:16px;line-height:1.35}
a{color:var(--kept)}
.summary{font-size:18px;max-width:72ch}
.summary+.summary{margin-top:10px}
.lead{color:var(--muted);max-width:80ch}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin-top:16px;font-size:15px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile dt{color:var(--muted);font-size:14px}
.tile dd{margin:0;font-size:26px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.tile dd small{display:block;font-size:14px;font-weight:400;color:var(--muted);line-height:1.4}
.figures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:16px;margin-top:16px;align-items:start}
.figures.three{grid-template-columns:repeat(3,minmax(0,1fr))}
.figures.three .card{padding:14px}
.figures.three svg text{font-size:13px}
.figures.three svg .small{font-size:12.5px}
.figures.one{grid-template-columns:minmax(0,1fr)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}
.block{margin-top:28px}
.block h3{font-size:17px}
.block .note{max-width:90ch;margin-top:2px}
.scroll+h3{margin-top:26px}
.card.wide,.figures+.card,.card+.figures{margin-top:16px}
.figures .card{height:100%}
.card svg.chart{display:block;width:100%;max-width:560px;height:auto;margin:8px auto 0}
figcaption,.note{color:var(--muted);font-size:14px;margin-top:8px}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;font-size:14px;margin-top:6px}
.legend li{display:flex;align-items:center;gap:6px}
.legend svg{flex:none}
.scroll{overflow-x:auto;margin-top:8px;position:relative}
.scroll:focus-visible,a:focus-visible,summary:focus-visible{outline:2px solid var(--kept);outline-offset:2px}
table{border-collapse:collapse;font-size:14px;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--grid);white-space:nowrap;vertical-align:top}
th:last-child,td:last-child{padding-right:2px}
thead th{color:var(--muted);font-weight:500;border-bottom-color:var(--line)}
tbody th{font-weight:500}
.number{text-align:right}
pre{margin:10px 0 0;padding:12px 14px;background:var(--page);border:1px solid var(--line);border-radius:8px;
overflow-x:auto;font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}
details{margin-top:14px}
summary{cursor:pointer;color:var(--kept);font-size:15px}
.aloud{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
svg text{font-family:inherit;font-size:12px;fill:var(--ink)}
svg .soft{fill:var(--muted)}
svg .small{font-size:11px}
svg .bold{font-weight:600}
svg .grid{stroke:var(--grid);stroke-width:1}
svg .axis{stroke:var(--line);stroke-width:1}
svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
@media (max-width:1100px){.figures.three{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media (max-width:860px){
main,header,footer{padding-left:12px;padding-right:12px}
header{padding-top:20px}
svg text{font-size:13px}
svg .small{font-size:12px}
.figures,.figures.three{grid-template-columns:minmax(0,1fr)}
.card{padding:14px 12px}
h1{font-size:25px}
h2{font-size:20px;margin-top:34px}
.summary{font-size:16.5px}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr));gap:8px}
.tile{padding:10px 12px}
.tile dd{font-size:22px}
}
@media print{.card,.tile{break-inside:avoid}body{background:#fff}details>*{display:block}}
"""


def sheet(num_layers: int) -> str:
    """The style sheet, with a colour for each of so many layers (``--layer-0``, ...)."""
    light, dark = (
        ";".join(f"--{name}:{value}" for name, value in [*colours.items(), *_series(i), *_layers(i, num_layers)])
        for i, colours in enumerate((_LIGHT, _DARK))
    )
    return f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{_SHEET}"


def _series(theme: int) -> list[tuple[str, str]]:
    return [(f"series-{index}", colours[theme]) for index, colours in enumerate(SERIES)]


def _layers(theme: int, count: int) -> list[tuple[str, str]]:
    """Colours evenly spread over the ramp, mixed between its two nearest stops."""
    ramp = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in _RAMPS[theme]]
    colours = []
    for layer in range(count):
        place = layer / max(count - 1, 1) * (len(ramp) - 1)
        low = min(int(place), len(ramp) - 2)
        mixed = [round(a + (place - low) * (b - a)) for a, b in zip(ramp[low], ramp[low + 1], strict=True)]
        colours.append((f"layer-{layer}", "#" + "".join(f"{part:02x}" for part in mixed)))
    return colours
