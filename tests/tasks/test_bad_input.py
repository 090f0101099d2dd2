"""What can't be used is told before any work: by row, column and file, with what to do; no folder appears."""

import re

import numpy as np
import pytest
import soundfile
import transformers
from made import BERT, MADE, lines, tokenizer
from PIL import Image

from cahp_plugin.cli import main

BAD_TEXT = "Column 'text', row 1: expected text, got None"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of random models, made when they are first asked for."""
    made = {}

    def folder(name, model=None, processor=None):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model")
            row = MADE.get(name)
            (model or row.build)().save_pretrained(made[name])
            (processor or row.processor if row else processor or tokenizer)().save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs ``cahp prune``, which has to fail with a message and leave nothing."""

    def run(model, train, *more, evaluation=None):
        if isinstance(train, list):
            train = lines(tmp_path, "train", train)
        data = ["--train", str(train), "--eval", str(evaluation or train)]
        before = sorted(tmp_path.rglob("*"))
        assert main(["prune", str(model), *data, "-o", str(tmp_path / "out"), "--quiet", *more]) == 1
        assert sorted(tmp_path.rglob("*")) == before
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return told.strip()

    return run


def bert(cls, **changes):
    return lambda: cls(transformers.BertConfig(**BERT | changes))


CLASSES = [{"text": "w1 w2", "label": "a"}, {"text": "w3", "label": "b"}, {"text": "w4", "label": "c"}]
TAGS = [{"tokens": ["w1", "w2"], "ner_tags": ["B-X", "I-X"]}, {"tokens": ["w3"], "ner_tags": ["O"]}]


@pytest.mark.parametrize(
    ("cls", "task", "message"),
    [
        (transformers.BertModel, "text-classification", "BertModel has no head for text-classification. Load .*`Auto"),
        (transformers.BertForMaskedLM, "token-classification", "BertForMaskedLM has no head for token-classification"),
        (
            transformers.BertForMaskedLM,
            "feature-extraction",
            "BertForMaskedLM has no head for|has a head of its own, and feature",
        ),
        (transformers.BertForTokenClassification, "text-classification", "has no head for text-classification"),
        (transformers.BertForSequenceClassification, "text-regression", "gives 2 .*takes one. Leave `task` out"),
        (
            transformers.BertForSequenceClassification,
            "sentiment",
            "task 'sentiment' is not known; expected one of mul",
        ),
        (transformers.BertForMultipleChoice, None, "BertForMultipleChoice does none of the tasks .*Load it with"),
    ],
)
def test_a_head_of_another_task(cls, task, message, saved, refused):
    told = refused(saved(cls.__name__, bert(cls)), CLASSES, *(["--task", task] if task else []))
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("f1", "`metric` is 'f1'; expected module:function, or one of accuracy, f1_micro"),
        ("perplexity", "`metric` is 'perplexity'; text-classification has accuracy, or"),
        ("no_such_module:f", "'no_such_module:f' can't be imported"),
    ],
)
def test_a_metric_that_the_task_has_not(metric, message, saved, refused):
    assert message in refused(saved("text-classification"), CLASSES, "--metric", metric)


