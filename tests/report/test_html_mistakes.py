"""What the page can't be made from: it is told, and nothing is written."""

import json
import re

import pytest
from pages import check_whole, copy_examples, head_map_entry, report, selection, write_runs, write_selection

from cahp_plugin.errors import CheckpointError
from cahp_plugin.report import Contents, read_folder


def test_mistakes_are_told_and_nothing_is_written(tmp_path, capsys):
    output = tmp_path / "page.html"

    def message(*folders, more=()):
        assert report(folders, output, *more) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("cahp report: ") and captured.out == "" and not output.is_file()
        return captured.err

    (tmp_path / "empty").mkdir()
    found = message(tmp_path / "empty")
    for name in (
        "config.json",
        "selection.json",
        "cahp_report.json",
        "runs.jsonl",
        "latency.json",
        "cahp_export.json",
    ):
        assert name in found
    assert "There is no folder" in message(tmp_path / "nowhere")
    for name in ("selection.json", "cahp_report.json", "config.json", "latency.json", "cahp_export.json",
                 "cahp_deploy.json", "setup.json"):  # fmt: skip
        for place, text in enumerate(
            ('{"cahp_config": {"format"', "[1]", "\xff\xfe", '{"cahp_config": 3, "kept": 4}')
        ):
            folder = tmp_path / f"{name}-{place}"
            folder.mkdir()
            (folder / name).write_text(text, encoding="latin-1")
            if name == "setup.json":
                if place == 3:
                    continue
                write_runs(folder / "runs", ["cahp"])
                (folder / "runs" / "runs.jsonl").rename(folder / "runs.jsonl")
            assert str(folder / name) in message(folder)
    write_runs(tmp_path / "runs", ["cahp"])
    lines = (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()
    for damage in (lines[2][:50], lines[2].replace('"num_examples": 200', '"num_examples": 9999'), '{"method": "x"}'):
        (tmp_path / "runs" / "runs.jsonl").write_text("\n".join([*lines[:2], damage, *lines[3:], ""]))
        assert f"{tmp_path / 'runs' / 'runs.jsonl'}, line 3" in message(tmp_path / "runs")
    # Two models' files in one folder.
    write_selection(tmp_path / "mixed", selection())
    entry = head_map_entry({0: (0,)}, 6, version="0")
    (tmp_path / "mixed" / "config.json").write_text(json.dumps({"cahp_config": entry}))
    assert "not of one model" in message(tmp_path / "mixed")
    output.mkdir()
    assert "is a folder" in message(write_selection(tmp_path / "good", selection()))


def test_a_file_that_is_there_is_only_replaced_when_asked(tmp_path, capsys):
    folder, output = write_selection(tmp_path / "good", selection()), tmp_path / "page.html"
    output.write_text("mine")
    assert report([folder], output) == 1 and "--overwrite" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert report([folder], output, "--overwrite") == 0
    assert capsys.readouterr().out.strip() == str(output)
    check_whole(output)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.html"]


def test_a_folder_with_nothing_is_told(tmp_path):
    assert not Contents("x")
    with pytest.raises(CheckpointError, match="nothing to report"):
        read_folder(tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        read_folder(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("latency.json", ("measurements", 0, "p50_ms"), "fast"),
        ("latency.json", ("measurements", 0, "p50_ms"), float("nan")),
        ("latency.json", ("measurements",), []),
        ("latency.json", ("settings",), None),
        ("cahp_deploy.json", ("pruning", "kept"), {"0": [-1]}),
        ("cahp_deploy.json", ("pruning", "kept"), {"100000000": [0]}),
        ("cahp_deploy.json", ("pruning", "stages", 0, "accuracy"), None),
        ("cahp_deploy.json", ("pruning", "recovery"), {"method": "prayer"}),
        ("cahp_deploy.json", ("exports", "dense", "parity"), 3),
        ("cahp_deploy.json", ("exports", "dense", "fp32"), {"accuracy": 1}),
        ("setup.json", ("config",), {"polynomial_degree": 99}),
        ("setup.json", ("recovery",), {"epochs": "many"}),
        ("structure.json", ("knee",), {"rows": 3}),
    ],
)
def test_a_value_that_is_none_of_its_kind_is_told_with_its_file(name, place, value, tmp_path):
    copy_examples(tmp_path)
    write_runs(tmp_path / "runs", ["cahp"])
    (tmp_path / "runs" / "structure.json").write_text('{"knee": null}')
    folder = next(path.parent for path in sorted(tmp_path.glob(f"*/{name}")))
    values = json.loads((folder / name).read_text())
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=re.escape(str(folder / name))):
        read_folder(folder)
