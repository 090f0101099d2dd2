import copy
import pickle

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, has_sdpa, model_inputs, tiny_batches, tiny_model
from transformers import BatchFeature
from words import tiny_tokenizer
from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, load_pruned, save_pruned, select_heads
from cahp_plugin.errors import DataError, PruningError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import only_kept
from cahp_plugin.units import attention_layers, kept_set

CASES = [
    (name, implementation)
    for name in ARCHITECTURES
    for implementation in ("eager", "sdpa")
    if implementation == "eager" or has_sdpa(name)
]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def masked_logits(model, kept, inputs):
    with only_kept(model, kept):
        return logits(model, inputs)


def prune(model, kept, inputs):
    CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()
    return model


kept_sets = st.dictionaries(st.integers(0, 2), st.sets(st.integers(0, 3), max_size=4).map(sorted), min_size=1).filter(
    lambda kept: any(len(heads) < 4 for heads in kept.values())
)


@pytest.mark.parametrize(("name", "implementation"), CASES)
@pytest.mark.parametrize("padding", ["right", "left"])
@given(kept=kept_sets, seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_pruned_equals_masked(name, implementation, padding, kept, seed):
    inputs = model_inputs(padding=padding, seed=seed)
    model = tiny_model(name, attn_implementation=implementation, seed=seed)
    expected = masked_logits(model, kept, inputs)
    prune(model, kept, inputs)
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], ["p2c", "c2p"]], ids="+".join)
@pytest.mark.parametrize("kept", [{0: (1, 3), 2: (0,)}, {0: (), 1: (2,)}], ids=["uneven", "empty-layer"])
def test_deberta_with_projections_of_positions(kinds, kept, tmp_path):
    changes = {"share_att_key": False, "pos_att_type": kinds}
    inputs = model_inputs()
    model = tiny_model("deberta-v2", **changes)
    expected = masked_logits(model, kept, inputs)
    prune(model, kept, inputs)
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5
    widths = {module.out_features for layer in attention_layers(model) for module in layer.projections().values()}
    assert widths == {8 * len(kept.get(layer, range(4))) for layer in range(3)} - {0}
    save_pruned(model, tmp_path / "pruned")
    assert torch.equal(logits(load_pruned(tmp_path / "pruned"), inputs), logits(model, inputs))


