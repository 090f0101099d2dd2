import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from selecting import made_up, view_of, without_labels
from threadpoolctl import threadpool_limits
from tiny import ARCHITECTURES, tiny_batches, tiny_model
from transformers import BertConfig, BertForPreTraining, BertModel, BigBirdConfig, BigBirdForSequenceClassification

from cahp_plugin import CAHPConfig, HeadSelection, select_heads
from cahp_plugin.errors import ConfigError, DataError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import observe, prepare_batches
from cahp_plugin.selectors import make_selector
from cahp_plugin.selectors.cahp.representatives import select
from cahp_plugin.selectors.cahp.salience import normalize_salience
from cahp_plugin.selectors.complementary import FittedEvidence
from cahp_plugin.units import attention_layers


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_selection_says_everything(name):
    model = tiny_model(name)
    selection = select_heads(model, tiny_batches(), CAHPConfig(seed=3))
    assert sorted(selection.kept.heads) == [0, 1, 2]
    assert selection.num_heads == sum(len(heads) for heads in selection.kept.heads.values()) >= 3
    assert selection.heads == tuple((layer, head) for layer in range(3) for head in range(4))
    assert selection.salience.shape == (3, 4) and selection.salience.min() == 0 and selection.salience.max() == 1
    assert selection.coordinates.shape == (12, 2) and selection.clusters.shape == (12,)
    size = selection.config.signature_size
    assert selection.separation.shape == (12, 3 * size * size)
    assert list(selection.curve.k) == list(range(2, 12))
    assert selection.num_examples == 30
    assert f"keeps {selection.num_heads} of 12 heads" in str(selection)
    copy = HeadSelection.from_dict(selection.to_dict())
    assert copy.to_dict() == selection.to_dict() and copy.separation is None


def test_signature_size_is_the_percentile_of_the_token_lengths():
    batches = tiny_batches()
    lengths = torch.cat([batch["attention_mask"].sum(dim=1) for batch in batches]).numpy()
    for percentile in (50.0, 70.0):
        selection = select_heads(tiny_model(), batches, CAHPConfig(signature_percentile=percentile))
        assert selection.config.signature_size == round(np.percentile(lengths, percentile))
    assert select_heads(tiny_model(), batches, CAHPConfig(signature_size=5)).separation.shape == (12, 75)


def test_iterators_and_loaders_give_the_same():
    loader = torch.utils.data.DataLoader(tiny_batches(), batch_size=None)
    expected = select_heads(tiny_model(), tiny_batches()).to_dict()
    assert select_heads(tiny_model(), loader).to_dict() == expected
    assert select_heads(tiny_model(), iter(tiny_batches())).to_dict() == expected


def planted_model(seed):
    """Heads 1 and 3 of every layer are exact copies of heads 0 and 2: queries, keys, values and outputs."""
    model = tiny_model("bert", num_hidden_layers=6, seed=seed)
    for layer in attention_layers(model):
        for role in ("query", "key", "value"):
            linear = layer.block.get_submodule(getattr(layer.spec, role))
            linear.weight.data[8:16], linear.weight.data[24:32] = linear.weight.data[:8], linear.weight.data[16:24]
            linear.bias.data[8:16], linear.bias.data[24:32] = linear.bias.data[:8], linear.bias.data[16:24]
        weight = layer.output.weight.data
        weight[:, 8:16], weight[:, 24:32] = weight[:, :8], weight[:, 16:24]
    return model


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_copies_share_a_cluster_and_one_of_each_is_kept(seed):
    # Perplexity 10 would ask t-SNE for ten neighbours of 24 heads and blur the pairs.
    config = CAHPConfig(num_heads=12, perplexity=3, seed=seed)
    selection = select_heads(planted_model(seed), tiny_batches(60, lengths=(5, 20)), config)
    for row in range(0, 24, 2):
        assert selection.clusters[row] == selection.clusters[row + 1], selection
        assert np.abs(selection.separation[row] - selection.separation[row + 1]).max() < 1e-6
    for heads in selection.kept.heads.values():
        assert [len(set(heads) & pair) for pair in ({0, 1}, {2, 3})] == [1, 1], selection


