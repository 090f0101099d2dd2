"""Settings for all tests: no network, no progress bars, few threads."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers.utils import logging


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    logging.disable_progress_bar()
    torch.set_num_threads(min(2, torch.get_num_threads()))
