"""The tables that are printed are those of the runs that are committed."""

import json
import re
import runpy
from pathlib import Path

import pytest

from cahp_plugin.compare.summary import Comparison

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path.parent for path in (EXAMPLES / "results").glob("*/runs.jsonl"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_are_those_of_the_runs(folder):
    script = runpy.run_path(str(EXAMPLES / "summarize_runs.py"))
    comparison = Comparison.read(folder)
    assert (folder / "summary.md").read_text(encoding="utf-8") == script["summary"](comparison)
    page = (EXAMPLES / "results" / "evidence.md").read_text(encoding="utf-8")
    for name, table in script["tables"](comparison).items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in page


SCRIPTS = {"draws.jsonl": "benchmark_budget.py", "speeds.jsonl": "benchmark_speed.py"}
RUNS = sorted(file for name in SCRIPTS for file in (EXAMPLES / "results").glob(f"*/{name}"))


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.parent.name)
def test_the_tables_of_budgets_are_those_of_their_runs(file):
    runs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    page = runpy.run_path(str(EXAMPLES / SCRIPTS[file.name]))["page"](runs)
    assert file.with_name("table.md").read_text(encoding="utf-8") == page


def test_a_page_is_renewed_where_it_says_so():
    renewed = runpy.run_path(str(EXAMPLES / "summarize_runs.py"))["renewed"]
    page = "a\n<!-- sst5 -->\nold\n<!-- end -->\n<!-- mnli -->\nold\n<!-- end -->\n"
    assert renewed(page, "sst5", "new \\1") == page.replace("old", "new \\1", 1)
    assert renewed(page, "other", "new") == page
    assert renewed(page.replace("old\n", "", 1), "sst5", "old") == page
    assert re.sub("old", "new", page) == renewed(renewed(page, "mnli", "new"), "sst5", "new")
