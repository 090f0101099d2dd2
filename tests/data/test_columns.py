import pytest
from datasets import Dataset

from cahp_plugin.data import Columns
from cahp_plugin.errors import DataError
from cahp_plugin.tasks import TASKS, Options


def found(task, names, *given, **options):
    return TASKS[task].columns(Dataset.from_dict({name: ["1"] for name in names}), Options(*given, **options))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["text", "label"], Columns(("text",), "label")),
        (["id", "premise", "hypothesis", "labels"], Columns(("premise", "hypothesis"), "labels")),
        (["sentence1", "sentence2", "sentence", "class"], Columns(("sentence1", "sentence2"), "class")),
    ],
)
def test_usual_names_are_found(columns, expected):
    assert found("text-classification", columns) == expected


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (None, None, "No text column with a usual name.*columns are body, kind"),
        (["body"], None, "No label column.*columns are body, kind"),
        (["body", "more"], "kind", "Missing column more; the columns are body, kind"),
        (["body"], "stars", "Missing column stars"),
        (["a", "b", "c"], "kind", r"number of input columns must be 1 or 2, got 3: \['a', 'b', 'c'\]"),
    ],
)
def test_missing_columns_say_which_there_are(text, label, message):
    with pytest.raises(DataError, match=message):
        found("text-classification", ["body", "kind"], text, label)


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("question-answering", ["context"], "must be 2, got 1: "),
        ("question-answering", ["question", "context", "answers"], "must be 2, got 3: "),
        ("text-generation", ["question", "context"], "must be 1, got 2: "),
    ],
)
def test_a_task_says_how_many_columns_it_reads(task, text, message):
    with pytest.raises(DataError, match=message):
        found(task, ["question", "context", "answers"], text)


def test_what_a_task_calls_its_columns():
    answers = found("question-answering", ["question", "context", "answers"])
    assert answers == Columns(("question", "context"), "answers")
    with pytest.raises(DataError, match=r"No image column with a usual name.*columns are text, label"):
        found("image-classification", ["text", "label"])
    with pytest.raises(DataError, match="No label column"):
        found("image-classification", ["image", "answers"])


@pytest.mark.parametrize("task", ["text2text-generation", "automatic-speech-recognition"])
def test_only_a_decoder_needs_what_is_to_be_predicted_where_labels_are_not_needed(task):
    assert found("image-classification", ["image"], labelled=False) == Columns(("image",))
    with pytest.raises(DataError, match="No label column"):
        found(task, ["source", "audio"], labelled=False)
