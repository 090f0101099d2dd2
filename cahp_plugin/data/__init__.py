"""Data for a classifier: files or data sets in, batches out; and a synthetic corpus for the demo."""

from cahp_plugin.data.columns import Columns, find_columns, find_text_columns
from cahp_plugin.data.corpus import graded_sentiment
from cahp_plugin.data.encode import by_length, encode, make_dataloader, tokenize
from cahp_plugin.data.labels import check_same_classes
from cahp_plugin.data.sources import load_examples

__all__ = [
    "Columns",
    "by_length",
    "check_same_classes",
    "encode",
    "find_columns",
    "find_text_columns",
    "graded_sentiment",
    "load_examples",
    "make_dataloader",
    "tokenize",
]
