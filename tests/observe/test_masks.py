import pytest
import torch
from tiny import ARCHITECTURES, tiny_batches, tiny_model

from cahp_plugin.errors import SelectionError
from cahp_plugin.observe import only_kept
from cahp_plugin.units import attention_layers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_masked_heads_equal_zeroed_columns_of_the_output_projection(name):
    model = tiny_model(name)
    inputs = {key: value for key, value in tiny_batches(4, 4)[0].items() if key != "labels"}
    kept = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}
    with torch.no_grad(), only_kept(model, kept):
        masked = model(**inputs).logits
    changed = tiny_model(name)
    for layer in attention_layers(changed):
        for head in set(range(4)) - set(kept[layer.index]):
            layer.output.weight.data[:, 8 * head : 8 * head + 8] = 0
    with torch.no_grad():
        torch.testing.assert_close(masked, changed(**inputs).logits, rtol=0, atol=1e-6)
        assert (model(**inputs).logits - masked).abs().max() > 1e-3  # the masks are gone, and they mattered


@pytest.mark.parametrize(
    ("kept", "message"), [({3: (0,)}, r"layers \[3\] for heads; .* layers 0 to 2"), ({0: (0, 4)}, "no head 4")]
)
def test_heads_that_the_model_does_not_have(kept, message):
    with pytest.raises(SelectionError, match=message), only_kept(tiny_model(), kept):
        pass
