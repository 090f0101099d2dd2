"""Selectors fitted in one line, evidence made up by hand, and a tiny classifier of grouped queries."""

import numpy as np
import torch
from tiny import tiny_batches
from transformers import LlamaConfig, LlamaForSequenceClassification

from cahp_plugin import CAHPConfig
from cahp_plugin.recover import prune_and_repair
from cahp_plugin.selectors import View, make_selector
from cahp_plugin.selectors.cahp.evidence import Evidence
from cahp_plugin.units.counts import HeadUnits


def view_of(model, data=None, *, least=1, **changes):
    """What a selector may look at, with a way to shrink; ``least`` is the layers' minimum."""
    return View(model, data, CAHPConfig(min_heads_per_layer=least, **changes), shrink=prune_and_repair)


def fit(name, model, data=None, *, seed=0, least=1, **settings):
    """Fits a selector by its name; ``settings`` are its own."""
    return make_selector(name, **settings).fit(view_of(model, data, least=least), seed=seed)


def units_of(heads, shape, *, group_size=1, least=1):
    """Units by hand: ``heads`` are the first heads of each."""
    return HeadUnits(tuple(heads), tuple(shape), group_size, least)


def rows_of(units, table):
    """What a table of heads, ``(layers, heads)``, says about each unit's first: ``(N,)``."""
    return np.asarray([table[layer][head] for layer, head in units.firsts], dtype=float)


def made_up(heads, salience, config=None, **given):
    """Evidence from a table of salience, ``(layers, heads)``, and ``separation`` or ``distances``."""
    config = CAHPConfig() if config is None else config
    size = given.pop("group_size", 1)
    units = units_of(heads, np.shape(salience), group_size=size, least=config.min_heads_per_layer)
    return Evidence(units, rows_of(units, salience), config, **given)


def without_labels(batches):
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]


def grouped_model(layers=3, seed=0):
    """A classifier of 4 query heads in each layer, of which two each share a key and value head."""
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, num_labels=3,
    )  # fmt: skip
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2 and "embed" not in name:
                    parameter.normal_(0, 0.2)
    return model.eval()


def grouped_batches(count=24, size=8):
    return tiny_batches(count, size, padding="left")
