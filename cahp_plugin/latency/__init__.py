"""How long models take, dense and pruned, in torch and in onnxruntime, measured side by side."""

from cahp_plugin.latency.measure import measure_latency
from cahp_plugin.latency.measurement import Measurement
from cahp_plugin.latency.report import LatencyReport

__all__ = ["LatencyReport", "Measurement", "measure_latency"]