def rows(name, **changes):
    """Two good rows of a task, and what is changed of the second."""
    good = {
        "text-classification": {"text": "w1 w2", "label": 0},
        "multi-label-classification": {"text": "w1 w2", "labels": [0, 2]},
        "text-regression": {"text": "w1 w2", "score": 0.5},
        "token-classification": {"tokens": ["w1", "w2"], "ner_tags": ["B-X", "O"]},
        "question-answering": {
            "question": "w1",
            "context": "w2 w3",
            "answers": {"text": ["w3"], "answer_start": [3]},
        },
        "text2text-generation": {"source": "w1", "target": "w2"},
        "text-generation": {"text": "w1 w2"},
        "feature-extraction": {"sentence1": "w1", "sentence2": "w2", "score": 0.5},
    }[name]
    return [good, good | changes]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("text-classification", {"label": 3}, "Column 'label', row 1: label 3; the model has 3 classes, so labels go"),
        ("text-classification", {"label": 0.5}, "Column 'label', row 1: expected a class number, got 0.5"),
        ("text-classification", {"label": None}, "Column 'label', row 1: the label is missing"),
        ("text-classification", {"text": None}, BAD_TEXT),
        (
            "multi-label-classification",
            {"labels": [3]},
            "Column 'labels', row 1: expected a label of the model's, from",
        ),
        (
            "multi-label-classification",
            {"labels": None},
            "Column 'labels', row 1: expected a list of labels, got None",
        ),
        ("multi-label-classification", {"labels": [None]}, "Column 'labels', row 1: expected a label of the model's"),
        ("text-regression", {"score": None}, "Column 'score', row 1: expected a number, got None"),
        ("token-classification", {"ner_tags": ["O"]}, "row 1: expected 2 tags, one for each word; got 1 tags"),
        (
            "token-classification",
            {"ner_tags": None},
            "Column 'ner_tags', row 1: expected 2 tags, one for each word; got",
        ),
        (
            "token-classification",
            {"ner_tags": ["O", None]},
            "Column 'ner_tags', row 1: expected a label of the model's",
        ),
        (
            "token-classification",
            {"ner_tags": ["S-X", "O"]},
            "row 1: the model has no label 'S-X'; it has B-X, B-Y, I-X",
        ),
        (
            "token-classification",
            {"ner_tags": ["E-X", "O"]},
            "seem to be tagged in another scheme than the model's (B-,",
        ),
        ("token-classification", {"tokens": []}, "Column 'tokens', row 1: expected a list of words, got []"),
        ("question-answering", {"answers": {"text": ["w3"], "answer_start": [0]}}, "'w3' is not in the context at"),
        (
            "question-answering",
            {"answers": {"text": ["w9"], "answer_start": [-1]}},
            "Column 'answers', row 1: 'w9' is",
        ),
        ("question-answering", {"answers": None}, "Column 'answers', row 1: expected {'text': [...], 'answer_start'"),
        ("question-answering", {"context": None}, "Column 'context', row 1: expected text, got None"),
        ("text2text-generation", {"target": None}, "Column 'target', row 1: expected text, got None"),
        ("text-generation", {"text": None}, BAD_TEXT),
        ("feature-extraction", {"score": None}, "Column 'score', row 1: expected a number, got None"),
        ("feature-extraction", {"sentence2": None}, "Column 'sentence2', row 1: expected text, got None"),
    ],
)
def test_a_row_that_can_not_be_used(name, changes, message, saved, refused):
    assert message in refused(saved(name), rows(name, **changes))


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        (
            "text-classification",
            {"text": "w1", "label": [0, 1]},
            "Column 'label', row 0: expected a class number, got [",
        ),
        ("text-classification", {"text": "w1", "label": "d"}, "row 0: the model has no class 'd'; it has a, b, c"),
        ("multi-label-classification", {"text": "w1", "labels": "a"}, "row 0: expected a list of labels, got 'a'"),
        ("multi-label-classification", {"text": "w1", "labels": [0, 1, 0, 1]}, "row 0: label 0 is there twice in"),
        ("text-regression", {"text": "w1", "score": "good"}, "Column 'score', row 0: expected a number, got 'good'"),
        (
            "token-classification",
            {"tokens": "w1 w2", "ner_tags": ["O"]},
            "row 0: expected a list of words, got 'w1 w2'",
        ),
        (
            "token-classification",
            {"tokens": ["w1"], "ner_tags": [5]},
            "row 0: expected a label of the model's, from 0 to 4",
        ),
        ("question-answering", {"question": "w1", "context": "w1", "answers": [0]}, "expected {'text': [...], 'answ"),
        (
            "text2text-generation",
            {"source": "w1"},
            "No label column with a usual name was found; the columns are source.",
        ),
        (
            "text-classification",
            {"text": "w1"},
            "No label column with a usual name was found; the columns are text. Na",
        ),
        (
            "text-generation",
            {"words": "w1"},
            "No text column with a usual name was found; the columns are words. Name",
        ),
        ("text-generation", {"text": ["w1"]}, "Column 'text', row 0: expected text, got ['w1']"),
        (
            "image-classification",
            {"text": "w1", "label": 0},
            "No image column with a usual name was found; the columns",
        ),
        (
            "automatic-speech-recognition",
            {"text": "w1"},
            "No audio column with a usual name was found; the columns are",
        ),
    ],
)
def test_data_of_another_shape(name, wrong, message, saved, refused):
    assert message in refused(saved(name), [wrong] * 3)


@pytest.mark.parametrize(
    "name", ["text-classification", "text-generation", "text2text-generation", "feature-extraction"]
)
def test_empty_texts(name, saved, refused):
    column = {"text2text-generation": "source", "feature-extraction": "sentence1"}.get(name, "text")
    told = refused(saved(name), [row | {column: " "} for row in rows(name)])
    assert f"All 2 texts of column '{column}' are empty" in told


