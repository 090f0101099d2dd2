"""The tables that are printed are those of the runs that are committed."""

import re
import runpy
from pathlib import Path

import pytest

from cahp_plugin.compare import Comparison

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(path.parent for path in (EXAMPLES / "results").glob("*/runs.jsonl"))
PAGES = [EXAMPLES / "results" / "evidence.md", EXAMPLES.parent / "README.md"]

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tables_are_those_of_the_runs(folder):
    script = runpy.run_path(str(EXAMPLES / "summarize_runs.py"))
    comparison = Comparison.read(folder)
    assert (folder / "summary.md").read_text(encoding="utf-8") == script["summary"](comparison)
    table = script["overview"](comparison)
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    assert any(f"<!-- {folder.name} -->" in page for page in pages)
    for page in pages:
        assert script["renewed"](page, folder.name, table) == page


def test_a_page_is_renewed_where_it_says_so():
    renewed = runpy.run_path(str(EXAMPLES / "summarize_runs.py"))["renewed"]
    page = "a\n<!-- sst5 -->\nold\n<!-- end -->\n<!-- mnli -->\nold\n<!-- end -->\n"
    assert renewed(page, "sst5", "new \\1") == page.replace("old", "new \\1", 1)
    assert renewed(page, "other", "new") == page
    assert re.sub("old", "new", page) == renewed(renewed(page, "mnli", "new"), "sst5", "new")
