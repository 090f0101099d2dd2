"""Pictures and tables of a selection."""

from cahp_plugin.report.figures import save_figures
from cahp_plugin.report.table import format_table

__all__ = ["format_table", "save_figures"]
