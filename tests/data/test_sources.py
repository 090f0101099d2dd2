import csv
import gc
import json
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pytest
import soundfile
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from made import MADE, causal_tokenizer
from PIL import Image

from cahp_plugin.data import as_dataset, load_examples
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import encode
from cahp_plugin.workflow.prune import training_and_evaluation

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


# Texts, lists and streams.


def test_a_text_a_line(tmp_path):
    (tmp_path / "texts.txt").write_text('one, two\n\n  \n\u00e4 "quoted"\tline\r\nlast', encoding="utf-8")
    found = load_examples(str(tmp_path / "texts.txt"))
    assert found["text"][:] == ["one, two", '\u00e4 "quoted"\tline', "last"]
    (tmp_path / "blank.txt").write_text("\n \n\n")
    with pytest.raises(DataError, match=r"blank.txt is empty"):
        load_examples(str(tmp_path / "blank.txt"))


def test_lists_of_texts_and_of_rows(tmp_path):
    assert as_dataset(["a", "b"]).to_list() == as_dataset(({"text": "a"}, {"text": "b"})).to_list()
    assert as_dataset(ROWS).to_list() == ROWS
    mixed = as_dataset([{"text": "a"}, {"text": "b", "score": 0.5}, {"text": "c", "score": 1}])
    assert mixed["score"][:] == [None, 0.5, 1.0]  # the first row lacks it
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    assert as_dataset(tmp_path / "rows.jsonl").to_list() == ROWS[:1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "The data set is empty"),
        (iter([]), "The data set is empty"),
        (Dataset.from_list(ROWS).select([]), "The data set is empty"),
        (["a", {"text": "b"}], "must hold texts, or rows as dicts"),
        ([1, 2], "must hold texts, or rows as dicts"),
        (3, "Got a int as data; expected a `datasets.Dataset`"),
        (DatasetDict(train=Dataset.from_list(ROWS)), "has the splits train: hand over one of them"),
        ([{"label": 1}, {"label": "x"}], "The rows do not go together"),
        (iter([{"text": "a"}, 3]), "Row 1 of the stream is a int; expected a dict or a text"),
        (
            iter([{"text": "a"}, {"text": "a", "label": 1}]),
            "Row 1 of the stream has the columns text, label; those bef",
        ),
        (
            ({"label": i if i < 1400 else "x"} for i in range(1500)),
            "Among the last 1000 rows up to 1499 of the stream",
        ),
    ],
)
def test_what_is_no_data(data, message):
    with pytest.raises(DataError) as caught:
        as_dataset(data)
    assert message in str(caught.value)


def test_an_error_of_the_stream_is_its_own():
    with pytest.raises(ZeroDivisionError):
        as_dataset({"text": 1 / number} for number in (2, 1, 0))


def rows_of(count):
    for index in range(count):
        yield {"text": f"w{index % 60} w1", "label": index % 3}


@pytest.mark.parametrize("kind", ["generator", "stream", "stream with features"])
def test_streams(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stream = rows_of(1500)
    if kind != "generator":
        features = Features({"text": Value("string"), "label": Value("int8")}) if "with" in kind else None
        stream = IterableDataset.from_generator(rows_of, gen_kwargs={"count": 1500}, features=features)
    found = as_dataset(stream)
    (folder,) = tmp_path.glob("cahp-stream-*")
    assert found.to_list() == list(rows_of(1500))
    assert found.features["label"].dtype == ("int8" if "with" in kind else "int64")
    del found, stream
    gc.collect()
    assert not folder.exists() and not list(tmp_path.iterdir())


def test_a_broken_stream_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DataError):
        as_dataset(iter(["a", 3]))
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_images_of_a_stream_are_not_decoded():
    picture = Image.fromarray(np.zeros((2, 3, 3), np.uint8))
    for stream in (iter([{"image": picture}]), Dataset.from_list([{"image": picture}]).to_iterable_dataset()):
        found = as_dataset(stream)
        assert isinstance(found[0]["image"]["bytes"], bytes) and not found.features["image"].decode


