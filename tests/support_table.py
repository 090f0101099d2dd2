"""Checks every family of the table on the transformers that is installed, and prints the README's table of support.

python tests/support_table.py          # checks, and writes examples/results/support/transformers-VERSION.json
python tests/support_table.py --table  # prints the table of all versions checked
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from zoo import FAMILIES, zoo_inputs, zoo_model

from cahp_plugin.check import check_architecture
from cahp_plugin.files import write_text
from cahp_plugin.table import format_table
from cahp_plugin.units import attention_layers

FOLDER = Path(__file__).parents[1] / "examples" / "results" / "support"
#: Model type -> variants of it in the zoo.
_VARIANTS = {
    "bert-relative-key": "bert, relative_key",
    "deberta-v2-positions": "deberta-v2, share_att_key=False",
    "llama-mha": "llama, a key and value head each",
    "clip-text": "clip, text model",
    "dinov2-gated": "dinov2, gated",
    "gpt-neox-sequential": "gpt-neox, not parallel",
    "falcon-alibi": "falcon, alibi",
    "falcon-groups": "falcon, grouped queries",
    "t5-gated": "t5, gated",
}


def main() -> None:
    """Checks and writes, or prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    if not parser.parse_args().table:
        warnings.filterwarnings("ignore")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        rows = [row for name in FAMILIES for row in check(name)]
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"transformers-{transformers.__version__}.json"
        write_text(path, json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
        print(f"{sum(row['passed'] for row in rows)} of {len(rows)} passed: {path}")
    print(table())


def check(name: str) -> list[dict[str, Any]]:
    """One row for each attention implementation and type of weights that the family has."""
    rows = []
    for implementation in ("eager", "sdpa"):
        try:
            model = zoo_model(name, attn_implementation=implementation)
        except ValueError:  # transformers has no fused attention for it
            continue
        for dtype in (torch.float32, torch.bfloat16):
            inputs = {key: value.to(dtype) if value.is_floating_point() else value
                      for key, value in zoo_inputs(name).items()}  # fmt: skip
            found = check_architecture(model.to(dtype), inputs)
            kinds = sorted({layer.pattern for layer in attention_layers(model)})
            grouped = any(layer.group_size > 1 for layer in attention_layers(model))
            rows.append(
                {"family": name, "attention": implementation, "dtype": found.dtype, "passed": found.passed}
                | {"difference": found.difference, "tolerance": found.tolerance, "cases": len(found.cases)}
                | {
                    "units": list(found.kinds),
                    "kinds": kinds,
                    "grouped": grouped,
                    "cache": any("cache" in case.name for case in found.cases),
                }
            )
    return rows


def table() -> str:
    """The table of the README, from the files of all versions."""
    found = {path.stem.removeprefix("transformers-"): json.loads(path.read_text())["rows"]
             for path in sorted(FOLDER.glob("transformers-*.json"))}  # fmt: skip
    lines = []
    for name in FAMILIES:
        cells = {"architecture": _VARIANTS.get(name, name)}
        every = [row for rows in found.values() for row in rows if row["family"] == name]
        cells["attention"] = ", ".join(every[0]["kinds"]) + (", grouped queries" if every[0]["grouped"] else "")
        cells["units"] = ", ".join(every[0]["units"])
        for version, rows in found.items():
            own = [row for row in rows if row["family"] == name]
            exact = [row for row in own if row["dtype"] == "float32"]
            failed = [f"{row['attention']} {row['dtype']}" for row in own if not row["passed"]]
            worst = max(row["difference"] for row in exact)
            verdict = "FAILS: " + ", ".join(failed) if failed else f"{worst:.0e}"
            cells[f"transformers {version}"] = f"{verdict} ({' and '.join(row['attention'] for row in exact)})"
        cells["decoding with a cache"] = "exact" if every[0]["cache"] else ""
        lines.append(cells)
    return format_table(lines, markdown=True)


if __name__ == "__main__":
    main()
