"""The real checkpoint and data, where they are at hand."""

import copy
import random

import pytest
import torch
from shared_data import shared

from cahp_plugin import (
    CAHPConfig,
    CAHPImportance,
    CAHPPruner,
    encode,
    evaluate,
    load_pruned,
    recover_least_squares,
    save_pruned,
    select_heads,
)
from cahp_plugin.data import load_examples
from cahp_plugin.observe import only_kept


@pytest.fixture(scope="module")
def sst5():
    from transformers import AutoTokenizer

    folder = shared("models", "minilm-l6-sst5")
    model, tokenizer = load_pruned(folder), AutoTokenizer.from_pretrained(folder)
    sets = {}
    for name, count in (("train", 640), ("validation", 300)):
        examples = load_examples(str(shared("data", "sst5", f"{name}.jsonl"))).select(range(count))
        sets[name] = encode(examples, model, tokenizer)
    return model, tokenizer, sets


def test_select_prune_save_and_load_on_sst5(sst5, tmp_path):
    model, tokenizer, sets = sst5
    dense = evaluate(model, sets["validation"])
    assert dense.score.value > 0.45
    selection = select_heads(model, sets["train"].batches(), CAHPConfig(polynomial_degree=2))
    assert 0.35 <= selection.num_heads / 72 <= 0.65 and selection.knee is not None
    with only_kept(model, selection.kept.heads):
        expected = evaluate(model, sets["validation"])
    batch = next(iter(sets["validation"].batches()))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    CAHPPruner(model, inputs, importance=CAHPImportance(selection)).step()
    found = evaluate(model, sets["validation"])
    assert found.predictions == expected.predictions and found.loss == pytest.approx(expected.loss, abs=1e-5)
    assert found.score.value > 0.3  # far above the 20 % of chance, before any recovery
    save_pruned(model, tmp_path / "pruned", selection=selection, tokenizer=tokenizer)
    loaded = load_pruned(tmp_path / "pruned")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


KEPT_SETS = {
    "even": {layer: tuple(range(0, 12, 2)) for layer in range(6)},
    "uneven": {layer: tuple(range(2 * layer + 1)) for layer in range(6)},
    "empty-layer": {0: (1, 2), 1: (), 3: (0, 11), 4: (5,)},
}


@pytest.mark.parametrize("kept", KEPT_SETS.values(), ids=KEPT_SETS)
def test_export_of_minilm_is_exact_and_small(kept, tmp_path):
    pytest.importorskip("onnxruntime")
    from cahp_plugin.export import export_pruned

    model = load_pruned(shared("models", "minilm-l6-sst5"))
    dense_mib = sum(parameter.numel() for parameter in model.parameters()) * 4 / 2**20
    tokens = torch.ones(1, 8, dtype=torch.long)
    CAHPPruner(model, {"input_ids": tokens, "attention_mask": tokens}, importance=CAHPImportance(kept)).step()
    export_pruned(model, tmp_path / "onnx", tolerance=1e-5)
    report = export_pruned(tmp_path / "onnx", tmp_path / "int8", quantize="dynamic", tolerance=1e-5)
    if sum(map(len, kept.values())) <= 36:
        assert report.mib <= 0.24 * dense_mib


def test_least_squares_repairs_minilm(sst5):
    """At 22 % of the heads, drawn at random: the loss comes most of the way back, without labels."""
    sets = sst5[2]
    dense = load_pruned(shared("models", "minilm-l6-sst5"))
    model = copy.deepcopy(dense)
    generator = random.Random(0)
    kept = {layer: tuple(sorted(generator.sample(range(12), 3 if layer % 2 else 2))) for layer in range(6)}
    inputs = {name: value for name, value in sets["train"].batch([0]).items() if name != "labels"}
    CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()
    before = evaluate(model, sets["validation"])
    report = recover_least_squares(model, dense, sets["train"].batches())
    after = evaluate(model, sets["validation"])
    reference = evaluate(dense, sets["validation"])
    assert report.accepted and report.num_examples <= 384
    assert after.loss - reference.loss < 0.5 * (before.loss - reference.loss)
    assert after.score.value >= before.score.value + 0.04
