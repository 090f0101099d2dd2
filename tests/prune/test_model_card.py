import copy
import re

import pytest
import torch
from commands import prune_arguments
from huggingface_hub import ModelCard
from tiny import model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner, save_pruned, select_heads
from cahp_plugin.cli import main
from cahp_plugin.prune import Stage
from cahp_plugin.tasks.metrics import Score

KEPT = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}


def pruned(kept=KEPT):
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def test_it_says_what_was_removed_and_how_to_load(tmp_path):
    card = ModelCard.load(save_pruned(pruned(), tmp_path / "my-model") / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["cahp", "pruning", "attention-head-pruning"],
    }
    dense, model = tiny_model(), pruned()
    for part in (
        "# my-model",
        "6 of its 12 attention heads",
        f"{model.num_parameters():,} parameters",
        f"of the {dense.num_parameters():,} that it had unpruned",
        "| 0 | 2 of 4 | 1, 3 |",
        "| 1 | 0 of 4 | none |",
        "| 2 | 4 of 4 | 0, 1, 2, 3 |",
        'load_pruned("my-model")',
        "arXiv:2606.19150",
        "not on record",
    ):
        assert part in card.text
    assert "Results" not in card.text and "AutoTokenizer" not in card.text


def test_selection_and_results(tmp_path):
    model = tiny_model()
    selection = select_heads(model, tiny_batches(), CAHPConfig(num_heads=6, seed=3))
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(selection)).step()
    stages = [Stage("dense", 12, 1000, 1.2, (Score.of_accuracy(0.5067),)),
              Stage("recovered", 6, 900, 1.3456, (Score.of_accuracy(0.4811),))]  # fmt: skip
    text = (save_pruned(model, tmp_path / "a", selection=selection, stages=stages) / "README.md").read_text()
    text = re.sub(" +", " ", text)
    for part in (
        selection.note,
        "on 30 training examples",
        "| `seed` | 3 |",
        "| `num_heads` | 6 |",
        "| dense | 12 | 1,000 | 100.0 % | 50.67 % | 1.200 |",
        "| recovered | 6 | 900 | 90.0 % | 48.11 % | 1.346 |",
    ):
        assert part in text


def test_results_of_any_metric_have_their_intervals_and_direction(tmp_path):
    score = Score("perplexity", 12.3, (11.9, 12.8), higher_is_better=False)
    text = (
        save_pruned(pruned(), tmp_path / "a", stages=[Stage("dense", 12, 9, None, (score,), 2210)]) / "README.md"
    ).read_text()
    assert "given; in brackets: 95 % intervals over its examples. Perplexity: lower is better.\n\n| model |" in text
    assert re.search(r"\| dense +\| +12 \| +9 \| +100.0 % \| 12.3 \[11.9, 12.8\] \| +2,210 \|", text)
    assert "accuracy" not in text and "nat" not in text.partition("## Results")[2].partition("## Use")[0]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("google/bert_uncased-L2", "google/bert_uncased-L2"),
        ("bert-base-cased", "bert-base-cased"),
        ("/home/someone/private/model", None),
        ("./model", None),
        ("../model", None),
        ("a/b/c", None),
        ("", None),
        ("tests", None),  # a folder here
    ],
)
def test_base_model(name, base, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    model = pruned()
    model.config._name_or_path = name
    card = ModelCard.load(save_pruned(model, tmp_path / "a") / "README.md")
    assert card.data.base_model == base
    assert not base or f"made from {base}," in card.text
    assert "someone" not in str(card)


def test_a_card_that_was_written_by_hand_stays(tmp_path):
    folder = save_pruned(pruned(), tmp_path / "a")
    save_pruned(pruned({0: (2,)}), folder, overwrite=True)
    text = (folder / "README.md").read_text()
    assert "| 0 | 1 of 4 | 2 |" in text  # a generated one is written again
    (folder / "README.md").write_text("# Mine\n")
    save_pruned(pruned(), folder, overwrite=True)
    assert (folder / "README.md").read_text() == "# Mine\n"


def test_none_on_request_and_for_an_unpruned_model(tmp_path):
    assert not (save_pruned(pruned(), tmp_path / "a", model_card=False) / "README.md").exists()
    assert not (save_pruned(tiny_model(), tmp_path / "b") / "README.md").exists()


def test_narrowed_layers_are_in_it_and_the_model_is_unchanged(tmp_path):
    model = pruned()
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense, layer.output.dense = torch.nn.Linear(32, 20), torch.nn.Linear(20, 32)
    before = copy.deepcopy(model.state_dict())
    text = (save_pruned(model, tmp_path / "a") / "README.md").read_text()
    assert "| `bert.encoder.layer.0.intermediate.dense` | 20 | 32 |" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_prune_writes_its_results_and_no_path(given, capsys):
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "1", "--no-figures")) == 0
    text = re.sub(" +", " ", (given / "pruned" / "README.md").read_text())
    assert all(f"| {stage} |" in text for stage in ("dense", "one-shot", "recovered"))
    assert 'AutoTokenizer.from_pretrained("pruned")' in text
    for path in (given / "pruned").rglob("*"):
        if path.suffix in (".json", ".md"):
            assert str(given) not in path.read_text(), path.name
