"""From a pruned model to a folder that onnxruntime and Optimum load: exported, compared, quantized."""

from cahp_plugin.export.export import ExportReport, export_pruned
from cahp_plugin.export.session import graph_files, open_session, run_session

__all__ = ["ExportReport", "export_pruned", "graph_files", "open_session", "run_session"]
