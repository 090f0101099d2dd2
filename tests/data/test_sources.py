import csv
import json
import logging

import pytest
from datasets import Dataset, DatasetDict, Image

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


@pytest.mark.parametrize("name", ["t[1]", "t*", "t?", "{t1,t2}", "t::1", "hf:t"])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "folder"])
def test_a_path_is_no_pattern(name, ending, tmp_path):
    def write(path, rows):
        if ending == "folder":
            Dataset.from_list(rows).save_to_disk(path)
        elif ending == "csv":
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, ["text", "label"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    if ending == "folder" and "::" in name:
        pytest.skip("`datasets` can't write such a folder either")
    for other in ("t1", "t2", "t"):
        write(tmp_path / f"{other}.{ending}", ROWS[:1])
    with pytest.raises(DataError, match="There is no file or folder"):
        load_examples(str(tmp_path / f"{name}.{ending}"))
    write(tmp_path / f"{name}.{ending}", ROWS[1:])
    assert load_examples(str(tmp_path / f"{name}.{ending}")).to_list() == ROWS[1:]


@pytest.mark.parametrize("source", ["json", "csv", "parquet", "text", "json:default", "glue:default"])
def test_files_of_the_current_folder_are_no_data_set_of_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").mkdir()
    for name in ("secret.json", "train.csv", "glue/train.csv"):
        (tmp_path / name).write_text("text,label\nmine,1\n" if name.endswith("csv") else json.dumps(ROWS))
    with pytest.raises(DataError, match="There is no file"):
        load_examples(source)


def test_a_temporary_folder_with_brackets(tmp_path, monkeypatch):
    (tmp_path / "t[1]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t[1]"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    assert load_examples(str(tmp_path / "rows.jsonl")).to_list() == ROWS[:1]


def test_relative_paths_and_messages_name_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a].jsonl").write_text(json.dumps(ROWS[0]))
    assert load_examples("[a].jsonl").to_list() == ROWS[:1]
    (tmp_path / "bad[1].jsonl").write_text('{"text": ')
    with pytest.raises(DataError, match=r"^bad\[1\].jsonl can't be read") as caught:
        load_examples("bad[1].jsonl")
    assert "/data.jsonl" not in str(caught.value)


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


def test_texts_a_line(tmp_path, caplog):
    path = tmp_path / "[a] x.txt"
    path.write_bytes('\ufeffone\r\n\n  \nna\u00efve, "x"\tNA\nlast'.encode())
    with caplog.at_level(logging.INFO, "cahp_plugin"):
        data = load_examples(str(path))
    assert data.to_list() == [{"text": "one"}, {"text": 'na\u00efve, "x"\tNA'}, {"text": "last"}]
    path.write_text("\n \n")
    with pytest.raises(DataError, match="is empty"):
        load_examples(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"can't be read: .*Unicode"):
        load_examples(str(path))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_paths_in_a_file_start_from_its_folder(ending, tmp_path, monkeypatch):
    names = [None, "a b/1.png", "../x.png", "/abs/\u00fc.png", "https://example.org/1.png"]
    data = Dataset.from_dict({"image": names, "label": [0, 1, 0, 1, 0]})
    getattr(data, {"jsonl": "to_json"}.get(ending, f"to_{ending}"))(tmp_path / f"rows.{ending}")
    monkeypatch.chdir(tmp_path)
    up = tmp_path.parent
    expected = [None, f"{tmp_path}/a b/1.png", f"{up}/x.png", "/abs/\u00fc.png", "https://example.org/1.png"]
    assert load_examples(f"rows.{ending}")["image"][:] == expected


@pytest.mark.parametrize("ending", ["parquet", "folder"])
def test_images_in_data_sets_are_not_decoded(ending, tmp_path):
    path = tmp_path / f"rows.{ending}"
    data = Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]}).cast_column("image", Image())
    data.to_parquet(path) if ending == "parquet" else data.save_to_disk(path)
    assert load_examples(str(path))[0]["image"] == {"bytes": b"no image", "path": None}


def test_missing_texts_stay_missing(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n,1\nnan,0\nx,1\n")
    assert load_examples(str(tmp_path / "a.csv"))["text"][:] == [None, None, "x"]
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": "x"}\n')
    assert load_examples(str(tmp_path / "a.jsonl"))["text"][:] == [None, "x"]
