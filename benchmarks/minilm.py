"""A cross-encoder of MiniLM's true shape (6 layers of 384) with random weights, and texts that it reads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flag_rerank_integrations.pairs import Pair

__all__ = ["WORKLOADS", "Texts", "write"]

_VOCABULARY: Final = 30_522
_SPECIALS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS: Final = "etaoinshrdlu"
_QUERY_WORDS: Final = 8
_SHORTEST, _LONGEST = 24, 400
WORKLOADS: Final = ("random", "sorted by length", "half long, half short")


def write(directory: Path) -> str:
    """Write the checkpoint, and return its directory."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate((*_SPECIALS, *_words()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_SPECIALS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
        initializer_range=0.05,
    )
    BertForSequenceClassification(config).save_pretrained(directory)
    return str(directory)


def _words() -> list[str]:
    """Make up distinct words of two to eight letters, about as long as English ones, one token each."""
    generator = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY - len(_SPECIALS):
        words["".join(generator.choices(_LETTERS, k=generator.choice((3, 4, 5, 5, 6, 6, 7, 8))))] = None
    return list(words)


@dataclass(frozen=True, slots=True)
class Texts:
    """Draws distinct pairs whose lengths in tokens are known."""

    words: tuple[str, ...]

    @classmethod
    def make(cls) -> Texts:
        """Make the vocabulary's texts."""
        return cls(tuple(_words()))

    def pairs(self, lengths: Sequence[int], seed: int) -> list[Pair]:
        """Return pairs with passages of so many words."""
        generator = random.Random(seed)
        query = " ".join(generator.choices(self.words, k=_QUERY_WORDS))
        return [(query, " ".join(generator.choices(self.words, k=length))) for length in lengths]

    def workload(self, name: str, count: int, seed: int) -> list[Pair]:
        """Return one of `WORKLOADS`."""
        generator = random.Random(seed)
        if name == "half long, half short":
            lengths = [_LONGEST] * (count // 2) + [_SHORTEST] * (count - count // 2)
        else:
            lengths = [generator.randint(_SHORTEST, _LONGEST) for _ in range(count)]
        return self.pairs(sorted(lengths) if name == "sorted by length" else lengths, seed)


def tokens_of(pair: Pair) -> int:
    """Return a pair's length as the model reads it, three special tokens included."""
    return sum(text.count(" ") + 1 for text in pair) + 3