@pytest.mark.parametrize(("name", "implementation"), CASES)
@pytest.mark.parametrize("empty", [(0,), (1,), (2,), (0, 1, 2)])
def test_empty_layers_are_exact(name, implementation, empty):
    kept = {layer: () for layer in empty} | {layer: (0, 2, 3) for layer in range(3) if layer not in empty}
    inputs = model_inputs()
    model = tiny_model(name, attn_implementation=implementation)
    before = logits(model, inputs)
    expected = masked_logits(model, kept, inputs)
    prune(model, kept, inputs)
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5
    assert (before - expected).abs().max() > 1e-3  # the heads mattered
    names = [name for name, _ in model.named_parameters()]
    for layer in attention_layers(model):
        assert (f"{layer.name}.{layer.spec.query}.weight" in names) == bool(layer.heads)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_weights_are_gone(name):
    model = tiny_model(name)
    before = sum(parameter.numel() for parameter in model.parameters())
    prune(model, {0: (1,), 2: ()}, model_inputs())
    # A head of 8 channels at width 32: three projections in (with bias), one out.
    removed = (3 + 4) * (3 * (32 * 8 + 8) + 8 * 32)
    assert sum(parameter.numel() for parameter in model.parameters()) == before - removed
    first = attention_layers(model)[0]
    assert first.projections()[first.spec.query].weight.shape == (8, 32) and first.output.weight.shape == (32, 8)
    assert all(parameter.shape.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pruning_twice_keeps_original_indices(name):
    inputs = model_inputs()
    model = tiny_model(name)
    expected = masked_logits(model, {0: (3,), 1: (0, 2)}, inputs)
    prune(model, {0: (1, 3), 1: (0, 2, 3)}, inputs)
    assert [layer.heads for layer in attention_layers(model)] == [(1, 3), (0, 2, 3), (0, 1, 2, 3)]
    with pytest.raises(SelectionError, match=r"Layer 0 has no head 0 \(removed before\); it has the heads 1,3"):
        prune(model, {0: (0,)}, inputs)
    prune(model, {0: (3,), 1: (0, 2)}, inputs)
    assert [layer.heads for layer in attention_layers(model)] == [(3,), (0, 2), (0, 1, 2, 3)]
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5
    assert kept_set(model.config).heads == {0: (3,), 1: (0, 2), 2: (0, 1, 2, 3)}


def test_selecting_and_pruning_twice():
    model, batches, inputs = tiny_model("bert"), tiny_batches(), model_inputs()
    for wanted in (8, 4):
        selection = select_heads(model, batches, CAHPConfig(num_heads=wanted, min_heads_per_layer=0))
        assert selection.num_heads == wanted
        expected = masked_logits(model, selection.kept.heads, inputs)
        CAHPPruner(model, inputs, importance=CAHPImportance(selection)).step()
        assert (logits(model, inputs) - expected).abs().max() <= 1e-5
        assert {layer.index: layer.heads for layer in attention_layers(model)} == selection.kept.heads


def test_interactive_step_yields_a_group_a_layer():
    inputs, kept = model_inputs(), {0: (1, 2), 2: ()}
    model = tiny_model("bert")
    expected = masked_logits(model, kept, inputs)
    pruner = CAHPPruner(model, inputs, importance=CAHPImportance(kept))
    assert isinstance(pruner, tp.pruner.BasePruner)
    groups = list(pruner.step(interactive=True))
    assert [(group.layer.index, group.kept) for group in groups] == [(0, (1, 2)), (2, ())]
    assert all(isinstance(group, tp.dependency.Group) for group in groups)
    names = {dep.target.name.split(" ")[0] for dep, _ in groups[0]}
    assert {f"bert.encoder.layer.0.attention.self.{role}" for role in ("query", "key", "value")} <= names
    groups[0].prune()
    assert kept_set(model.config).heads == {0: (1, 2), 1: (0, 1, 2, 3), 2: (0, 1, 2, 3)}
    with pytest.raises(PruningError, match="by this group already"):
        groups[0].prune()
    with pytest.raises(PruningError, match="as it was planned"):
        groups[1].prune(idxs=[0])
    groups[1].prune()
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5
    assert len(pruner.pruning_history()) == 2
    with pytest.raises(PruningError, match="has done its step"):
        pruner.step()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_mode_gradients_and_types_are_kept(name):
    model = tiny_model(name).to(torch.bfloat16).train()
    frozen = [f"{layer.name}.{layer.spec.query}.weight" for layer in attention_layers(model)]
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name not in frozen and "embeddings" not in parameter_name)
    prune(model, {0: (0, 3), 1: ()}, model_inputs())
    assert model.training and all(module.training for module in model.modules())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert parameter.requires_grad == (parameter_name not in frozen and "embeddings" not in parameter_name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pruned_model_trains(name):
    model = prune(tiny_model(name), {0: (0, 3), 1: ()}, model_inputs())
    frozen = next(model.parameters()).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = tiny_batches(8, 8)[0]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = model(**batch).loss
    first.backward()
    optimizer.step()
    assert model(**batch).loss < first
    after = model.state_dict()
    assert torch.equal(next(model.parameters()), frozen)
    output = attention_layers(model)[1].output_path
    assert not torch.equal(after[f"{output}.bias"], before[f"{output}.bias"])  # the empty layer still learns its bias
    assert after[f"{output}.weight"].numel() == 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_copies_and_pickles_work(name):
    inputs = model_inputs()
    model = prune(tiny_model(name), {0: (), 1: (2,)}, inputs)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(copied, inputs), logits(model, inputs))
        copied.load_state_dict(model.state_dict(), strict=True)
        assert isinstance(attention_layers(copied)[0].core, type(attention_layers(model)[0].core))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attentions_stay_aligned_with_the_layers(name):
    inputs = model_inputs()
    model = prune(tiny_model(name), {0: (1, 3), 1: (), 2: (0, 1, 2)}, inputs)
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
    assert [0 if layer is None else layer.shape[1] for layer in maps] == [2, 0, 3]


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ({0: (0, 1, 2, 3)}, PruningError, "keeps all 12 heads"),
        ({}, PruningError, "keeps all 12 heads"),
        ({5: (0,)}, SelectionError, "layers \\[5\\] for heads; the model has layers 0 to 2"),
        ({0: (0, 4)}, SelectionError, "no head 4 \\(indices go from 0 to 3\\)"),
        ({0: (1, 1)}, SelectionError, "names heads twice"),
        ({0: "x"}, SelectionError, "expected a sequence of indices of heads"),
        ([0, 1], SelectionError, "got list"),
    ],
)
def test_bad_selections_leave_the_model_as_it_was(kept, error, message):
    model = tiny_model("bert").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    assert model.training and not hasattr(model.config, "cahp_config")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_other_importances_are_refused():
    with pytest.raises(PruningError, match="takes a CAHPImportance, got RandomImportance"):
        CAHPPruner(tiny_model(), model_inputs(), importance=tp.importance.RandomImportance())


