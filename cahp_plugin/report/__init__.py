"""Pictures and pages of what was pruned, compared and measured."""

from cahp_plugin.report.chart import save_charts
from cahp_plugin.report.comparison import save_scores
from cahp_plugin.report.contents import Contents, read_folder
from cahp_plugin.report.page import write_folder_page, write_page
from cahp_plugin.report.plan import plan_charts
from cahp_plugin.report.selection import save_figures
from cahp_plugin.report.times import save_latency

__all__ = [
    "Contents",
    "plan_charts",
    "read_folder",
    "save_charts",
    "save_figures",
    "save_latency",
    "save_scores",
    "write_folder_page",
    "write_page",
]
