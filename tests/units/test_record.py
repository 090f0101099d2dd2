import copy
import json
import random

import pytest
import torch
import transformers
from zoo import outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet, load_pruned, save_pruned
from cahp_plugin.errors import CheckpointError
from cahp_plugin.units import kept_set, neuron_entries
from cahp_plugin.units.record import NeuronEntry, make_record

KEPT = KeptSet(heads={0: (1, 3), 1: ()}, neurons={0: (0, 1, 2, 40), 2: ()})


def pruned(name="bert", kept=KEPT):
    model = zoo_model(name)
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(kept)).step()
    return model


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_the_record_in_config_json(tmp_path):
    model = pruned()
    before = copy.deepcopy(model.config.cahp_config)
    record = config_of(save_pruned(model, tmp_path / "a"))["cahp_config"]
    assert model.config.cahp_config == before
    assert set(record) == {"format", "version", "layers", "feed_forward"} and record["format"] == 3
    assert record["layers"]["1"] == {"num_heads": 4, "head_dim": 8, "group_size": 1, "kept": []}
    assert record["feed_forward"] == {
        "0": {"num_neurons": 48, "kept": "0-2,40"},
        "1": {"num_neurons": 48, "kept": "0-47"},
        "2": {"num_neurons": 48, "kept": ""},
    }


def test_heads_alone_leave_no_word_of_neurons(tmp_path):
    record = config_of(save_pruned(pruned(kept=KeptSet(heads={0: (1,)})), tmp_path / "a"))["cahp_config"]
    assert set(record) == {"format", "version", "layers"}


def test_neurons_keep_their_original_indices_when_pruned_again(tmp_path):
    model = load_pruned(save_pruned(pruned(), tmp_path / "a"), attn_implementation="eager")
    assert kept_set(model.config).neurons == {0: (0, 1, 2, 40), 1: tuple(range(48)), 2: ()}
    weight = model.bert.encoder.layer[0].intermediate.dense.weight[[1, 3]].clone()
    CAHPPruner(model, zoo_inputs("bert"), importance=CAHPImportance(KeptSet(neurons={0: (1, 40)}))).step()
    assert torch.equal(model.bert.encoder.layer[0].intermediate.dense.weight, weight)
    again = load_pruned(save_pruned(model, tmp_path / "b"), attn_implementation="eager")
    assert neuron_entries(again.config)[0] == NeuronEntry(48, (1, 40))
    inputs = zoo_inputs("bert")
    assert torch.equal(outputs(again, inputs), outputs(model, inputs))


def test_a_checkpoint_of_the_format_before_loads(tmp_path):
    model = pruned(kept=KeptSet(heads={0: (1, 3), 1: ()}))
    folder = save_pruned(model, tmp_path / "a")
    values = config_of(folder)
    values["cahp_config"]["format"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    loaded, inputs = load_pruned(folder, attn_implementation="eager"), zoo_inputs("bert")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))
    CAHPPruner(loaded, inputs, importance=CAHPImportance(KeptSet(neurons={1: (5,)}))).step()
    assert loaded.config.cahp_config["format"] == 3
    again = load_pruned(save_pruned(loaded, tmp_path / "b"), attn_implementation="eager")
    assert kept_set(again.config) == kept_set(loaded.config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 4, "version": "9.9"}, r"has format 4; .* reads the formats 2 to 3\. .*'9\.9'"),
        (
            {"feed_forward": {"0": {"num_neurons": 48, "kept": "0-48"}}},
            "damaged.*0-48 is not ascending below 48",
        ),
        (
            {"feed_forward": {"0": {"num_neurons": 10**12, "kept": "0-999999999"}}},
            "more than 16777216 neurons",
        ),
        ({"feed_forward": {"0": {"num_neurons": 48}}}, "damaged.*kept"),
        (
            {"feed_forward": {"0": {"num_neurons": 96, "kept": "0-3,90"}}},
            r"5 of 96 neurons.* layer 0; unpruned .* 48",
        ),
        ({"feed_forward": {"7": {"num_neurons": 48, "kept": "0-3"}}}, r"feed-forward layers \[7\]; .* 3 "),
        ({"feed_forward": [1]}, "damaged"),
        ({"feed_forward": {"0": {"num_neurons": float("inf"), "kept": "0"}}}, "damaged"),
        ({"feed_forward": {"-1": {"num_neurons": 48, "kept": "0"}}}, "damaged"),
        ({"layers": {"0": {"num_heads": 4, "head_dim": 16, "group_size": 1, "kept": [1]}}}, "4 heads of 16|layers"),
        ({"layers": {"0": {"num_heads": 4, "head_dim": 8, "group_size": 0, "kept": [1]}}}, "damaged"),
    ],
)
def test_records_that_are_newer_damaged_or_of_another_model(change, message, tmp_path):
    folder = save_pruned(pruned(), tmp_path / "a")
    values = config_of(folder)
    values["cahp_config"] |= change
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_pruned(folder)