def test_the_same_seed_gives_the_same_selection_on_any_thread_count():
    code = (
        "import json, torch; from tiny import *; from cahp_plugin import select_heads; "
        "s = select_heads(tiny_model('bert', num_hidden_layers=6), tiny_batches(40)); print(json.dumps(s.to_dict()))"
    )
    tests, threads = Path(__file__).parents[1], torch.get_num_threads()
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"PYTHONPATH": str(tests)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tests.parent
    )
    found = [json.loads(run.stdout.strip().splitlines()[-1])]
    for count in (1, 2):
        with threadpool_limits(count):
            torch.set_num_threads(count)
            selection = select_heads(tiny_model("bert", num_hidden_layers=6), tiny_batches(40))
        torch.set_num_threads(threads)
        found.append(json.loads(json.dumps(selection.to_dict())))
    # Gradients are matrix products in fp32: on some processors the BLAS adds them up in another order with another
    # number of threads, which shows in the last digits. What is selected, and all that it is selected from, is
    # the same to the last bit.
    fresh, single, double = (one.pop("salience") for one in found)
    assert found[0] == found[1] == found[2]
    np.testing.assert_allclose(single, double, atol=2e-6)
    assert fresh == double


def test_the_model_is_unchanged():
    model = tiny_model("distilbert").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    select_heads(model, tiny_batches())
    assert model.training and torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_salience_is_that_of_the_observation():
    model, batches = tiny_model(), tiny_batches()
    selection = select_heads(model, batches, CAHPConfig(salience_share=0.5))
    seen = observe(model, attention_layers(model), prepare_batches(batches, model), CAHPConfig(salience_share=0.5))
    np.testing.assert_allclose(selection.salience.flatten(), normalize_salience(seen.salience), atol=1e-9)


def test_unsupported_architectures_name_the_supported_ones():
    config = BigBirdConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, num_labels=3,
        attention_type="original_full",
    )  # fmt: skip
    with pytest.raises(
        UnsupportedModelError,
        match=r"It has BigBirdAttention, .*\. Supported architectures: albert, bart, bert, .*register_architecture",
    ):
        select_heads(BigBirdForSequenceClassification(config), tiny_batches())


def test_a_model_without_a_classification_head():
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, num_labels=3
    )
    with pytest.raises(UnsupportedModelError, match=r"no logits.*AutoModelForSequenceClassification"):
        select_heads(BertForPreTraining(config), tiny_batches())
    with pytest.raises(UnsupportedModelError, match=r"no logits.*AutoModelForSequenceClassification"):
        select_heads(BertModel(config), tiny_batches(), CAHPConfig(conditioning="label"))
    found = select_heads(BertModel(config), without_labels(tiny_batches()))  # an embedding
    assert found.config.conditioning == "none" and found.num_heads >= 1


def test_a_decoder_is_refused():
    with pytest.raises(UnsupportedModelError, match="encoders only"):
        select_heads(tiny_model("bert", is_decoder=True), tiny_batches())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 13}, "asks for 13 heads; the model has 12"),
        ({"num_heads": 2}, "asks for 2 heads, but `min_heads_per_layer=1` takes 3"),
        ({"num_heads": 0.1, "min_heads_per_layer": 1}, "asks for 1 heads, but .* takes 3"),
    ],
)
def test_head_counts_that_cannot_be_had_are_told_before_the_data_is_read(changes, message):
    def batches():
        raise AssertionError("the data was read")
        yield

    with pytest.raises(ConfigError, match=message):
        select_heads(tiny_model(), batches(), CAHPConfig(**changes))


def test_bad_data_is_told_before_the_model_runs():
    model = tiny_model()
    model.forward = None
    with pytest.raises(DataError, match="empty"):
        select_heads(model, [])


def test_heads_are_compared_without_classes():
    selection = select_heads(tiny_model(), without_labels(tiny_batches()), CAHPConfig(conditioning="none"))
    assert selection.distances.shape == (12, 12) and selection.separation is None
    assert 0 < selection.distances[0, 1] < np.sqrt(np.log(2)) and selection.num_examples == 30
    assert list(selection.curve.k) == list(range(2, 12)) and selection.config.signature_size is None
    assert f"keeps {selection.num_heads} of 12 heads" in str(selection)
    copy = HeadSelection.from_dict(selection.to_dict())
    assert copy.to_dict() == selection.to_dict() and copy.distances is None


