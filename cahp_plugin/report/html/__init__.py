"""One self-contained HTML page of what was pruned, compared and measured: no script, no font, no network."""

from cahp_plugin.report.html.data import Compared, Contents, read_contents
from cahp_plugin.report.html.page import write_page

__all__ = ["Compared", "Contents", "read_contents", "write_page"]
