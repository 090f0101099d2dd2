"""Data: files or data sets in, rows with known columns out; and a synthetic corpus for the demo."""

from cahp_plugin.data.columns import Columns
from cahp_plugin.data.corpus import graded_sentiment
from cahp_plugin.data.given import as_dataset
from cahp_plugin.data.labels import check_same_classes
from cahp_plugin.data.sources import load_examples

__all__ = ["Columns", "as_dataset", "check_same_classes", "graded_sentiment", "load_examples"]
