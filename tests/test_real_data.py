"""The real checkpoint and data, where they are at hand."""

import pytest
import torch
from shared_data import shared

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, load_pruned, save_pruned, select_heads
from cahp_plugin.data import encode, find_columns, load_examples, make_dataloader
from cahp_plugin.observe import only_heads
from cahp_plugin.recover import evaluate_classifier


@pytest.fixture(scope="module")
def sst5():
    from transformers import AutoTokenizer

    folder = shared("models", "minilm-l6-sst5")
    model, tokenizer = load_pruned(folder), AutoTokenizer.from_pretrained(folder)
    sets = {}
    for name, count in (("train", 640), ("validation", 300)):
        examples = load_examples(str(shared("data", "sst5", f"{name}.jsonl"))).select(range(count))
        sets[name] = make_dataloader(encode(examples, find_columns(examples), tokenizer, model), tokenizer)
    return model, tokenizer, sets


def test_select_prune_save_and_load_on_sst5(sst5, tmp_path):
    model, tokenizer, sets = sst5
    dense = evaluate_classifier(model, sets["validation"])
    assert dense.accuracy > 0.45
    selection = select_heads(model, sets["train"], CAHPConfig(polynomial_degree=2))
    assert 0.35 <= selection.num_heads / 72 <= 0.65 and selection.knee is not None
    with only_heads(model, selection.kept):
        expected = evaluate_classifier(model, sets["validation"])
    batch = next(iter(sets["validation"]))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    CAHPPruner(model, inputs, importance=CAHPImportance(selection)).step()
    found = evaluate_classifier(model, sets["validation"])
    assert found.predictions == expected.predictions and found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert found.accuracy > 0.3  # far above the 20 % of chance, before any recovery
    save_pruned(model, tmp_path / "pruned", selection=selection, tokenizer=tokenizer)
    copy = load_pruned(tmp_path / "pruned")
    with torch.no_grad():
        assert torch.equal(copy(**inputs).logits, model(**inputs).logits)
