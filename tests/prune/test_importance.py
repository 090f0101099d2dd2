import pytest
import torch
import torch_pruning as tp
from tiny import ARCHITECTURES, model_inputs, tiny_model

from cahp_plugin import CAHPImportance
from cahp_plugin.errors import PruningError
from cahp_plugin.observe import only_kept
from cahp_plugin.units import attention_layers


def stock_pruner(model, kept):
    importance = CAHPImportance(kept)
    pruner = tp.pruner.BasePruner(
        model,
        model_inputs(),
        importance=importance,
        global_pruning=True,
        pruning_ratio=0.5,
        head_pruning_ratio=1e-3,
        prune_num_heads=True,
        prune_head_dims=False,
        num_heads=importance.stock_num_heads(model),
        in_channel_groups={},
        out_channel_groups={},
    )
    return pruner, importance


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_stock_pruner_removes_exactly_the_selected_heads(name):
    kept, inputs = {0: (1, 3), 1: (0, 1, 2, 3), 2: (2,)}, model_inputs()
    model = tiny_model(name)
    with torch.no_grad(), only_kept(model, kept):
        expected = model(**inputs).logits
    pruner, importance = stock_pruner(model, kept)
    pruner.step()
    importance.update_model(model)
    assert {layer.index: layer.heads for layer in attention_layers(model)} == kept
    with torch.no_grad():
        assert (model(**inputs).logits - expected).abs().max() <= 1e-5
    ffn = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and 48 in (m.in_features, m.out_features)]
    assert len(ffn) == 6  # nothing but heads was pruned


def test_what_the_stock_pruner_would_drop_in_silence_raises():
    for kept, message in (({0: (0, 1, 2, 3)}, "keeps every head"), ({0: (), 1: (0,)}, "can't empty a layer")):
        pruner, _ = stock_pruner(tiny_model(), kept)
        with pytest.raises(PruningError, match=message):
            pruner.step()


def test_update_without_pruning_is_an_error():
    with pytest.raises(PruningError, match="did not remove what was selected"):
        CAHPImportance({0: (1,)}).update_model(tiny_model())