def test_texts_that_are_all_too_long(saved, refused):
    long = [{"text": "w1 " * 60, "label": 0}] * 3
    told = refused(saved("text-classification"), long)
    assert "All 3 examples are longer than the 40 tokens that the model takes" in told and "`max_length` (40" in told
    for length, message in (("41", "`max_length` is 41; the model takes at most 40"), ("2", "must be at least 3")):
        assert message in refused(saved("text-classification"), long, "--max-length", length)
    assert "no token for a question" in refused(
        saved("question-answering"), rows("question-answering"), "--max-length", "4"
    )


def image(path, kind):
    if kind == "text":
        path.write_text("no image")
    elif kind != "missing":
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("bad.png", "text", "bad.png can't be read"),
        ("bad.png", "cut", "bad.png can't be read"),
        ("bad.jpg", "cut", "bad.jpg can't be read"),
        ("bad.png", "missing", "there is no file "),
    ],
)
def test_images_that_can_not_be_read(file, kind, message, saved, refused, tmp_path):
    image(tmp_path / "good.png", "good"), image(tmp_path / file, kind)
    data = [{"image": "good.png", "label": 0}, {"image": file, "label": 1}]
    told = refused(saved("image-classification"), data)
    assert "1 of 2 images can't be read: Column 'image', row 1: " in told
    assert message in told and str(tmp_path / file) in told


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rate", "bad.wav has 8000 samples a second; the model takes 16000. Resample it first"),
        ("empty", "bad.wav is empty"),
        ("text", "bad.wav can't be read"),
        ("missing", "there is no file "),
    ],
)
def test_recordings_that_can_not_be_used(kind, message, saved, refused, tmp_path):
    path = tmp_path / "bad.wav"
    if kind == "text":
        path.write_text("no recording")
    elif kind != "missing":
        soundfile.write(path, np.zeros(0 if kind == "empty" else 800), 8000 if kind == "rate" else 16000)
    soundfile.write(tmp_path / "good.wav", np.zeros(800), 16000)
    data = [{"audio": "good.wav", "text": "low"}, {"audio": "bad.wav", "text": "high"}]
    told = refused(saved("automatic-speech-recognition"), data)
    assert "Column 'audio', row 1: " in told and message in told


def test_a_folder_of_images_for_a_model_of_texts(saved, refused, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    image(tmp_path / "images" / "a" / "1.png", "good")
    told = refused(saved("text-classification"), tmp_path / "images")
    assert "No text column with a usual name was found; the columns are image" in told
    told = refused(saved("image-classification"), CLASSES)
    assert "No image column with a usual name was found; the columns are text, label" in told


def slow_tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w1", "w2"]))
    return transformers.BertJapaneseTokenizer(str(folder / "vocab.txt"), do_word_tokenize=False)


@pytest.mark.parametrize("name", ["token-classification", "question-answering"])
def test_a_slow_tokenizer(name, saved, refused, tmp_path_factory):
    slow = slow_tokenizer(tmp_path_factory.mktemp("slow"))
    if slow.is_fast:
        pytest.skip("all are fast")
    model = saved(f"slow {name}", MADE[name].build, lambda: slow)
    assert "BertJapaneseTokenizer does not say " in refused(model, rows(name))


def test_an_evaluation_set_with_other_columns(saved, refused, tmp_path):
    other = lines(tmp_path, "other", [{"sentence": "w1", "label": 0}])
    told = refused(saved("text-classification"), rows("text-classification"), evaluation=other)
    assert "Missing column text; the columns are sentence, label" in told
    other = lines(tmp_path, "other", [{"sentence1": "w1", "sentence2": "w1"}])
    told = refused(saved("feature-extraction"), rows("feature-extraction"), evaluation=other)
    assert "Missing column score; the columns are sentence1, sentence2" in told


@pytest.mark.parametrize(
    ("name", "row"), [("text2text-generation", {"source": "w1"}), ("automatic-speech-recognition", {"audio": "a.wav"})]
)
def test_a_decoder_has_nothing_to_read_under_a_budget(name, row, saved, refused):
    told = refused(saved(name), [row] * 3, "--macs", "0.7")
    assert told.startswith("cahp prune: No label column with a usual name was found; the columns are ")


def test_one_column_of_two(saved, refused):
    told = refused(saved("question-answering"), rows("question-answering"), "--text-columns", "context")
    assert "The number of input columns must be 2, got 1: ['context']." in told
