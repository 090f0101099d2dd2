import numpy as np
import pytest
import torch
from oracles import oracle_distances, oracle_salience, oracle_separation, oracle_signatures
from selecting import without_labels
from tiny import ARCHITECTURES, has_sdpa, model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner
from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.units import attention_layers


def run(model, batches, size=6, share=1.0, conditioning="label", max_queries=None, loss=None):
    how = CONDITIONINGS[conditioning]
    prepared = prepare_batches(batches, model, how)
    config = CAHPConfig(conditioning=conditioning, signature_size=size, salience_share=share, max_queries=max_queries)
    return observe(model, attention_layers(model), prepared, config, how, loss)


def relabelled(model, batches):
    """The batches with the classes that the model predicts."""
    with torch.no_grad():
        return [batch | {"labels": model(**batch).logits.argmax(dim=1)} for batch in without_labels(batches)]


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_separation_equals_the_oracle(name, implementation, padding):
    if implementation == "sdpa" and not has_sdpa(name):
        pytest.skip(f"{name} has no sdpa attention on this version of transformers")
    model = tiny_model(name, attn_implementation=implementation)
    batches = tiny_batches(padding=padding)
    seen = run(model, batches)
    found = separation_matrix(seen.mean, seen.variance)
    expected = oracle_separation(oracle_signatures(model, batches, 6))
    assert found.shape == expected.shape == (12, 108)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_separation_equals_the_oracle_element_by_element_in_float64():
    model = tiny_model("bert").double()
    batches = tiny_batches()
    seen = run(model, batches)
    expected = oracle_separation(oracle_signatures(model, batches, 6))
    # X itself is float32; everything before it is float64 here.
    np.testing.assert_allclose(separation_matrix(seen.mean, seen.variance), expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 30])
def test_separation_does_not_depend_on_the_batch_size_or_order(batch_size):
    model = tiny_model("roberta")
    expected = run(model, tiny_batches(batch_size=8))
    batches = tiny_batches(batch_size=batch_size)[::-1]
    seen = run(model, batches)
    reference = separation_matrix(expected.mean, expected.variance)
    assert np.abs(separation_matrix(seen.mean, seen.variance) - reference).max() <= 1e-5 * reference.max()
    np.testing.assert_allclose(seen.salience, expected.salience, rtol=1e-4, atol=1e-7)


def test_padding_side_does_not_matter_where_positions_follow_the_tokens():
    # RoBERTa counts positions from the real tokens, so its maps are the same. (Its classifier reads the first column,
    # which is padding on the left: its logits, and so the salience, are not.)
    model = tiny_model("roberta", pad_token_id=0)
    left, right = (run(model, tiny_batches(padding=padding)) for padding in ("left", "right"))
    reference = separation_matrix(right.mean, right.variance)
    assert np.abs(separation_matrix(left.mean, left.variance) - reference).max() <= 1e-5 * reference.max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_salience_equals_one_pass_per_example(name):
    model = tiny_model(name)
    batches = tiny_batches(13, 4)
    seen = run(model, batches)
    modules = [layer.output for layer in attention_layers(model)]
    expected = oracle_salience(model, tiny_batches(13, 1), modules, 4)
    np.testing.assert_allclose(seen.salience, expected.flatten(), rtol=1e-3, atol=1e-6)
    assert seen.num_salience_examples == 13


def salience_by_finite_differences(model, data, layer, head):
    """Mean over examples of |dL/dm| of one head, by central differences on its columns, one example at a time."""
    columns = attention_layers(model)[layer].output.weight.data.unflatten(1, (4, 8))[:, head]
    original, total, count = columns.clone(), 0.0, 0
    with torch.no_grad():
        for batch in data:
            for row in range(len(batch["labels"])):
                one = {name: value[row : row + 1] for name, value in batch.items()}
                losses = []
                for change in (1e-4, -1e-4):
                    columns.copy_(original * (1 + change))
                    losses.append(float(model(**one).loss))
                columns.copy_(original)
                total += abs(losses[0] - losses[1]) / 2e-4
                count += 1
    return total / count


