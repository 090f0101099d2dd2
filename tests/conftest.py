"""Settings for all tests: no network, no progress bars, few threads."""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers share two cores: one thread each, and for the processes that they start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tiny import tiny_model
from transformers.utils import logging
from words import tiny_tokenizer, word_examples


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    logging.disable_progress_bar()
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def given(tmp_path):
    """A saved classifier with tokenizer, and two data files."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    for name, count in (("train", 60), ("eval", 30)):
        lines = "".join(json.dumps(row) + "\n" for row in word_examples(count))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path
