"""A tiny model of each task, trained on made data to well above chance, and that data as files."""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from cahp_plugin.data import load_examples
from cahp_plugin.recover import finetune
from cahp_plugin.tasks import encode, task_of, with_targets

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COUNT = 60
_SIZES: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + COUNT,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
BERT: dict[str, Any] = _SIZES | {"max_position_embeddings": 40, "pad_token_id": 0}


@dataclasses.dataclass
class Made:
    """A model of a task in a folder, with data.

    Attributes:
        task: Name of the task.
        build: Makes the model.
        rows: Makes rows by a random generator and a count.
        chance: A number that no model without skill reaches; the trained one has to be better.
        metric: Name of the task's number.
        epochs: Passes of the training.
        processor: Makes what is saved beside the model.
        write: Writes rows to a file or folder, whose name it returns.
        count: Training rows.
        better: Whether a number is better than that.
        learning_rate: Of the training.
    """

    task: str
    build: Callable[[], Any]
    rows: Callable[[random.Random, int], list[dict[str, Any]]]
    chance: float
    metric: str
    epochs: float = 20
    processor: Callable[[], Any] = lambda: tokenizer()
    write: Callable[[Path, str, list[dict[str, Any]]], str] = lambda folder, name, rows: lines(folder, name, rows)
    count: int = 128
    better: Callable[[float, float], bool] = lambda value, chance: value > chance
    learning_rate: float = 3e-3

    def make(self, folder: Path) -> None:
        """Trains the model and writes it, ``train`` and ``eval`` into a folder."""
        generator = random.Random(0)
        paths = [
            self.write(folder, name, self.rows(generator, n)) for name, n in (("train", self.count), ("eval", 40))
        ]
        (folder / "paths.json").write_text(json.dumps(paths))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, processor = self.build(), self.processor()
            self.train(model, processor, load_examples(paths[0]))
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")

    def train(self, model: Any, processor: Any, data: Any) -> None:
        """Trains the model on all rows."""
        task_of(model, self.task)
        examples = with_targets(model, encode(data, model, processor))
        finetune(model, examples, epochs=self.epochs, learning_rate=self.learning_rate, batch_size=16, warmup_ratio=0)


def tokenizer() -> Any:
    """Words w0 to w59 between [CLS] and [SEP]."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(COUNT))])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask", "token_type_ids"],
    )  # fmt: skip


def causal_tokenizer() -> Any:
    """The same words without anything around them; no padding token, as many decoders have it."""
    made = tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return PreTrainedTokenizerFast(
        tokenizer_object=made.backend_tokenizer, unk_token="[UNK]", eos_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def lines(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    """Rows as a .jsonl file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def words(generator: random.Random, low: int, high: int, count: int) -> list[str]:
    """Words by their numbers."""
    return [f"w{generator.randrange(low, high)}" for _ in range(count)]