def test_salience_equals_finite_differences():
    model, data = tiny_model().double(), tiny_batches(10, 4)
    found = run(model, data).salience.reshape(3, 4)
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        assert found[layer, head] == pytest.approx(salience_by_finite_differences(model, data, layer, head), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_salience_share_takes_the_same_examples_for_any_batch_size(batch_size):
    model = tiny_model("bert")
    seen = run(model, tiny_batches(13, batch_size), share=0.25)
    modules = [layer.output for layer in attention_layers(model)]
    expected = oracle_salience(model, tiny_batches(13, 1)[::4], modules, 4)  # examples 0, 4, 8, 12
    assert seen.num_salience_examples == 4
    np.testing.assert_allclose(seen.salience, expected.flatten(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_model_leaves_as_it_came(implementation):
    model = tiny_model("bert", attn_implementation=implementation)
    model.train()
    model.bert.encoder.layer[1].eval()
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)

    def state():
        return (
            [module.training for module in model.modules()],
            [(p.requires_grad, None if p.grad is None else p.grad.clone().sum().item()) for p in model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
            model.config._attn_implementation,
            torch.random.get_rng_state().tolist(),
        )

    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = state()
    run(model, tiny_batches(), share=0.5)
    assert state() == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_model_leaves_as_it_came_after_an_error():
    model = tiny_model("bert").train()
    model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="loss is nan"):
        run(model, tiny_batches())
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_maps_that_are_not_numbers_name_the_layer():
    model = tiny_model("bert")
    model.bert.encoder.layer[1].attention.self.query.weight.data[0, 0] = float("nan")
    with pytest.raises(DataError, match="layer 1 are not numbers"):
        run(model, tiny_batches())


@pytest.mark.parametrize("conditioning", ["label", "prediction", "none"])
def test_the_layer_is_named_by_its_number_also_behind_an_empty_one(conditioning):
    model = tiny_model("bert")
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: ()})).step()
    model.bert.encoder.layer[2].attention.self.query.weight.data[0, 0] = float("nan")
    with pytest.raises(DataError, match="layer 2 are not numbers"):
        run(model, tiny_batches(), conditioning=conditioning)


def test_an_attention_without_maps_is_an_error():
    model = tiny_model("bert")
    core = model.bert.encoder.layer[2].attention.self

    class MaplessAttention(type(core)):
        def forward(self, *args, **kwargs):
            return (super().forward(*args, **kwargs)[0], None)

    core.__class__ = MaplessAttention
    with pytest.raises(UnsupportedModelError, match=r"layer\.2\.attention\.self \(MaplessAttention\).*eager"):
        run(model, tiny_batches())


def test_memory_does_not_grow_with_the_examples():
    model = tiny_model("bert")
    batches = tiny_batches(8, 8)
    assert sum(1 for _ in prepare_batches(batches * 50, model)) == 50
    few, many = run(model, batches), run(model, batches * 50)
    assert few.mean.nbytes == many.mean.nbytes
    np.testing.assert_allclose(few.mean, many.mean, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "deberta-v2", "distilbert"])
def test_distances_equal_the_oracle(name, padding):
    model, batches = tiny_model(name), without_labels(tiny_batches(6, 4, padding=padding, lengths=(2, 9)))
    seen = run(model, batches, conditioning="none")
    np.testing.assert_allclose(seen.distances, oracle_distances(model, batches), atol=2e-4)
    assert seen.mean is None and seen.variance is None and seen.classes == ()
    assert (seen.distances == seen.distances.T).all() and not seen.distances.diagonal().any()


def test_distances_equal_the_oracle_in_float64():
    model, batches = tiny_model("bert").double(), without_labels(tiny_batches(6, 4, lengths=(2, 9)))
    seen = run(model, batches, conditioning="none")
    np.testing.assert_allclose(seen.distances, oracle_distances(model, batches), atol=1e-9)


