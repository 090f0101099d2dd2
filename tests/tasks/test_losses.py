"""The losses of each task against those that the models make of labels; divergences; embeddings."""

import functools
import random
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from made import BERT, MADE, noisy_model, tokenizer
from torch.distributions import Bernoulli, Categorical, kl_divergence

from cahp_plugin.errors import DataError
from cahp_plugin.tasks import encode, task_of
from cahp_plugin.tasks.feature_extraction import FeatureExtraction
from cahp_plugin.tasks.losses import divergence_of_classes, divergence_of_sets, mean_over, of_classes, of_numbers

LABELLED = [name for name in MADE if name != "feature-extraction"]


@functools.cache
def given(name):
    """A random model of a task, its processor and six examples of different lengths."""
    made, draw = MADE[name], random.Random(1)
    model, processor = noisy_model(name), made.processor()
    rows = made.rows(draw, 6)
    if name == "image-classification":
        from PIL import Image

        rows = [row | {"image": Image.fromarray(row["image"])} for row in rows]
    if name == "automatic-speech-recognition":
        rows = [row | {"audio": {"array": row["audio"], "sampling_rate": 16000}} for row in rows]
    return model, encode(Dataset.from_list(rows), model, processor)


def run(model, batch):
    labels = batch.get("labels")
    return model(**{name: value for name, value in batch.items() if name != "labels"}), labels


def own_loss(name, model, batch):
    """The loss that transformers' model makes of an example's labels."""
    if name == "question-answering":
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        first, last = batch["labels"].T
        return model(**inputs, start_positions=first, end_positions=last).loss
    return model(**batch).loss


def losses_of(model, examples, batch):
    with torch.no_grad():
        output, labels = run(model, batch)
        return examples.task.losses(output, batch, labels)


@pytest.mark.parametrize("name", LABELLED)
def test_losses_are_those_of_the_models(name):
    model, examples = given(name)
    with torch.no_grad():
        expected = [own_loss(name, model, examples.batch([index])) for index in range(len(examples))]
    found = losses_of(model, examples, examples.batch(range(len(examples))))  # padded, where they are not as long
    assert found == pytest.approx(torch.stack(expected), abs=1e-5)


