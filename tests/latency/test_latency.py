import csv
import json

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, model_inputs, tiny_model

pytest.importorskip("onnxruntime")


from cahp_plugin import CAHPImportance, CAHPPruner, save_pruned
from cahp_plugin.errors import CheckpointError, ConfigError, ExportError
from cahp_plugin.export import export_pruned
from cahp_plugin.latency import LatencyReport, measure_latency
from cahp_plugin.latency.macs import work_of
from cahp_plugin.latency.measure import _interleaved
from cahp_plugin.latency.statistics import paired_ratio, percentiles
from cahp_plugin.latency.targets import check_device, find_targets
from cahp_plugin.report import save_latency

KEPT = {0: (1, 3), 1: (), 2: (0, 1, 2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dense and a pruned checkpoint, and the pruned one's graph, fp32 and int8."""
    root = tmp_path_factory.mktemp("targets")
    save_pruned(tiny_model(), root / "dense")
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(KEPT)).step()
    save_pruned(model, root / "pruned")
    export_pruned(model, root / "onnx")
    export_pruned(model, root / "int8", quantize="dynamic")
    return root


@pytest.fixture(scope="module")
def report(folders):
    """Measured within a downloaded folder, with modules in it that leave a file behind when they are imported."""
    for name in ("psutil", "torch", "numpy", "json", "onnxruntime", "sitecustomize", "cahp_plugin"):
        (folders / "dense" / f"{name}.py").write_text(f"open({str(folders / 'ran')!r}, 'a').write({name!r})\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders / "dense")
        return measure_latency(
            ["../dense", "../pruned", "../onnx", "../int8"],
            batch_sizes=[1, 2],
            sequence_lengths=[8, 16],
            rounds=6,
            warmup=1,
        )


def test_no_code_of_the_current_folder_runs(report, folders):
    assert all(entry.peak_mib > 0 for entry in report.measurements)
    assert not (folders / "ran").exists()


def bert_macs(kept, length, *, hidden=32, head_dim=8, inner=48, labels=3):
    """Closed form: projections and attention products of each head, feed-forward, pooler and classifier."""
    heads = sum(4 * length * hidden * head_dim + 2 * length**2 * head_dim for layer in kept.values() for _ in layer)
    return heads + len(kept) * 2 * length * hidden * inner + hidden * hidden + hidden * labels


@pytest.mark.parametrize("length", [1, 7, 24])
def test_work_is_the_closed_form(length):
    model = tiny_model()
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(KEPT)).step()
    model.config.architectures = ["BertForSequenceClassification"]
    work = work_of(model.config, [length], "pruned")
    assert work.num_heads == 5 and work.macs == {length: bert_macs(KEPT, length)}


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"deberta-v2"}))  # it projects positions as well
def test_fewer_heads_are_less_work(name):
    model = tiny_model(name)
    model.config.architectures = [type(model).__name__]
    dense = work_of(model.config, [16], name).macs[16]
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(KEPT)).step()
    pruned = work_of(model.config, [16], name).macs[16]
    assert dense - pruned == 7 * (4 * 16 * 32 * 8 + 2 * 16 * 16 * 8)


def test_every_target_at_every_shape(report):
    shapes = [(entry.batch_size, entry.sequence_length) for entry in report.measurements]
    assert shapes == [shape for shape in [(1, 8), (2, 8), (1, 16), (2, 16)] for _ in range(4)]
    assert [entry.target for entry in report.measurements[:4]] == ["dense", "pruned", "onnx", "int8"]
    assert [entry.backend for entry in report.measurements[:4]] == ["torch", "torch", "onnxruntime", "onnxruntime"]
    assert [entry.precision for entry in report.measurements[:4]] == ["fp32", "fp32", "fp32", "int8 dynamic"]
    assert [entry.num_heads for entry in report.measurements[:4]] == [12, 5, 5, 5]
    for entry in report.measurements:
        assert 0 < entry.p50_ms <= entry.p90_ms <= entry.p99_ms and entry.peak_mib > 0 and entry.mib > 0
        assert entry.ratio_low <= entry.ratio <= entry.ratio_high
        assert entry.throughput == pytest.approx(1000 * entry.batch_size / entry.p50_ms)
    dense = report.measurements[0]
    assert dense.ratio == dense.ratio_low == dense.ratio_high == dense.theory == 1
    theory = bert_macs(KEPT, 8) / bert_macs(dict.fromkeys(range(3), range(4)), 8)
    assert all(entry.theory == pytest.approx(theory) for entry in report.measurements[1:4])


