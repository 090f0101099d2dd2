from pathlib import Path

from task_table import table

DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_the_docs_have_the_table_of_tasks():
    told = DOCS.read_text().split("<!-- python tests/task_table.py -->\n")[1].split("\n<!-- end -->")[0]
    assert told == table()
