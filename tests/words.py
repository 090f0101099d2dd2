"""A real word-piece tokenizer over a tiny vocabulary, made on the spot."""

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from cahp_plugin import encode

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(90))]


def tiny_tokenizer(padding_side="right"):
    """Maps w0..w89 to 4..93; adds [CLS] and [SEP]; pads with 0."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        padding_side=padding_side, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def word_examples(count=60, num_labels=3):
    """Sentences whose class is the most frequent third of the vocabulary: learnable, every class present."""
    rows = []
    for index in range(count):
        label = index % num_labels
        rows.append({"text": " ".join(f"w{label * 30 + (7 * index + 3 * j) % 30}" for j in range(3 + index % 6)),
                     "label": label})  # fmt: skip
    return rows


def encoded_words(model, count=60, **options):
    """Such sentences as a classifier takes them."""
    return encode(Dataset.from_list(word_examples(count, model.config.num_labels)), model, tiny_tokenizer(), **options)