def test_the_report_says_how_it_was_measured(report):
    assert report.settings["rounds"] == 6 and report.settings["threads"] == 1
    assert report.settings["memory_shape"] == [2, 16]  # the largest
    assert report.environment["provider"] == "CPUExecutionProvider" and "onnxruntime" in report.environment["versions"]
    text = str(report)
    for part in ("Fewer than 50 rounds", "1 thread(s)", "multiply-accumulates", "int8 dynamic", "Peak memory"):
        assert part in text
    assert LatencyReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_saved_files_agree(report, tmp_path):
    paths = save_latency(report, tmp_path / "latency")
    assert set(paths) == {"json", "csv", "md", "png"}
    assert LatencyReport.from_dict(json.loads(paths["json"].read_text())) == report
    with open(paths["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["p50_ms"]) for row in rows] == [entry.p50_ms for entry in report.measurements]
    assert paths["md"].read_text().startswith("| batch")
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    with pytest.raises(CheckpointError, match="is not empty"):
        save_latency(report, tmp_path / "latency")


def test_each_round_runs_every_call_once_in_a_changing_order():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]

    class Bar:
        def update(self):
            order.append("|")

    seconds = _interleaved(calls, 8, 2, np.random.default_rng(0), Bar())
    assert seconds.shape == (3, 8) and (seconds > 0).all()
    assert "".join(order[:6]) == "aabbcc"
    rounds = "".join(order[6:]).strip("|").split("|")
    assert len(rounds) == 8 and {"".join(sorted(turn)) for turn in rounds} == {"abc"} and len(set(rounds)) > 1


def test_paired_ratio_ignores_what_slows_both():
    generator = np.random.default_rng(0)
    reference = generator.uniform(1, 2, 200) * np.where(np.arange(200) < 100, 1, 5)
    ratio = paired_ratio(0.5 * reference * generator.normal(1, 0.01, 200), reference)
    assert ratio["ratio"] == pytest.approx(0.5, rel=0.01)
    assert 0.49 < ratio["ratio_low"] < ratio["ratio"] < ratio["ratio_high"] < 0.51
    assert paired_ratio(reference, reference) == paired_ratio(2 * reference, 2 * reference)


def test_paired_ratio_interval_is_the_bootstrap_of_the_median():
    generator = np.random.default_rng(1)
    ratios = generator.lognormal(0, 0.3, 60)
    draws = np.median(ratios[generator.integers(0, 60, (20000, 60))], axis=1)
    found = paired_ratio(ratios, np.ones(60))
    assert found["ratio_low"] == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
    assert found["ratio_high"] == pytest.approx(np.quantile(draws, 0.975), abs=0.02)


def test_percentiles_are_in_milliseconds():
    assert percentiles(np.arange(101) / 1000) == pytest.approx(
        {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "iqr_ms": 50}
    )


def test_torch_threads_are_put_back(folders):
    before = torch.get_num_threads()
    measure_latency([folders / "pruned"], sequence_lengths=[4], rounds=2, warmup=0, threads=2, memory=False)
    assert torch.get_num_threads() == before


def test_targets_of_the_same_name_are_told_apart(folders, tmp_path):
    names = [target.name for target in find_targets([folders / "onnx", folders / "int8", folders / "onnx"])]
    assert len(set(names)) == 3 and names[1] == "int8"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequence_lengths": [8, 41]}, "takes 40 tokens at most; `sequence_lengths` holds 41"),
        ({"batch_sizes": [0]}, "`batch_sizes` must be whole numbers of at least 1"),
        ({"sequence_lengths": []}, "`sequence_lengths`"),
        ({"rounds": 1}, "`rounds`"),
        ({"threads": 0}, "`threads`"),
        ({"warmup": -1}, "`warmup`"),
        ({"device": "tpu"}, "`device` must be cpu or cuda"),
    ],
)
def test_bad_settings(folders, settings, message):
    with pytest.raises(ConfigError, match=message):
        measure_latency([folders / "onnx"], **settings)


def test_bad_targets(folders, tmp_path):
    with pytest.raises(ConfigError, match="at least one folder"):
        measure_latency([])
    with pytest.raises(ConfigError, match="must be a list"):
        measure_latency(str(folders / "onnx"))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        measure_latency([tmp_path / "nothing"])
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExportError, match="holds 2 graphs"):
        measure_latency([tmp_path])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("name", ["pruned", "onnx"])
def test_cuda_is_refused_where_there_is_none(folders, name):
    with pytest.raises(ConfigError, match="`device` is cuda, but"):
        measure_latency([folders / name], device="cuda")


def test_dynamic_int8_is_refused_on_cuda(folders, monkeypatch):
    import onnxruntime

    # A machine with CUDA, as far as this check can see.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ConfigError, match=r"int8: dynamic int8 has no CUDA kernels .* `--quantize fp16`"):
        check_device(find_targets([folders / "int8"]), "cuda")