def test_a_model_on_the_meta_device_is_refused():
    with pytest.raises(UnsupportedModelError, match="meta device"):
        CAHPPruner(tiny_model().to("meta"), model_inputs(), importance=CAHPImportance({0: (0,)}))


def test_heads_removed_by_another_tool_are_refused():
    model = tiny_model("bert")
    core = attention_layers(model)[1].core
    core.query = torch.nn.Linear(32, 24)  # as transformers 4.57's own prune_heads leaves it
    with pytest.raises(
        UnsupportedModelError, match=r"layer\.1\.attention\.self\.query is 24 channels wide.*another tool"
    ):
        CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (0,)}))


def test_dynamically_quantized_models_are_refused():
    model = torch.ao.quantization.quantize_dynamic(tiny_model("bert"), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnsupportedModelError, match=r"expected torch\.nn\.Linear"):
        CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (0,)}))


def test_a_graph_without_a_projection_names_it():
    model = tiny_model("bert")
    key = attention_layers(model)[2].projections()[attention_layers(model)[2].spec.key]
    key.register_forward_hook(lambda module, inputs, output: output.detach())  # cuts the key off autograd's graph
    with pytest.raises(PruningError, match=r"does not connect bert\.encoder\.layer\.2\.attention\.self\.key"):
        CAHPPruner(model, model_inputs(), importance=CAHPImportance({2: (0,)}))


@pytest.mark.parametrize("words", ["w1 w2", ["w1 w2", "w3"]])
def test_example_inputs_are_what_a_tokenizer_makes(words):
    model = tiny_model()
    inputs = tiny_tokenizer()(words, return_tensors="pt", padding=True)
    assert not isinstance(inputs, dict)  # a BatchEncoding: a mapping, which Torch-Pruning does not know
    expected = masked_logits(model, {0: (1,), 2: ()}, inputs)
    prune(model, {0: (1,), 2: ()}, inputs)
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5


def test_example_inputs_of_images():
    model = zoo_model("vit")
    inputs = BatchFeature(zoo_inputs("vit"))
    expected = masked_logits(model, {0: (1,)}, inputs)
    prune(model, {0: (1,)}, inputs)
    assert (logits(model, inputs) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (lambda: tiny_tokenizer()("w1 w2"), "a dict with the keys input_ids, "),
        (lambda: "hello", "a str"),
        (lambda: None, "a NoneType"),
        (lambda: [], "a list"),
    ],
)
def test_example_inputs_without_tensors(inputs, got):
    model = tiny_model()
    with pytest.raises(DataError, match=f'must hold tensors; got {got}.*return_tensors="pt"'):
        prune(model, {0: (1,)}, inputs())
    assert len(attention_layers(model)[0].heads) == 4


def test_own_ways_of_tracing_take_any_inputs():
    model = tiny_model()
    CAHPPruner(
        model, "w1 w2", CAHPImportance({0: (1,)}),
        forward_fn=lambda model, words: model(**tiny_tokenizer()(words, return_tensors="pt")),
    ).step()  # fmt: skip
    assert attention_layers(model)[0].heads == (1,)


def test_states_from_before_layers_without_heads_had_a_weight():
    model = prune(tiny_model(), {0: (1,), 1: ()}, model_inputs())
    name = f"{attention_layers(model)[1].output_path}.weight"
    old = {key: tensor for key, tensor in model.state_dict().items() if key != name}
    fresh = prune(tiny_model(seed=1), {0: (1,), 1: ()}, model_inputs())
    fresh.load_state_dict(old)
    assert torch.equal(logits(fresh, model_inputs()), logits(model, model_inputs()))
