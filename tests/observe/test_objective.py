import pytest
import torch
from tiny import tiny_batches, tiny_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)
from zoo import zoo_inputs, zoo_model

from cahp_plugin.errors import DataError, UnsupportedModelError
from cahp_plugin.observe.batches import prepare_batches
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.objective import example_losses
from cahp_plugin.tasks import TASKS, task_of
from cahp_plugin.units.state import call_options

BERT = dict(
    vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
)


def causal():
    return GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1))


def seq2seq():
    config = T5Config(
        vocab_size=100, d_model=16, d_kv=8, num_layers=1, num_heads=2, d_ff=8, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config)


def losses(model, batch, conditioning="none", loss=None):
    how = CONDITIONINGS[conditioning]
    (prepared,) = prepare_batches([batch], model, how)
    model.eval()
    with torch.no_grad():
        output = model(**prepared.inputs, **call_options(type(model)))
        return example_losses(model, output, prepared, how, loss)


def alone(model, batch, labels, row, **arguments):
    """The model's own loss of one example without its padding."""
    real = batch["attention_mask"][row].bool()
    with torch.no_grad():
        return model(input_ids=batch["input_ids"][row][real][None], labels=labels, **arguments).loss


def batch_and_token_labels():
    batch = tiny_batches(5, 5, lengths=(4, 12))[0]
    del batch["labels"]
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, batch["input_ids"].shape, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = -100
    labels[batch["attention_mask"] == 0] = -100
    labels[:, 1] = 1  # at least one that counts
    return batch, labels


@pytest.mark.parametrize("given", [True, False])
def test_causal_language_models_predict_the_next_token(given):
    model, (batch, labels) = causal(), batch_and_token_labels()
    found = losses(model, batch | {"labels": labels} if given else batch)
    for row in range(5):
        real = batch["attention_mask"][row].bool()
        own = labels[row][real][None] if given else batch["input_ids"][row][real][None]
        torch.testing.assert_close(found[row], alone(model, batch, own, row))


@pytest.mark.parametrize(
    ("cls", "name"), [(BertForMaskedLM, "fill-mask"), (BertForTokenClassification, "token-classification")]
)
def test_labels_of_tokens(cls, name):
    model, (batch, labels) = cls(BertConfig(**BERT)), batch_and_token_labels()
    found = losses(model, batch | {"labels": labels})
    for row in range(5):
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(found[row], alone(model, batch, labels[row][real][None], row))
    with pytest.raises(DataError, match=rf"The {name} model gives logits of shape .* needs whole-number `labels`"):
        losses(model, batch)
    with pytest.raises(DataError, match=r"got torch.int64 of shape|got none"):
        losses(model, batch | {"labels": torch.zeros(5, dtype=torch.long)})


def test_sequence_to_sequence():
    model, (batch, _) = seq2seq(), batch_and_token_labels()
    labels = torch.tensor([[5, 6, 7], [8, -100, -100], [9, 10, -100], [11, 12, 13], [14, 15, 16]])
    found = losses(model, batch | {"labels": labels})
    for row in range(5):
        own = labels[row][labels[row] != -100][None]
        torch.testing.assert_close(found[row], alone(model, batch, own, row))


def test_classes():
    model, batch = tiny_model(), tiny_batches(6, 6)[0]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
    log_softmax = logits.log_softmax(dim=1)
    by_label = -log_softmax[torch.arange(6), batch["labels"]]
    for conditioning in ("label", "none"):
        torch.testing.assert_close(losses(model, batch, conditioning), by_label)
    torch.testing.assert_close(losses(model, batch, "prediction"), -log_softmax.max(dim=1).values)
    with pytest.raises(DataError, match=r"not classes from 0 to 2 of shape \(batch,\)"):
        losses(model, batch | {"labels": batch["labels"] + 3})
    with pytest.raises(DataError, match="not classes"):
        losses(model, batch | {"labels": batch["labels"].float()})


@pytest.mark.parametrize("conditioning", ["label", "prediction"])
def test_classes_need_logits_of_classes(conditioning):
    batch, _ = batch_and_token_labels()
    batch["labels"] = torch.tensor([0, 1, 0, 1, 1])
    with pytest.raises(UnsupportedModelError, match=r"logits of shape \(5, \d+, 100\); .*`conditioning=\"none\"`"):
        losses(causal(), batch, conditioning)


def test_a_model_without_a_head_needs_a_loss():
    model, (batch, _) = BertForPreTraining(BertConfig(**BERT)), batch_and_token_labels()
    with pytest.raises(
        UnsupportedModelError, match=r"BertForPreTraining gives no logits.*`loss=callable\(output, inputs, labels"
    ):
        losses(model, batch)
    found = losses(
        model, batch, loss=lambda output, inputs, labels: output.prediction_logits.square().mean(dim=(1, 2))
    )
    assert found.shape == (5,)


def test_a_model_without_a_head_gives_embeddings():
    # The gradient of a cosine to itself is 0: salience takes a direction that is drawn for each text.
    model, (batch, _) = BertModel(BertConfig(**BERT)), batch_and_token_labels()
    found = losses(model, batch)
    with torch.no_grad():
        states = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    lengths = ((states * mask).sum(dim=1) / mask.sum(dim=1)).norm(dim=1)
    assert found.shape == (5,) and (found.abs() <= lengths).all() and (found != 0).all()
    assert torch.equal(found, losses(model, batch))


def test_texts_and_images_of_one_model_are_the_classes_of_each_other():
    model, batch = zoo_model("clip"), zoo_inputs("clip", batch=3, seed=0)
    with torch.no_grad():
        logits = model.eval()(**batch).logits_per_image
    torch.testing.assert_close(losses(model, batch), -logits.log_softmax(dim=1).max(dim=1).values)


def test_no_cache_is_kept():
    assert call_options(GPT2LMHeadModel) == call_options(T5ForConditionalGeneration) == {"use_cache": False}
    assert call_options(torch.nn.Linear) == {}


def test_models_that_read_on_are_told_from_others():
    assert task_of(causal()) is TASKS["text-generation"]
    assert task_of(seq2seq()) is TASKS["text2text-generation"]
    assert task_of(BertForMaskedLM(BertConfig(**BERT))) is TASKS["fill-mask"]
