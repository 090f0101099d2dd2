"""The table of tasks in docs/tasks.md, made of the tasks themselves: ``python tests/task_table.py``."""

from __future__ import annotations

from cahp_plugin.table import format_table
from cahp_plugin.tasks import TASKS


def table() -> str:
    """Task, class, columns, metrics, what heads are compared by, and what outputs are compared over; as Markdown."""
    rows = []
    for name, task in TASKS.items():
        columns = "; ".join(" + ".join(f"`{column}`" for column in usual) for usual in task.text_columns[:4])
        labels = ", ".join(f"`{column}`" for column in task.label_columns[:3])
        labels += "" if task.labelled or not labels else " (optional)"
        feeds = name != "zero-shot-image-classification"
        rows.append(
            {
                "task": f"`{name}`",
                "what": task.about,
                "`Auto` class": f"`{task.auto}`",
                "input columns": columns if feeds else "",
                "label column": labels,
                "numbers": ", ".join(task.metrics) if feeds else "",
                "with `--metric`": ", ".join(task.more_metrics),
                "heads compared by": task.conditioning if feeds else "",
                "divergence over": task.compared,
            }
        )
    return format_table(rows, markdown=True)


if __name__ == "__main__":
    print(table())