def of_classes(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Pairs whose second text says the class."""
    rows = []
    for index in range(count):
        label = index % 3
        second = words(generator, 20 * label, 20 * label + 20, 3 + index % 4)
        rows.append({"premise": " ".join(words(generator, 0, COUNT, 4)), "hypothesis": " ".join(second),
                     "label": "abc"[label]})  # fmt: skip
    return rows


def of_sets(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Texts with a label for each third of the words that occurs."""
    rows = []
    for index in range(count):
        chosen = [label for label in range(3) if generator.random() < 0.5] or [index % 3]
        text = [word for label in chosen for word in words(generator, 20 * label, 20 * label + 20, 3)]
        generator.shuffle(text)
        rows.append({"text": " ".join(text), "labels": ["abc"[label] for label in chosen]})
    return rows


def of_numbers(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Texts graded by the share of their words that are low."""
    rows = []
    for _ in range(count):
        low = generator.randrange(0, 7)
        text = words(generator, 0, 20, low) + words(generator, 20, COUNT, 6 - low)
        generator.shuffle(text)
        rows.append({"text": " ".join(text), "score": low / 6})
    return rows


def of_tags(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Words with entities of one or two words of two kinds."""
    rows = []
    for _ in range(count):
        tokens: list[str] = []
        tags: list[str] = []
        for _ in range(3 + generator.randrange(3)):
            kind = generator.randrange(3)
            if kind == 0:
                tokens += words(generator, 0, 20, 1)
                tags += ["O"]
            else:
                tokens += [f"w{20 * kind + generator.randrange(10)}", f"w{20 * kind + 10 + generator.randrange(10)}"]
                tags += [f"B-{'XY'[kind - 1]}", f"I-{'XY'[kind - 1]}"]
        rows.append({"tokens": tokens, "ner_tags": tags})
    return rows


def of_answers(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Contexts with two high words in a row, which are the answer."""
    rows = []
    for _ in range(count):
        before, after = (words(generator, 0, 40, generator.randrange(1, 7)) for _ in range(2))
        answer = f"w{generator.randrange(40, 50)} w{generator.randrange(50, 60)}"
        context = " ".join([*before, answer, *after])
        rows.append({"question": "w1 w2", "context": context,
                     "answers": {"text": [answer], "answer_start": [context.index(answer)]}})  # fmt: skip
    return rows


def of_runs(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Texts that count upwards from anywhere."""
    starts = [generator.randrange(COUNT) for _ in range(count)]
    return [{"text": " ".join(f"w{(start + i) % COUNT}" for i in range(6 + i % 5))} for i, start in enumerate(starts)]


def of_repeats(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Texts of one word."""
    return [{"text": " ".join([f"w{generator.randrange(COUNT)}"] * (6 + index % 5))} for index in range(count)]


def of_translations(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """A word for each word."""
    rows = []
    for index in range(count):
        source = [generator.randrange(20) for _ in range(2 + index % 3)]
        rows.append({"source": " ".join(f"w{i}" for i in source), "target": " ".join(f"w{i + 30}" for i in source)})
    return rows


def of_similarities(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Pairs graded by the share of words from the same half."""
    rows = []
    for _ in range(count):
        first, second = generator.randrange(0, 5), generator.randrange(0, 5)
        texts = [words(generator, 0, 30, low) + words(generator, 30, COUNT, 4 - low) for low in (first, second)]
        rows.append({"sentence1": " ".join(texts[0]), "sentence2": " ".join(texts[1]),
                     "score": 1 - abs(first - second) / 4})  # fmt: skip
    return rows


def of_colours(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Images in which one channel is bright."""
    noise = np.random.default_rng(generator.randrange(2**31))
    rows = []
    for index in range(count):
        pixels = noise.integers(0, 120, (10, 12, 3))
        pixels[..., index % 3] += 100
        rows.append({"image": pixels.astype(np.uint8), "label": ("blue", "green", "red")[2 - index % 3]})
    return rows


def folders(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    """Images in a folder for each class."""
    from PIL import Image

    for index, row in enumerate(rows):
        place = folder / name / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row["image"]).save(place / f"{index}.png")
    return str(folder / name)


def of_tones(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Recordings of one tone, high or low."""
    rows = []
    for index in range(count):
        time = np.arange(1600 + 400 * (index % 3)) / 16000
        phase = generator.random()
        wave = np.sin(2 * np.pi * ((300, 3000)[index % 2] * time + phase))
        rows.append({"audio": 0.3 * wave.astype(np.float32), "text": ("low", "high")[index % 2]})
    return rows


def recordings(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    """Recordings beside a file of what is said in them."""
    import soundfile

    (folder / name).mkdir()
    for index, row in enumerate(rows):
        soundfile.write(folder / name / f"{index}.wav", row["audio"], 16000)
    told = [{"audio": f"{name}/{index}.wav", "text": row["text"]} for index, row in enumerate(rows)]
    return lines(folder, name, told)


def whisper_processor() -> Any:
    """Byte-level letters, and a second of sound at most."""
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {letter: i for i, letter in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz", "\u0120"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        made = WhisperTokenizer(
            str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")), pad_token="<|endoftext|>"
        )
    made.add_special_tokens({"additional_special_tokens": special[1:]})
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=1), made)


def classes(cls: Any, config: Any, **changes: Any) -> Callable[[], Any]:
    """Builds a model of a class with eager attention."""
    return lambda: cls(config(**changes, attn_implementation="eager"))


def names(*labels: str) -> dict[str, Any]:
    """A config's names of classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


class Similar(Made):
    """A sentence encoder, trained so that the cosine of a pair is its score."""

    def train(self, model: Any, processor: Any, data: Any) -> None:
        """Pairs lie one below the other in the batches."""
        examples = encode(data, model, processor)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for epoch in range(int(self.epochs)):
            order = np.random.default_rng(epoch).permutation(len(data))
            for start in range(0, len(order), 16):
                rows = order[start : start + 16]
                batch = examples.batch([int(2 * row + part) for row in rows for part in (0, 1)])
                found = examples.task.embed(model(**batch), batch)
                scores = torch.tensor([examples.references[row] for row in rows])
                loss = (torch.cosine_similarity(found[::2], found[1::2]) - scores).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()


_BART: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + COUNT, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    "decoder_start_token_id": 2, "forced_eos_token_id": None, "dropout": 0.0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
_WHISPER: dict[str, Any] = {
    "vocab_size": 30, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_source_positions": 50, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "decoder_start_token_id": 1, "suppress_tokens": [], "begin_suppress_tokens": [], "dropout": 0.0,
}  # fmt: skip
_LLAMA: dict[str, Any] = _SIZES | {
    "max_position_embeddings": 64, "num_key_value_heads": 2, "num_attention_heads": 4, "pad_token_id": None,
    "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def _image_processor() -> Any:
    return transformers.ViTImageProcessor(size={"height": 8, "width": 8})


def _lower(value: float, chance: float) -> bool:
    return value < chance


#: A row for each task.
MADE: dict[str, Made] = {
    made.task: made
    for made in (
        Made("text-classification", classes(transformers.BertForSequenceClassification, transformers.BertConfig,
                                            **BERT, **names("a", "b", "c")), of_classes, 0.5, "accuracy", epochs=12),
        Made("multi-label-classification",
             classes(transformers.BertForSequenceClassification, transformers.BertConfig, **BERT,
                     **names("a", "b", "c"), problem_type="multi_label_classification"), of_sets, 0.8, "f1_micro", 12),
        Made("text-regression", classes(transformers.BertForSequenceClassification, transformers.BertConfig, **BERT,
                                        num_labels=1), of_numbers, 0.7, "spearman", 15),
        Made("token-classification",
             classes(transformers.BertForTokenClassification, transformers.BertConfig, **BERT,
                     **names("O", "B-X", "I-X", "B-Y", "I-Y")), of_tags, 0.8, "f1_entities", 10),
        Made("question-answering", classes(transformers.BertForQuestionAnswering, transformers.BertConfig, **BERT),
             of_answers, 0.7, "f1_words", 25),
        Made("fill-mask", classes(transformers.BertForMaskedLM, transformers.BertConfig, **BERT), of_repeats, 30.0,
             "perplexity", 30, better=_lower),
        Made("text-generation", classes(transformers.LlamaForCausalLM, transformers.LlamaConfig, **_LLAMA), of_runs,
             15.0, "perplexity", 15, processor=causal_tokenizer, better=_lower),
        Made("text2text-generation",
             classes(transformers.BartForConditionalGeneration, transformers.BartConfig, **_BART), of_translations,
             2.5, "token_loss", 40, better=_lower),
        Made("image-classification",
             classes(transformers.ViTForImageClassification, transformers.ViTConfig, **_VISION,
                     **names("red", "green", "blue")), of_colours, 0.7, "accuracy", 6, processor=_image_processor,
             write=folders),
        Made("automatic-speech-recognition",
             classes(transformers.WhisperForConditionalGeneration, transformers.WhisperConfig, **_WHISPER), of_tones,
             0.5, "wer", 12, processor=whisper_processor, write=recordings, better=_lower),
        Similar("feature-extraction", classes(transformers.BertModel, transformers.BertConfig, **BERT),
                of_similarities, 0.5, "spearman", 20),
    )
}  # fmt: skip


def noisy_model(name: str, **changes: Any) -> Any:
    """An untrained model of a task, with noise on all its weights; `changes` go into its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MADE[name].build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    for key, value in changes.items():
        setattr(model.config, key, value)
    return model


def letters() -> Any:
    """Words of letters a to e; each letter is a token, unless "ab" begins a word."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ab", *"abcde", *(f"##{letter}" for letter in "abcde")]
    inner = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