def test_a_large_stream_does_not_lie_in_memory():
    process = psutil.Process()
    gc.collect()
    before, arrow = process.memory_full_info().uss, pyarrow.total_allocated_bytes()
    found = as_dataset({"text": f"{index} " + "x" * 5000} for index in range(20_000))  # 100 MB
    assert process.memory_full_info().uss - before < 30e6
    assert len(found) == 20_000 and found.cache_files
    parts = training_and_evaluation(found, None)
    assert {name: len(part) for name, part in parts.items()} == {"training": 18_000, "evaluation": 2000}
    assert pyarrow.total_allocated_bytes() - arrow < 5e6


def test_what_is_made_of_a_stream_lies_on_disk_too():
    parts = training_and_evaluation(as_dataset(rows_of(50)), None)
    model = MADE["text-generation"].build()
    for part in parts.values():
        examples = encode(part, model, causal_tokenizer())
        assert examples.encoded.cache_files and len(examples) == len(part)
        assert examples.encoded[0]["input_ids"] == causal_tokenizer()(part[0]["text"])["input_ids"]
    assert not encode(Dataset.from_list(list(rows_of(5))), model, causal_tokenizer()).encoded.cache_files


# Images and recordings.


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(path)


def test_a_folder_of_images_for_each_class(tmp_path):
    folder = tmp_path / "b [1] \u00e9*"
    for name in ("cat/1.png", "cat/\u00fc [2].JPG", "dog/a.jpeg", "dog/.hidden.png", ".cache/x.png"):
        picture(folder / name)
    (folder / "dog" / "notes.md").write_text("no image")
    found = load_examples(str(folder))
    names = found.features["label"].names
    told = sorted((Path(row["image"]["path"]).name, names[row["label"]]) for row in found)
    assert told == [("1.png", "cat"), ("a.jpeg", "dog"), ("\u00fc [2].JPG", "cat")]
    assert not found.features["image"].decode and all(Path(row["image"]["path"]).is_file() for row in found)
    assert found.source_path == str(folder)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_folder_of_images_with_metadata(ending, tmp_path):
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    rows = [{"file_name": f"{index}.png", "label": "ab"[index % 2], "score": index / 2} for index in range(3)]
    if ending == "csv":
        Dataset.from_list(rows).to_csv(tmp_path / "metadata.csv", index=False)
    else:
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sorted(load_examples(str(tmp_path)), key=lambda row: row["score"])
    assert [(Path(row["image"]["path"]).name, row["label"], row["score"]) for row in found] == [
        ("0.png", "a", 0.0), ("1.png", "b", 0.5), ("2.png", "a", 1.0)]  # fmt: skip


def test_a_folder_of_images_with_splits(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for index in range(count):
            picture(tmp_path / split / "ab"[index % 2] / f"{index}.png")
    assert [len(load_examples(str(tmp_path), split)) for split in ("train", "test")] == [3, 2]
    with pytest.raises(DataError, match="has the splits train, test; none was named"):
        load_examples(str(tmp_path))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_folder_of_recordings(ending, tmp_path):
    folder = tmp_path / "t [1]"
    (folder / "clips").mkdir(parents=True)
    rows = []
    for index in range(2):
        soundfile.write(folder / "clips" / f"{index}.wav", np.zeros(100), 16000)
        rows.append({"file_name": f"clips/{index}.wav", "text": f"said {index}"})
    with pytest.raises(DataError, match=r"holds recordings and no metadata.jsonl or .csv with columns `file_name`"):
        load_examples(str(folder))
    if ending == "csv":
        Dataset.from_list(rows).to_csv(folder / "metadata.csv", index=False)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_examples(str(folder)).to_list() == [
        {"audio": str(folder / "clips" / f"{index}.wav"), "text": f"said {index}"} for index in range(2)
    ]
    (folder / f"metadata.{ending}").write_text("name,text\na,b\n" if ending == "csv" else '{"name": "a"}')
    with pytest.raises(DataError, match="has no column `file_name`; its columns are name"):
        load_examples(str(folder))


@pytest.mark.parametrize("column", ["image", "audio"])
def test_paths_of_a_file_start_at_its_folder(column, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    values = [None, "a/1.png", str(tmp_path / "2.png"), "https://example.org/3.png"]
    Path("set/rows.jsonl").write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    expected = [None, str(tmp_path / "set/a/1.png"), str(tmp_path / "2.png"), values[3]]
    assert load_examples("set/rows.jsonl")[column][:] == expected
