"""Classes of tokens and sets of labels: signatures, moments and separation against loops over rows and examples."""

import numpy as np
import pytest
import torch
from selecting import grouped_model, without_labels
from tiny import tiny_batches, tiny_model
from torch.nn.functional import interpolate
from transformers import BartForSequenceClassification, BertConfig, BertForTokenClassification
from zoo import zoo_model

from cahp_plugin import CAHPConfig
from cahp_plugin._compat import attention_maps_enabled
from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS, LABEL, Conditioning, conditioning_of
from cahp_plugin.observe.head_maps import Signatures
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.tasks import TASKS
from cahp_plugin.units import attention_layers

IGNORED = -100
TOKEN_LABEL, LABEL_SETS = (conditioning_of("label", kind) for kind in ("tokens", "labels"))


def token_model(num_labels=3, seed=0):
    """A token classifier with the maps of :func:`tiny_model`'s."""
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, pad_token_id=0, num_labels=num_labels,
    )  # fmt: skip
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForTokenClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.25)
    return model.eval()


def token_batches(*given, num_labels=3, seed=0, **options):
    """Batches of which about two tokens in three have a class; the first batch has none."""
    generator, batches = torch.Generator().manual_seed(seed), tiny_batches(*given, **options)
    for position, batch in enumerate(batches):
        labels = torch.randint(0, num_labels, batch["input_ids"].shape, generator=generator)
        unlabelled = torch.rand(labels.shape, generator=generator) < 1 / 3
        batch["labels"] = labels.masked_fill(unlabelled | (batch["attention_mask"] == 0) | (position == 0), IGNORED)
    return batches


def set_batches(*given, num_labels=3, seed=0, dtype=torch.float32, **options):
    generator, batches = torch.Generator().manual_seed(seed), tiny_batches(*given, **options)
    for batch in batches:
        shape = len(batch["input_ids"]), num_labels
        batch["labels"] = (torch.rand(shape, generator=generator) < 0.4).to(dtype)
    return batches


def attentions_of(model, batch):
    with torch.no_grad(), attention_maps_enabled(model):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return model(**inputs, output_attentions=True).attentions


def rows_by_loops(model, batches, size):
    """Rows of (label, (heads, size)), one labelled token at a time."""
    found = []
    for batch in batches:
        attentions = attentions_of(model, batch)
        for example, labels in enumerate(batch["labels"]):
            real = batch["attention_mask"][example].nonzero().flatten()
            for token in (labels != IGNORED).nonzero().flatten().tolist():
                rows = [maps[example, head, token, real].double() for maps in attentions for head in range(4)]
                resized = [interpolate(row[None, None], size=size, mode="linear")[0, 0] for row in rows]
                found.append((int(labels[token]), torch.stack(resized).numpy()))
    return found


def maps_by_loops(model, batches, size):
    """Pairs of (labels, (heads, size * size)), one example at a time."""
    found = []
    for batch in batches:
        attentions = attentions_of(model, batch)
        for example, labels in enumerate(batch["labels"].tolist()):
            real = batch["attention_mask"][example].nonzero().flatten()
            maps = [layer[example, head][real][:, real].double() for layer in attentions for head in range(4)]
            resized = [interpolate(one[None, None], size=(size, size), mode="bilinear").flatten() for one in maps]
            found.append((labels, torch.stack(resized).numpy()))
    return found


def distances_of(one, other):
    """Jeffries-Matusita distances of two groups, ``(rows, heads, cells)`` each, from the formulas."""
    m1, m2 = one.mean(axis=0), other.mean(axis=0)
    v1, v2 = (np.maximum(np.var(group, axis=0, ddof=1), 1e-6) for group in (one, other))
    bhattacharyya = (m1 - m2) ** 2 / (4 * (v1 + v2)) + 0.5 * np.log((v1 + v2) / (2 * np.sqrt(v1 * v2)))
    return 2 * (1 - np.exp(-bhattacharyya))


def own_loss(output, inputs, labels):
    return output.logits.flatten(1).square().mean(dim=1)


def run(model, batches, how, size=5):
    config = CAHPConfig(signature_size=size, salience_share=1.0)
    return observe(model, attention_layers(model), prepare_batches(batches, model, how), config, how, own_loss)


def separation_of(seen):
    return separation_matrix(seen.mean, seen.variance, pairs=seen.pairs)