def test_heads_are_compared_by_predicted_classes():
    selection = select_heads(tiny_model(), without_labels(tiny_batches()), CAHPConfig(conditioning="prediction"))
    size = selection.config.signature_size
    assert selection.separation.shape[0] == 12 and selection.separation.shape[1] % (size * size) == 0
    assert selection.distances is None


def test_planted_copies_share_a_cluster_without_classes():
    # A perplexity of 3 blurs the pairs, or not, by the processor's rounding; at 2 they stand apart for every seed.
    config = CAHPConfig(num_heads=12, perplexity=2, seed=1, conditioning="none", max_queries=5)
    selection = select_heads(planted_model(1), without_labels(tiny_batches(40, lengths=(5, 20))), config)
    apart = selection.distances + np.eye(24)
    for row in range(0, 24, 2):
        assert selection.clusters[row] == selection.clusters[row + 1], selection
        assert apart[row].argmin() == row + 1 and apart[row + 1].argmin() == row
        assert selection.distances[row, row + 1] < 5e-4
    for heads in selection.kept.heads.values():
        assert [len(set(heads) & pair) for pair in ({0, 1}, {2, 3})] == [1, 1], selection


def test_what_can_not_work_is_told_before_the_walk():
    class Once:
        """Batches that may be walked through once, for the check; of a later walk the model may see the first."""

        walked = False

        def __iter__(self):
            first, *others = without_labels(tiny_batches(16, 8))
            yield first
            assert not self.walked, "the walk began"
            yield from others
            self.walked = True

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, num_labels=3
    )
    for conditioning in ("prediction", "none"):
        with pytest.raises(UnsupportedModelError, match=r"(BertForPreTraining|The model) gives no logits"):
            select_heads(BertForPreTraining(config), Once(), CAHPConfig(conditioning=conditioning))
    with pytest.raises(DataError, match="no `labels`"):
        select_heads(tiny_model(), Once())


def test_a_model_without_a_head_by_a_loss_of_ones_own():
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=8, num_labels=3
    )

    def loss(output, inputs, labels):
        return output.last_hidden_state[:, 0].square().mean(dim=1)

    found = select_heads(
        BertModel(config), without_labels(tiny_batches()), CAHPConfig(conditioning="none", num_heads=4), loss=loss
    )
    assert found.num_heads == 4
    assert select_heads(BertModel(config), tiny_batches(), CAHPConfig(num_heads=4), loss=loss).num_heads == 4


def test_the_selector_chooses_as_select_heads_does():
    model, data = tiny_model(), tiny_batches()
    for seed, count in ((3, 0.25), (1, None)):
        expected = select_heads(model, data, CAHPConfig(seed=seed, num_heads=count)).to_dict()
        found = make_selector("cahp").fit(view_of(model, data), seed=seed)
        selected = found.select(count).to_dict()
        if count is not None:  # a share has become a count
            assert found.keep(count).heads == found.select(count).kept.heads
            assert selected["config"].pop("num_heads") == expected["num_heads"] and expected["config"].pop("num_heads")
        assert selected == expected
    by_view = make_selector("cahp").fit(view_of(model, data, seed=3))  # without a seed, the settings'
    assert by_view.select(6).to_dict() == make_selector("cahp").fit(view_of(model, data), seed=3).select(6).to_dict()


def test_medoids_in_place_of_the_most_salient():
    model, data = tiny_model(), tiny_batches()
    expected = select_heads(model, data, CAHPConfig(num_heads=5, representative="medoid"))
    view = view_of(model, data)
    assert make_selector("medoid").fit(view, seed=0).select(5).to_dict() == expected.to_dict()
    assert view.evidence.config.representative == "salience"  # the evidence that others use stays as it was


def test_a_number_that_can_not_be_had_is_told_by_the_fit_too():
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    rng = np.random.default_rng(0)
    found = FittedEvidence(made_up(heads, rng.random((3, 4)), separation=rng.random((12, 4))))
    assert found.keep(12).num_heads == 12 and found.select().to_dict() == select(found.evidence).to_dict()
    for asked, message in ((2, "`min_heads_per_layer=1` takes 3"), (13, "asks for 13"), (1.0, r"in \(0, 1\)")):
        with pytest.raises(SelectionError, match=message):
            found.keep(asked)