def test_the_record_of_smollm2_stays_under_100_kb():
    """30 layers of 1,536 neurons, half of them gone at random: hardly two neighbours stay together."""
    draw = random.Random(0)
    neurons = {layer: NeuronEntry(1536, tuple(sorted(draw.sample(range(1536), 768)))) for layer in range(30)}
    assert len(json.dumps(make_record(None, {}, neurons))) < 100_000


def test_a_model_that_was_changed_with_its_config_is_saved(tmp_path):
    """The shape that the model had when it was loaded is not that of its config any more."""
    model = load_pruned(save_pruned(pruned(), tmp_path / "a"), attn_implementation="eager")
    model.resize_token_embeddings(120)
    model.classifier, model.num_labels = torch.nn.Linear(32, 7), 7
    model.config.num_labels = 7
    loaded = load_pruned(save_pruned(model, tmp_path / "b"), attn_implementation="eager")
    inputs = zoo_inputs("bert")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs)) and loaded.config.vocab_size == 120


def test_saving_builds_no_model(tmp_path, monkeypatch):
    from transformers import BertModel

    model = pruned()
    built = []
    init = BertModel.__init__
    monkeypatch.setattr(BertModel, "__init__", lambda self, *args, **kw: built.append(1) or init(self, *args, **kw))
    folder = save_pruned(model, tmp_path / "a")
    assert not built
    dense = zoo_model("bert").num_parameters()
    assert f"of the {dense:,} that it had unpruned" in (folder / "README.md").read_text()
    loaded = load_pruned(folder)
    assert len(built) == 2  # one here, one by load_pruned
    save_pruned(loaded, tmp_path / "b")
    assert len(built) == 2


@pytest.mark.parametrize("name", ["gpt2", "bart", "t5-gated", "falcon", "gemma2", "bert"])
def test_the_card_counts_the_unpruned_model_after_loading_too(name, tmp_path):
    """Tied weights count once, though they are not tied yet while a model is built."""
    dense = sum(parameter.numel() for parameter in zoo_model(name).parameters())
    model = zoo_model(name)
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance({0: ()})).step()
    loaded = load_pruned(save_pruned(model, tmp_path / "a"))
    for folder in (tmp_path / "a", save_pruned(loaded, tmp_path / "b")):
        assert f"of the {dense:,} that it had unpruned" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kept", [{3: (), 5: (0, 1)}, {3: (), 5: ()}, {3: (0,), 5: (1,)}])
def test_cross_attention_without_heads_loads(kept, tmp_path):
    model, inputs = zoo_model("t5"), zoo_inputs("t5")
    CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()
    loaded = load_pruned(save_pruned(model, tmp_path / "a"), attn_implementation="eager")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))


def test_unpruned_models_of_any_kind_are_plain_checkpoints(tmp_path):
    config = transformers.XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)
    model = transformers.XLNetModel(config)
    loaded = load_pruned(save_pruned(model, tmp_path / "a"))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_config_that_two_models_share_is_told(tmp_path):
    first = zoo_model("bert")
    second = type(first)(first.config).eval()
    for model, kept in ((first, range(10)), (second, range(20, 40))):
        if model is first:
            CAHPPruner(model, zoo_inputs("bert"), importance=CAHPImportance(KeptSet(neurons={0: kept}))).step()
    with pytest.raises(CheckpointError, match=r"10 neurons, and it has 48: the config is another model's"):
        save_pruned(second, tmp_path / "b")


def test_layers_that_another_pruner_narrowed_are_not_on_record(tmp_path):
    import torch_pruning as tp

    model = zoo_model("bert")
    layer = model.bert.encoder.layer[1]
    tp.prune_linear_out_channels(layer.intermediate.dense, list(range(16, 48)))
    tp.prune_linear_in_channels(layer.output.dense, list(range(16, 48)))
    CAHPPruner(model, zoo_inputs("bert"), importance=CAHPImportance(KeptSet(neurons={0: range(24)}))).step()
    folder = save_pruned(model, tmp_path / "a")
    assert set(config_of(folder)["cahp_config"]["feed_forward"]) == {"0", "2"}
    card = (folder / "README.md").read_text()
    assert "88 of its 144 feed-forward neurons" in card and "`bert.encoder.layer.1.output.dense` | 32 | 16" in card
    loaded, inputs = load_pruned(folder, attn_implementation="eager"), zoo_inputs("bert")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))
    CAHPPruner(loaded, inputs, importance=CAHPImportance(KeptSet(neurons={1: (3, 4)}, heads={1: ()}))).step()
    again = load_pruned(save_pruned(loaded, tmp_path / "b"), attn_implementation="eager")
    assert torch.equal(outputs(again, inputs), outputs(loaded, inputs))
    assert set(kept_set(again.config).neurons) == {0, 2}