def expected_of_tokens(model, batches, size, classes=(0, 1, 2)):
    rows = rows_by_loops(model, batches, size)
    groups = {label: np.stack([row for own, row in rows if own == label]) for label in classes}
    pairs = [(a, b) for a in classes for b in classes if a < b]
    return groups, np.concatenate([distances_of(groups[a], groups[b]) for a, b in pairs], axis=1)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("size", [2, 5, 16])
def test_classes_of_tokens_equal_loops(padding, size):
    model, batches = token_model().double(), token_batches(24, 5, padding=padding)
    seen = run(model, batches, TOKEN_LABEL, size)
    groups, expected = expected_of_tokens(model, batches, size)
    assert seen.classes == (0, 1, 2) and seen.pairs is None and seen.mean.shape == (3, 12, size)
    for label, rows in groups.items():
        np.testing.assert_allclose(seen.mean[label], rows.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(seen.variance[label], np.var(rows, axis=0, ddof=1), rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(separation_of(seen), expected, rtol=1e-5)
    assert separation_of(seen).shape == (12, size * 3)


@pytest.mark.parametrize("size", [1, 7, 24])
def test_classes_of_tokens_do_not_depend_on_the_batch_size(size):
    model = token_model()
    one = dict(token_batches(24, 24)[0])
    one["labels"] = token_batches(48, 24)[1]["labels"][:, :1].expand_as(one["input_ids"]).contiguous()
    one["labels"] = one["labels"].clamp(min=0).masked_fill(one["attention_mask"] == 0, IGNORED)
    parts = [{name: value[i : i + size] for name, value in one.items()} for i in range(0, 24, size)]
    expected = separation_of(run(model, [one], TOKEN_LABEL))
    np.testing.assert_allclose(separation_of(run(model, parts, TOKEN_LABEL)), expected, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.long, torch.bool])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_sets_of_labels_equal_loops(padding, dtype):
    model, batches = tiny_model().double(), set_batches(24, 5, padding=padding, dtype=dtype)
    seen = run(model, batches, LABEL_SETS)
    found = maps_by_loops(model, batches, 5)
    columns = []
    for label in range(3):
        groups = [np.stack([maps for labels, maps in found if labels[label] == value]) for value in (0, 1)]
        for side, group in enumerate(groups):
            np.testing.assert_allclose(seen.mean[2 * label + side], group.mean(axis=0), atol=1e-12)
        columns.append(distances_of(*groups))
    assert seen.classes == (0, 1, 2) and list(seen.pairs) == [(0, 1), (2, 3), (4, 5)]
    np.testing.assert_allclose(separation_of(seen), np.concatenate(columns, axis=1), rtol=1e-5)
    assert separation_of(seen).shape == (12, 25 * 3)


def test_two_classes_of_examples_are_a_label_that_an_example_has_or_has_not():
    """The single label's separation is that of the two classes without it and with it, to the bit."""
    model, batches = tiny_model(num_labels=2), tiny_batches(24, 5, num_labels=2)
    expected = run(model, batches, LABEL)
    model.config.num_labels = 1
    sets = [batch | {"labels": batch["labels"][:, None]} for batch in batches]
    np.testing.assert_array_equal(separation_of(run(model, sets, LABEL_SETS)), separation_of(expected))


def test_a_query_head_group_is_compared_by_the_mean_of_its_rows():
    model = grouped_model()
    batches = token_batches(12, 4, padding="left")
    layers = attention_layers(model)
    seen = Signatures(model, layers, 4, (0, 1, 2), TOKEN_LABEL)
    accumulate(model, prepare_batches(batches, model, TOKEN_LABEL), [seen], "Observing heads")
    rows = rows_by_loops(model, batches, 4)
    for label in range(3):
        own = np.stack([row for found, row in rows if found == label]).reshape(-1, 3, 2, 2, 4).mean(axis=3)
        mean = seen.finish([label])[0][0]
        np.testing.assert_allclose(mean, own.reshape(-1, 6, 4).mean(axis=0), rtol=1e-4, atol=1e-6)


def test_layers_that_depths_share_are_compared_by_the_mean_row():
    model, batches = zoo_model("albert"), token_batches(12, 4, num_labels=2)
    seen = Signatures(model, attention_layers(model), 4, (0, 1), TOKEN_LABEL)
    accumulate(model, prepare_batches(batches, model, TOKEN_LABEL), [seen], "Observing heads")
    rows = np.stack([row for label, row in rows_by_loops(model, batches, 4) if label == 1]).reshape(-1, 3, 4, 4)
    expected = np.concatenate([rows[:, :2].mean(axis=1), rows[:, 2]], axis=1)  # depths 0 and 1 share a layer
    mean, variance = seen.finish([1])
    np.testing.assert_allclose(mean[0], expected.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance[0], np.var(expected, axis=0, ddof=1), rtol=1e-3, atol=1e-8)


def predicted(model, batches, how):
    """The batches with the labels that the model predicts."""
    found = []
    for batch in without_labels(batches):
        with torch.no_grad():
            logits = model(**batch).logits
        if how.of == "tokens":
            labels = logits.argmax(dim=-1).masked_fill(batch["attention_mask"] == 0, IGNORED)
        else:
            labels = (logits > 0).float()
        found.append(batch | {"labels": labels})
    return found


@pytest.mark.parametrize("how", [TOKEN_LABEL, LABEL_SETS])
def test_predicted_classes_are_those_of_the_same_labels(how):
    model = token_model() if how is TOKEN_LABEL else tiny_model(num_labels=3)
    batches = tiny_batches(64, 8)
    if how is LABEL_SETS:
        with torch.no_grad():
            model.classifier.bias -= torch.cat([model(**batch).logits for batch in batches]).median(dim=0).values
    labelled = run(model, predicted(model, batches, how), how)
    found = run(model, without_labels(batches), conditioning_of("prediction", how.of))
    assert found.classes == labelled.classes == (0, 1, 2)
    np.testing.assert_allclose(separation_of(found), separation_of(labelled), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["tokens", "labels"])
def test_logits_of_another_shape_predict_nothing(kind):
    model = tiny_model() if kind == "tokens" else token_model()
    with pytest.raises(UnsupportedModelError, match=r'logits of shape .*`conditioning="none"`'):
        run(model, without_labels(tiny_batches()), conditioning_of("prediction", kind))


def test_predicted_labels_that_all_examples_have_are_an_error():
    model = tiny_model()
    model.classifier.bias.data[:] = 1e4
    with pytest.raises(DataError, match=r"model predicts the labels \(examples with, without\) 0 \(30, 0\), 1"):
        run(model, without_labels(tiny_batches()), conditioning_of("prediction", "labels"))


def test_classes_of_a_single_token_are_left_out(caplog):
    model, batches = token_model(num_labels=4), token_batches(24, 5)
    batches[1]["labels"][0, 0] = 3
    with caplog.at_level("WARNING"):
        seen = run(model, batches, TOKEN_LABEL)
    assert (
        seen.classes == (0, 1, 2) and "a single token, so without a variance, and left out: classes [3]" in caplog.text
    )
    _, expected = expected_of_tokens(model, batches, 5)
    assert np.abs(separation_of(seen) - expected).max() <= 1e-4


def test_labels_that_do_not_split_the_examples_are_left_out(caplog):
    model, batches = tiny_model(num_labels=4), set_batches(24, 5, num_labels=4)
    expected = separation_of(run(model, batches, LABEL_SETS)).reshape(12, 4, 25)
    for batch in batches:
        batch["labels"][:, 1] = 0
        batch["labels"][:, 2] = 1
    batches[0]["labels"][0, 1:3] = 1 - batches[0]["labels"][0, 1:3]  # a single example on one side
    with caplog.at_level("WARNING"):
        seen = run(model, batches, LABEL_SETS)
    assert seen.classes == (0, 3) and "and left out: labels [1, 2]" in caplog.text
    np.testing.assert_array_equal(separation_of(seen).reshape(12, 2, 25), expected[:, [0, 3]])


def changed(batch, **changes):
    return [{name: value for name, value in (batch | changes).items() if value is not None}]


TOKENS, SETS = token_batches(12, 6)[1], set_batches(6, 6)[0]


def with_label(batch, value, place=(0, 0), dtype=None):
    labels = batch["labels"].clone()
    labels[place] = value
    return changed(batch, labels=labels.to(dtype or labels.dtype))


@pytest.mark.parametrize(
    ("batches", "how", "message"),
    [
        (changed(TOKENS, labels=None), TOKEN_LABEL, "Batch 0 has no `labels`"),
        (changed(TOKENS, labels=torch.zeros(6, dtype=torch.long)), TOKEN_LABEL, r"Batch 0.*\(batch, tokens\), \(6, "),
        (changed(TOKENS, labels=TOKENS["labels"][:, 1:]), TOKEN_LABEL, r"Batch 0.*of shape \(batch, tokens\)"),
        (changed(TOKENS, labels=TOKENS["labels"].float()), TOKEN_LABEL, "Batch 0.*whole numbers.*got torch.float32"),
        (changed(TOKENS, labels=[[0, 1], [1]]), TOKEN_LABEL, "Batch 0: `labels` make no tensor"),
        (with_label(TOKENS, 3), TOKEN_LABEL, "Batch 0 has the label 3; the model has 3 classes"),
        (with_label(TOKENS, -1), TOKEN_LABEL, "Batch 0 has the label -1"),
        (
            changed(TOKENS, attention_mask=torch.eye(6, TOKENS["labels"].shape[1])),
            TOKEN_LABEL,
            "labels at padded tokens",
        ),
        (
            changed(TOKENS, labels=TOKENS["labels"].clamp(max=0)),
            TOKEN_LABEL,
            r"classes \(tokens\) 0 \(\d+\); at least",
        ),
        (
            changed(TOKENS, labels=torch.full_like(TOKENS["labels"], IGNORED)),
            TOKEN_LABEL,
            r"\(tokens\) none; at least",
        ),
        (changed(SETS, labels=None), LABEL_SETS, "Batch 0 has no `labels`"),
        (changed(SETS, labels=torch.zeros(6)), LABEL_SETS, r"Batch 0.*0 or 1 of shape \(batch, labels\)"),
        (changed(SETS, labels=SETS["labels"][:5]), LABEL_SETS, r"Batch 0.*\(batch, labels\), got.*\(5, 3\)"),
        (changed(SETS, labels=SETS["labels"][:, :2]), LABEL_SETS, r"Batch 0.*model's 3 labels, got shape \(6, 2\)"),
        (with_label(SETS, float("nan")), LABEL_SETS, "Batch 0 has the label nan"),
        (with_label(SETS, 0.5), LABEL_SETS, "Batch 0 has the label 0.5"),
        (with_label(SETS, -100, dtype=torch.long), LABEL_SETS, "Batch 0 has the label -100"),
        (changed(SETS, labels=torch.ones(6, 3)), LABEL_SETS, r"0 \(6, 0\), 1 \(6, 0\), 2 \(6, 0\); of one at least"),
    ],
)
def test_bad_labels_are_told_before_the_model_runs(batches, how, message):
    model = token_model() if how is TOKEN_LABEL else tiny_model()
    model.forward = None  # any use of the model would raise a TypeError
    with pytest.raises(DataError, match=message):
        prepare_batches(batches, model, how)


@pytest.mark.parametrize("name", ["vit", "bart", "clip"])
def test_layers_whose_queries_are_other_tokens_are_refused(name):
    model = zoo_model(name)
    with pytest.raises(UnsupportedModelError, match=r'Use `conditioning="none"`'):
        Signatures(model, attention_layers(model), 4, (0, 1), TOKEN_LABEL)


def test_as_many_labels_as_tokens_are_not_cut_with_the_tokens():
    """Rows of short examples lose their padding; their labels, of the same number, stay."""
    batch = set_batches(6, 6)[0]
    width = batch["input_ids"].shape[1]
    batch["labels"] = torch.arange(6 * width).reshape(6, width) % 2
    for how in (LABEL_SETS, conditioning_of("none", "labels")):
        read = next(iter(prepare_batches([batch], tiny_model(num_labels=width), how)))
        short = read.rows(torch.tensor([int(batch["attention_mask"].sum(dim=1).argmin())]))
        assert short.mask.shape[1] < width and short.labels.shape == (1, width)


def test_sets_of_whole_numbers_are_no_tokens_of_a_decoder():
    model = BartForSequenceClassification(zoo_model("bart").config)
    sets = set_batches(12, 12, dtype=torch.long)
    for how in (LABEL_SETS, CONDITIONINGS["none"]):
        batch = next(iter(prepare_batches(sets, model, how)))
        assert batch.decoder_mask.shape == batch.mask.shape and "decoder_input_ids" not in batch.inputs


def test_memory_does_not_grow_with_the_tokens():
    model, batches = token_model(), token_batches(16, 8)[1:]
    few, many = run(model, batches, TOKEN_LABEL), run(model, batches * 30, TOKEN_LABEL)
    assert few.mean.nbytes == many.mean.nbytes
    np.testing.assert_allclose(few.mean, many.mean, rtol=1e-5, atol=1e-8)


def test_the_kind_completes_the_setting():
    assert conditioning_of("label") == CONDITIONINGS["label"] == LABEL
    assert conditioning_of("label", "tokens") == Conditioning("label", classes=True, labelled=True, of="tokens")
    assert conditioning_of("none", "labels") == Conditioning("none", classes=False, labelled=False, of="labels")
    assert {task.classes_of for task in TASKS.values()} == {"examples", "tokens", "labels"}
