import json

import pytest
from datasets import Dataset, DatasetDict

from cahp_plugin.data import load_examples
from cahp_plugin.errors import DataError

ROWS = [{"text": 'a "b", c\td', "label": 1}, {"text": "na\u00efve \u2013 text", "label": 0}]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_files_of_every_kind(ending, tmp_path):
    path = tmp_path / f"rows.{ending}"
    dataset = Dataset.from_list(ROWS)
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending == "parquet":
        dataset.to_parquet(path)
    else:
        dataset.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    assert load_examples(str(path)).to_list() == ROWS


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "rows.jsonl"
    for row in ROWS:
        path.write_text(json.dumps(row) + "\n")
        assert load_examples(str(path)).to_list() == [row]


def test_saved_data_sets_and_their_splits(tmp_path):
    dataset = Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    assert load_examples(str(tmp_path / "one")).to_list() == ROWS
    DatasetDict(train=dataset, test=dataset.select([1])).save_to_disk(tmp_path / "two")
    assert load_examples(str(tmp_path / "two"), "test").to_list() == ROWS[1:]
    for split, message in ((None, "none was named"), ("dev", "'dev' is not one of them")):
        with pytest.raises(DataError, match=f"splits train, test; {message}"):
            load_examples(str(tmp_path / "two"), split)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "There is no file or folder"),
        ("empty.jsonl", "", "is empty"),
        ("header.csv", "text,label\n", "is empty"),
        ("broken.jsonl", '{"text": ', "can't be read"),
        ("rows.xlsx", "x", r"ends with '.xlsx'; expected one of .csv, .json, .jsonl"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_examples(str(tmp_path / name))


def test_folders_without_a_data_set(tmp_path):
    with pytest.raises(DataError, match="not a data set saved by"):
        load_examples(str(tmp_path))


def test_hub_ids_without_a_network():
    with pytest.raises(DataError, match="no-such-owner/no-such-set can't be read"):
        load_examples("no-such-owner/no-such-set")


def test_splits_of_a_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(DataError, match="has no splits"):
        load_examples(str(tmp_path / "rows.jsonl"), "validation")