@pytest.mark.parametrize("name", ["token-classification", "question-answering", "fill-mask", "text-generation"])
def test_padding_on_the_left_changes_no_loss(name):
    model, examples = given(name)
    batch = examples.batch(range(len(examples)))
    left = {key: value.clone() for key, value in batch.items()}
    lengths = batch["attention_mask"].sum(dim=1)
    width = batch["input_ids"].shape[1]
    for row, length in enumerate(lengths):
        for key, value in batch.items():
            if value.shape[1:] == (width,):
                left[key][row] = value[row].roll(int(width - length))
    if name == "question-answering":
        left["labels"] += (width - lengths)[:, None]
    positions = (left["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        output = model(**{k: v for k, v in left.items() if k != "labels"}, position_ids=positions)
    found = examples.task.losses(output, left, left["labels"])
    assert found == pytest.approx(losses_of(model, examples, batch), abs=1e-5)
    weights = [examples.task.weights(own, own["labels"]).tolist() for own in (batch, left)]
    assert weights[0] == weights[1]


def test_weights_are_the_tokens_that_are_predicted():
    for name in ("text-generation", "token-classification", "fill-mask", "text2text-generation"):
        _, examples = given(name)
        batch = examples.batch(range(len(examples)))
        counted = [sum(label != -100 for label in row["labels"]) for row in examples.encoded]
        if name == "text-generation":
            counted = [count - 1 for count in counted]  # the first is predicted from nothing
        assert examples.task.weights(batch, batch["labels"]).tolist() == counted
    _, examples = given("text-classification")
    batch = examples.batch(range(6))
    assert examples.task.weights(batch, batch["labels"]).tolist() == [1] * 6


@pytest.mark.parametrize("name", ["text-classification", "multi-label-classification", "image-classification"])
def test_predictions_stand_in_for_labels(name):
    model, examples = given(name)
    batch = examples.batch(range(6))
    output, _ = run(model, batch)
    logits = output.logits
    predicted = (logits > 0).float() if name == "multi-label-classification" else logits.argmax(dim=1)
    assert torch.equal(examples.task.losses(output, batch, None), examples.task.losses(output, batch, predicted))


def test_labels_that_are_none():
    logits = torch.zeros(2, 3)
    for labels in (torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), torch.zeros(2, 1).long()):
        with pytest.raises(DataError, match="not classes from 0 to 2"):
            of_classes(logits, labels)
    with pytest.raises(DataError, match=r"shape \(2, 2\) do not go with logits of shape \(2, 3\)"):
        of_numbers(logits, torch.zeros(2, 2))
    with pytest.raises(DataError, match="not all numbers"):
        of_numbers(logits, torch.full((2, 3), torch.nan))


def test_divergences():
    ours, theirs = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    p, q = Categorical(logits=theirs), Categorical(logits=ours)
    assert divergence_of_classes(ours, theirs) == pytest.approx(kl_divergence(p, q), abs=1e-6)
    p, q = Bernoulli(logits=theirs), Bernoulli(logits=ours)
    assert divergence_of_sets(ours, theirs) == pytest.approx(kl_divergence(p, q).sum(dim=1), abs=1e-6)
    quarter, half = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergence_of_classes(quarter, half).item() == pytest.approx(0.143841, abs=1e-6)  # ln 2 - ln(3) / 2
    near = theirs[:1] + 1e-6 * torch.randn(1000, 7, generator=torch.Generator().manual_seed(1))
    assert divergence_of_classes(near, theirs[:1].expand(1000, 7)).min() == 0  # rounding alone would bring it below
    assert divergence_of_classes(torch.full((1, 7), torch.nan), theirs[:1]).isnan().all()
    values, chosen = torch.tensor([[1.0, 3.0, torch.nan], [1.0, 2.0, 3.0]]), torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert mean_over(values, chosen.bool()).tolist() == [2, 0]


@pytest.mark.parametrize("name", MADE)
def test_a_model_does_not_differ_from_itself_nor_by_what_is_not_compared(name):
    model, examples = given(name)
    batch = examples.batch(range(6))
    with torch.no_grad():
        output, labels = run(model, batch)
    task = examples.task
    assert task.divergence(output, output, batch, labels) == pytest.approx([0] * 6, abs=1e-6)
    other = SimpleNamespace(**{key: value.clone() for key, value in output.items() if isinstance(value, torch.Tensor)})
    draw = torch.Generator().manual_seed(0)
    changed = []
    for value in vars(other).values():
        value += torch.randn(value.shape, generator=draw)
    found = task.divergence(other, output, batch, labels)
    assert found.shape == (6,) and bool((found > 0).all())
    if name in ("text2text-generation", "automatic-speech-recognition", "token-classification", "fill-mask"):
        ignored = labels == -100
    elif name in ("question-answering", "text-generation", "feature-extraction"):
        ignored = batch["attention_mask"] == 0
    else:
        return
    for value in vars(other).values():
        if value.shape[:2] == ignored.shape:
            value[ignored] += torch.randn(value[ignored].shape, generator=draw)
            changed.append(value)
    assert changed and task.divergence(other, output, batch, labels) == pytest.approx(found, abs=1e-6)


def test_divergence_of_answers_is_that_of_starts_and_ends():
    _, examples = given("question-answering")
    batch = examples.batch(range(6))
    width = batch["input_ids"].shape[1]
    ours, theirs = (
        SimpleNamespace(start_logits=values[0], end_logits=values[1])
        for values in torch.randn(2, 2, 6, width, generator=torch.Generator().manual_seed(0))
    )
    found = examples.task.divergence(ours, theirs, batch, batch["labels"])
    for row, length in enumerate(batch["attention_mask"].sum(dim=1)):
        expected = sum(
            kl_divergence(*(Categorical(logits=getattr(side, part)[row, :length]) for side in (theirs, ours)))
            for part in ("start_logits", "end_logits")
        )
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("left", [False, True])
def test_embeddings_are_pooled_over_real_tokens(pooling, left):
    lengths, width = (1, 3, 5), 5
    states = torch.randn(3, width, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, width, dtype=torch.long)
    expected = []
    for row, length in enumerate(lengths):
        places = range(width - length, width) if left else range(length)
        mask[row, list(places)] = 1
        own = [states[row, place] for place in places]
        if pooling == "mean":
            expected.append(sum(own) / length)
        elif pooling == "max":
            expected.append(torch.tensor([max(float(value[i]) for value in own) for i in range(4)]))
        else:
            expected.append(own[0] if pooling == "cls" else own[-1])
    states[mask == 0] = 1e6  # padding does not count
    inputs = {"input_ids": mask, "attention_mask": mask}
    found = FeatureExtraction(pooling).embed(SimpleNamespace(last_hidden_state=states), inputs)
    assert found == pytest.approx(torch.stack(expected), abs=1e-6)


def test_salience_of_embeddings_does_not_depend_on_the_batch():
    model, examples = given("feature-extraction")
    task, together = examples.task, examples.batch(range(12))

    def losses(batch):
        with torch.no_grad():
            return task.salience_losses(model(**batch), batch, None)

    found = losses(together)
    for index in range(12):
        assert losses(examples.batch([index])) == pytest.approx(found[index : index + 1], abs=1e-5)
    wider = {name: torch.nn.functional.pad(value, (0, 3), value=9) for name, value in together.items()}
    wider["attention_mask"][:, -3:] = 0
    wider["token_type_ids"][:, -3:] = 0
    assert losses(wider) == pytest.approx(found, abs=1e-5)
    assert len({round(float(value), 4) for value in found}) > 6


def test_embeddings_are_held_against_the_dense_model():
    task = FeatureExtraction()
    states = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    inputs, output = {"input_ids": torch.ones(3, 4)}, SimpleNamespace(last_hidden_state=states)
    found = task.embed(output, inputs)
    assert task.losses(output, inputs, None) == pytest.approx([0] * 3, abs=1e-6)
    assert task.losses(output, inputs, 5 * found) == pytest.approx([0] * 3, abs=1e-6)
    assert task.losses(output, inputs, -found) == pytest.approx([2] * 3, abs=1e-6)


def test_regression_of_several_numbers_is_that_of_the_model():
    config = transformers.BertConfig(**BERT, num_labels=2, problem_type="regression")
    model = transformers.BertForSequenceClassification(config).eval()
    batch = dict(tokenizer()(["w1 w2"], return_tensors="pt"))
    labels = torch.tensor([[0.5, -1.0]])
    with torch.no_grad():
        output = model(**batch, labels=labels)
    assert task_of(model).losses(output, batch, labels).item() == pytest.approx(output.loss.item(), abs=1e-6)