def test_distances_at_some_queries():
    model, batches = tiny_model("bert").double(), tiny_batches(6, 4, lengths=(4, 12))
    seen = run(model, batches, conditioning="none", max_queries=2)
    expected = oracle_distances(model, batches, lambda real: real[[len(real) // 4, 3 * len(real) // 4]])
    np.testing.assert_allclose(seen.distances, expected, atol=1e-9)
    assert np.abs(seen.distances - run(model, batches, conditioning="none").distances).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 5])
def test_distances_do_not_depend_on_the_batch_size(batch_size):
    model = tiny_model("roberta")
    found, expected = (run(model, tiny_batches(10, size), conditioning="none") for size in (batch_size, 10))
    np.testing.assert_allclose(found.distances, expected.distances, atol=1e-4)
    np.testing.assert_allclose(found.salience, expected.salience, rtol=1e-4, atol=1e-7)


def test_predicted_classes_equal_the_same_labels():
    model, batches = tiny_model("bert"), tiny_batches(40)
    expected = run(model, relabelled(model, batches))
    seen = run(model, without_labels(batches), conditioning="prediction")
    assert seen.classes == expected.classes and len(seen.classes) >= 2
    np.testing.assert_allclose(seen.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(seen.variance, expected.variance, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(seen.salience, expected.salience, rtol=1e-5, atol=1e-8)
    other = run(model, batches, conditioning="prediction")  # labels that are there are not looked at
    np.testing.assert_array_equal(other.mean, seen.mean)
    np.testing.assert_array_equal(other.salience, seen.salience)


def test_predicted_classes_without_a_variance_are_left_out(caplog):
    model, batches = tiny_model("bert"), tiny_batches(40, 40)
    labels = relabelled(model, batches)[0]["labels"]
    rare, often = labels.bincount(minlength=3).argsort()[[0, 1]].tolist()
    keep = (labels != rare).nonzero().flatten().tolist() + (labels == rare).nonzero().flatten()[:1].tolist()
    assert (labels == rare).any() and (labels == often).sum() >= 2
    chosen = [{name: value[keep] for name, value in batches[0].items()}]
    with caplog.at_level("WARNING"):
        seen = run(model, chosen, conditioning="prediction")
    assert rare not in seen.classes and np.isfinite(seen.variance).all() and seen.mean.shape[0] == len(seen.classes)
    assert f"left out: classes [{rare}]" in caplog.text


def test_a_single_predicted_class_is_an_error():
    model = tiny_model("bert")
    model.classifier.bias.data[1] += 1e4
    with pytest.raises(DataError, match=r'predicts the classes \(examples\) 1 \(30\);.*`conditioning="none"`'):
        run(model, tiny_batches(), conditioning="prediction")


@pytest.mark.parametrize("conditioning", ["prediction", "none"])
def test_other_conditionings_tell_what_is_not_a_number(conditioning):
    model = tiny_model("bert")
    model.bert.encoder.layer[1].attention.self.query.weight.data[0, 0] = float("nan")
    with pytest.raises(DataError, match="layer 1 are not numbers"):
        run(model, tiny_batches(), conditioning=conditioning)


def test_salience_without_classes_is_by_labels_where_they_are_and_else_by_predictions():
    model, batches = tiny_model("bert"), tiny_batches(12)
    labelled = run(model, batches, conditioning="none")
    np.testing.assert_allclose(labelled.salience, run(model, batches).salience, rtol=1e-6)
    predicted = run(model, without_labels(batches), conditioning="none").salience
    expected = run(model, relabelled(model, batches), conditioning="none").salience
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)


def test_salience_by_a_loss_of_ones_own():
    model, batches = tiny_model("bert"), tiny_batches(12)

    def loss(output, inputs, labels):
        assert "input_ids" in inputs and "labels" not in inputs
        return torch.nn.functional.cross_entropy(output.logits, labels, reduction="none")

    seen = run(model, batches, conditioning="none", loss=loss)
    np.testing.assert_allclose(seen.salience, run(model, batches).salience, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, inputs, labels: output.logits.sum(), r"shape \(8,\), one loss an example; got shape \(\)"),
        (lambda output, inputs, labels: 3.0, "one loss an example; got float"),
        (lambda output, inputs, labels: torch.zeros(len(labels)), "does not depend on the model's output"),
    ],
)
def test_losses_that_can_not_be_used(loss, message):
    with pytest.raises(DataError, match=message):
        run(tiny_model("bert"), tiny_batches(), conditioning="none", loss=loss)
