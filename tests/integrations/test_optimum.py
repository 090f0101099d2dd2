import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from words import tiny_tokenizer, word_examples

pytest.importorskip("onnxruntime")

from optimum.cahp import Budget, CAHPConfig, HeadPruner, Pruner, export_pruned, measure_latency

from cahp_plugin import load_pruned
from cahp_plugin.config import PlanSettings
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.units import kept_set

ROOT = Path(__file__).parents[2]
ONE_SHOT = RecoverySettings(epochs=0)


def examples(count=60):
    return Dataset.from_list(word_examples(count))


def test_prune_export_and_measure(given):
    pruner = HeadPruner.from_pretrained(given / "model")
    settings = CAHPConfig(num_heads=6, min_heads_per_layer=0)
    pruned = pruner.prune(
        settings, save_dir=given / "pruned", dataset=str(given / "train.jsonl"),
        eval_dataset=str(given / "eval.jsonl"), recovery=ONE_SHOT, figures=False,
    )  # fmt: skip
    assert pruner.report.selection.num_heads == 6
    inputs = tiny_tokenizer()(["w1 w2", "w3"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(pruned(**inputs).logits, load_pruned(given / "pruned")(**inputs).logits)
    export_pruned(given / "pruned", given / "onnx", quantize="dynamic")
    report = measure_latency(
        [given / "model", given / "pruned", given / "onnx"],
        batch_sizes=[1],
        sequence_lengths=[16],
        rounds=2,
        warmup=0,
        memory=False,
    )
    assert [entry.num_heads for entry in report.measurements] == [12, 6, 6]


def test_prune_under_a_budget(given):
    pruner = Pruner.from_pretrained(given / "model")
    pruned = pruner.prune(
        Budget(macs=0.6, multiple_of=1), save_dir=given / "pruned", dataset=str(given / "train.jsonl"),
        eval_dataset=str(given / "eval.jsonl"), planning=PlanSettings(refine=0), figures=False,
        recovery=RecoverySettings("least-squares", calibration_examples=40, batch_size=4),
    )  # fmt: skip
    assert pruner.report.plan.macs.layers <= 0.6
    assert pruned.num_parameters() == load_pruned(given / "pruned").num_parameters()
    with pytest.raises(ConfigError, match="must be a Budget"):
        pruner.prune(0.6, save_dir=given / "other", dataset=str(given / "train.jsonl"))


@pytest.mark.parametrize(
    ("splits", "evaluated"),
    [({"train": 60, "validation": 12}, 12), ({"train": 60, "test": 9, "validation": 12}, 12), ({"train": 60}, 6)],
)
def test_evaluation_examples_are_found_or_held_out(given, splits, evaluated, monkeypatch):
    import optimum.cahp.pruner as module

    seen = {}
    real = module.prune_model

    def watched(model, tokenizer, train, evaluation, *args, **kwargs):
        seen.update(train=len(train), evaluation=evaluation and len(evaluation))
        return real(model, tokenizer, train, evaluation, *args, **kwargs)

    monkeypatch.setattr(module, "prune_model", watched)
    dataset = DatasetDict({name: examples(count) for name, count in splits.items()})
    given_data = dataset if len(splits) > 1 else dataset["train"]
    pruner = HeadPruner.from_pretrained(given / "model")
    pruner.prune(
        CAHPConfig(num_heads=6), save_dir=given / "pruned", dataset=given_data, recovery=ONE_SHOT, figures=False
    )
    # `prune_model` itself holds a tenth out where there is nothing to evaluate on.
    assert seen == {"train": 60, "evaluation": evaluated if len(splits) > 1 else None}
    assert pruner.report.stages[0].num_examples == evaluated


def mean_length(predictions, references):
    return sum(map(len, predictions)) / len(predictions)


def test_other_tasks_and_numbers(given):
    """A model of language, on texts without labels, with a number of the caller's choice."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3)
    GPT2LMHeadModel(config).save_pretrained(given / "lm")
    tiny_tokenizer().save_pretrained(given / "lm")
    pruner = HeadPruner.from_pretrained(given / "lm", task="text-generation")
    texts = [row["text"] for row in word_examples(40)]
    pruner.prune(
        CAHPConfig(num_heads=4), save_dir=given / "pruned", dataset=texts, metric=f"{__name__}:mean_length",
        recovery=ONE_SHOT, figures=False,
    )  # fmt: skip
    assert pruner.report.selection.config.conditioning == "none" and pruner.report.selection.num_heads == 4
    dense = pruner.report.stages[0]
    assert [score.name for score in dense.scores] == ["mean_length", "perplexity"] and dense.num_examples == 4
    with pytest.raises(ConfigError, match="`metric` is 'accuracy'; text-generation has perplexity, or one"):
        pruner.prune(save_dir=given / "other", dataset=texts, metric="accuracy")
    with pytest.raises(UnsupportedModelError, match="has no head for text-classification"):
        HeadPruner.from_pretrained(given / "lm", task="text-classification")


def test_a_data_set_without_training_examples(given):
    with pytest.raises(DataError, match="has no split `train`; it has test"):
        HeadPruner.from_pretrained(given / "model").prune(
            save_dir=given / "pruned", dataset=DatasetDict({"test": examples()})
        )


def exported(given, **settings):
    pruner = HeadPruner.from_pretrained(given / "model")
    model = pruner.prune(
        CAHPConfig(num_heads=6), save_dir=given / "pruned", dataset=examples(), recovery=ONE_SHOT, figures=False
    )
    export_pruned(given / "pruned", given / "onnx", **settings)
    return model


@pytest.mark.parametrize("quantize", [None, "dynamic"])
def test_optimum_loads_what_was_exported(given, quantize):
    ort = pytest.importorskip("optimum.onnxruntime")
    from transformers import AutoTokenizer, pipeline

    model = exported(given, quantize=quantize)
    loaded = ort.ORTModelForSequenceClassification.from_pretrained(given / "onnx")
    tokenizer = AutoTokenizer.from_pretrained(given / "onnx")
    sentences = [row["text"] for row in word_examples(12)]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
    found = loaded(**inputs).logits
    # The default preset has weights of 7 bits, right on every processor.
    assert (found - expected).abs().max() < (1e-5 if quantize is None else 0.6)
    assert kept_set(loaded.config).heads == kept_set(model.config).heads and kept_set(model.config).heads
    classify = pipeline("text-classification", model=loaded, tokenizer=tokenizer)
    labels = [entry["label"] for entry in classify(sentences)]
    assert labels == [model.config.id2label[int(index)] for index in found.argmax(-1)]


def test_optimums_quantizer_takes_what_was_exported(given):
    ort = pytest.importorskip("optimum.onnxruntime")

    exported(given)
    quantizer = ort.ORTQuantizer.from_pretrained(given / "onnx")
    settings = ort.configuration.AutoQuantizationConfig.avx2(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=given / "int8", quantization_config=settings)
    loaded = ort.ORTModelForSequenceClassification.from_pretrained(given / "int8")
    assert kept_set(loaded.config).heads


def optimum_cli(*arguments, python=sys.executable, **settings):
    return subprocess.run(
        [str(python), "-m", "optimum.commands.optimum_cli", *map(str, arguments)],
        capture_output=True, text=True, **settings,
    )  # fmt: skip


def test_optimum_cli_prunes_exports_and_measures(given, monkeypatch, capsys):
    cli = pytest.importorskip("optimum.commands.optimum_cli")

    def again(*arguments):
        """The same front end without another start of the interpreter."""
        monkeypatch.setattr(sys, "argv", ["optimum-cli", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    data = ["--train", given / "train.jsonl", "--eval", given / "eval.jsonl"]
    prune = ["cahp", "prune", "-m", given / "model", *data, "-o", given / "pruned", "--epochs", "0", "--quiet"]
    run = optimum_cli(*prune)
    assert run.returncode == 0 and "one-shot" in run.stdout, run.stderr
    with pytest.raises(SystemExit) as left:
        again(*prune)
    assert left.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("optimum-cli cahp prune: ")
    export = ["cahp", "export", "-m", given / "pruned", "-o", given / "onnx", "--quantize", "dynamic"]
    assert "Quantized (dynamic" in again(*export)
    plan = ["-m", given / "model", *data[:2], "-o", given / "plan", "--calibration-examples", "16", "--quiet"]
    assert "Predicted loss" in again("cahp", "plan", *plan) and (given / "plan" / "cahp_plan.json").exists()
    measure = ["--sequence-length", "8", "--rounds", "2", "--warmup", "0", "--no-memory"]
    assert "int8 dynamic" in again("cahp", "benchmark", given / "model", given / "onnx", *measure)


def source_copy(folder):
    shutil.copytree(
        ROOT, folder, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "examples")
    )
    return folder


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_a_fresh_environment_has_it_beside_optimums_own(editable, tmp_path):
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or later in this environment")
    source = source_copy(tmp_path / "source")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # This environment's dependencies, without its own copy of this package (a path alone starts no editable finder).
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "--quiet"]
    what = ["-e", str(source)] if editable else [str(source)]
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run = subprocess.run([*pip, *install, *what], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    code = "import cahp_plugin, optimum.cahp, optimum.cahp.pruner as p; print(cahp_plugin.__file__, p.__file__)"
    run = subprocess.run([python, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    home = source if editable else environment
    assert all(Path(path).is_relative_to(home) for path in run.stdout.split())
    assert (Path(run.stdout.split()[0]).parent / "prune" / "model_card_template.md").is_file()
    if shutil.which("optimum-cli", path=str(Path(sys.executable).parent)) is None:
        return  # no Optimum here: the namespace alone is what there is to see
    run = optimum_cli("--help", python=python, cwd=tmp_path)
    for command in ("export", "env", "onnxruntime", "cahp"):
        assert f"\n    {command} " in run.stdout
    assert optimum_cli("export", "onnx", "--help", python=python, cwd=tmp_path).returncode == 0
    run = optimum_cli("cahp", "benchmark", "--help", python=python, cwd=tmp_path)
    assert "--sequence-length" in run.stdout
