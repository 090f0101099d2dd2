"""Pictures and pages of what was pruned, compared and measured."""

from cahp_plugin.report.contents import Contents, read_folder
from cahp_plugin.report.page import write_folder_page, write_page
from cahp_plugin.report.pictures import save_accuracy, save_figures, save_latency

__all__ = [
    "Contents",
    "read_folder",
    "save_accuracy",
    "save_figures",
    "save_latency",
    "write_folder_page",
    "write_page",
]
