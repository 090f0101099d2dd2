import pytest
from datasets import Dataset

from cahp_plugin.data import Columns, find_columns
from cahp_plugin.errors import DataError


def rows(**columns):
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["text", "label"], Columns(("text",), "label")),
        (["id", "premise", "hypothesis", "labels"], Columns(("premise", "hypothesis"), "labels")),
        (["sentence1", "sentence2", "sentence", "class"], Columns(("sentence1", "sentence2"), "class")),
    ],
)
def test_usual_names_are_found(columns, expected):
    assert find_columns(rows(**{name: ["1"] for name in columns})) == expected


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (None, None, "No text column with a usual name.*columns are body, kind"),
        (["body"], None, "No label column.*columns are body, kind"),
        (["body", "more"], "kind", "Missing column more; the columns are body, kind"),
        (["body"], "stars", "Missing column stars"),
        (["a", "b", "c"], "kind", "One or two text columns"),
    ],
)
def test_missing_columns_say_which_there_are(text, label, message):
    with pytest.raises(DataError, match=message):
        find_columns(rows(body=["a"], kind=["b"]), text, label)


def test_what_a_task_calls_its_columns():
    usual = {"usual_text": (("image",), ("picture", "caption")), "usual_labels": ("answers",)}
    assert find_columns(rows(picture=["?"], caption=["."], answers=["."]), **usual).text == ("picture", "caption")
    with pytest.raises(DataError, match=r"No image column with a usual name.*columns are text, answers"):
        find_columns(rows(text=["?"], answers=["."]), **usual)
    with pytest.raises(DataError, match="No label column"):
        find_columns(rows(image=["?"], label=["."]), **usual)
    assert find_columns(rows(image=["?"], label=["."]), **usual, labelled=False) == Columns(("image",))
