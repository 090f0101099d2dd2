"""What a unit of a layer costs, against models from which units are really gone."""

import copy

import pytest
from transformers import BertConfig, BertForSequenceClassification
from zoo import FAMILIES, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet
from cahp_plugin.cost.layers import at_length, costs_of
from cahp_plugin.latency.macs import work_of
from cahp_plugin.observe.inputs import fixed_length
from cahp_plugin.units import prunable_layers


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "clip"])
def test_removed_units_cost_what_they_are_said_to(name):
    model = zoo_model(name)
    model.config.architectures = [type(model).__name__]
    layers = prunable_layers(model)
    costs = costs_of(model, layers)
    fixed = fixed_length(model.config)
    length = fixed or 24
    assert costs.parameters == sum(parameter.numel() for parameter in model.parameters())
    for number in (0, len(layers) // 2, len(layers) - 1):
        layer = layers[number]
        pruned = copy.deepcopy(model)
        kept = sum(layer.units[:-1], ())
        CAHPPruner(pruned, zoo_inputs(name), CAHPImportance(KeptSet(**{layer.noun: {layer.index: kept}}))).step()
        gone = costs.parameters - sum(parameter.numel() for parameter in pruned.parameters())
        assert gone == costs.layers[number].parameters, layer
        if model.config.is_encoder_decoder:  # whose decoder is timed with one token
            continue
        work = [work_of(one.config, [length], name).macs[length] for one in (model, pruned)]
        assert work[0] == pytest.approx(at_length(costs.macs, length))
        # Some attention has a product of its own that does not shrink: rotary embeddings.
        assert work[0] - work[1] == pytest.approx(at_length(costs.layers[number].macs, length), rel=2e-3), layer


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_products_count_whatever_computes_them(attention):
    """By hand: four projections of 32 x 32 a token, and two products of 32 channels with every token."""
    model = BertForSequenceClassification._from_config(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=100),
        attn_implementation=attention,
    )
    costs = costs_of(model, prunable_layers(model))
    for layer, cost in zip(prunable_layers(model), costs.layers, strict=True):
        whole = 4 * 32 * 32 * 128 + 2 * 32 * 128 * 128 if layer.noun == "heads" else 2 * 32 * 48 * 128
        assert len(layer.units) * at_length(cost.macs, 128) == pytest.approx(whole)
