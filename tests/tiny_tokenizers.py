"""Small tokenizers of the three usual kinds, with the same vocabulary in every run.

The trainers of the tokenizers library break ties as they come, so that ids, and with them the
scores of a toy model, would differ from run to run: pairs of symbols are joined here, ties in
alphabetical order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "what is a giant panda? The giant panda is a bear species endemic to China.",
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "How many people live in Berlin? Yes or No. Given a query A and a passage B, determine whether.",
    "A: B: the passage contains an answer to the query by providing a prediction of either 'Yes' or 'No'.",
    "New York City is famous for the Metropolitan Museum of Art, and for its bagels; nothing beats them.",
    "大熊猫是中国特有的熊科动物。柏林有多少人口?",
] * 4
Symbols = tuple[str, ...]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with BERT's pair template and token types."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bert()),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with XLM-R's pair template: <s> query </s></s> passage </s>."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_xlmr()),
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that puts <bos> first, as Gemma's does."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_gemma()),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


@cache
def _bert() -> str:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = _words(tokenizer, lambda word: (word[0], *(f"##{letter}" for letter in word[1:])))
    letters, joins = _learned(words, 300 - len(specials))
    pieces = [*specials, *letters, *map(_joined, joins)]
    tokenizer.model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer.to_str()


@cache
def _xlmr() -> str:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    words = _words(tokenizer, tuple)
    letters, joins = _learned(words, 300 - len(specials))
    texts = ["".join(word) for word in words.elements()]
    counts = {piece: sum(text.count(piece) for text in texts) for piece in (*letters, *map(_joined, joins))}
    scores = [(piece, math.log(count / sum(counts.values()))) for piece, count in counts.items()]
    tokenizer.model = models.Unigram([*((special, 0.0) for special in specials), *scores], unk_id=3)
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()


@cache
def _gemma() -> str:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _, joins = _learned(_words(tokenizer, tuple), 400 - len(specials), alphabet)
    pieces = [*specials, *alphabet, *map(_joined, joins)]
    tokenizer.model = models.BPE({piece: i for i, piece in enumerate(pieces)}, joins)
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer.to_str()


def _words(tokenizer: Tokenizer, split: Callable[[str], Symbols]) -> Counter[Symbols]:
    """Count the words of all texts, each as the symbols it is split into."""
    normal = tokenizer.normalizer.normalize_str if tokenizer.normalizer is not None else str
    texts = map(normal, TEXTS)
    return Counter(split(word) for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))


def _learned(words: Counter[Symbols], size: int, alphabet: list[str] | None = None) -> tuple[list[str], list[Symbols]]:
    """Return the letters, and the most frequent joins of two symbols in order, for a vocabulary of so many pieces."""
    letters = sorted({letter for word in words for letter in word}) if alphabet is None else alphabet
    joins: list[Symbols] = []
    pieces = set(letters)
    while len(pieces) < size and (pairs := _pairs(words)):
        join = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joins.append(join)
        pieces.add(_joined(join))
        words = Counter({_with_join(word, join): times for word, times in words.items()})
    return letters, joins


def _pairs(words: Counter[Symbols]) -> Counter[Symbols]:
    """Count neighbouring symbols."""
    pairs: Counter[Symbols] = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            pairs[pair] += times
    return pairs


def _joined(join: Symbols) -> str:
    """Return the piece that two symbols make; inside a word, WordPiece marks the second one."""
    return join[0] + join[1].removeprefix("##")


def _with_join(word: Symbols, join: Symbols) -> Symbols:
    """Return a word with two neighbouring symbols joined wherever they are."""
    symbols: list[str] = []
    for symbol in word:
        if symbols and (symbols[-1], symbol) == join:
            symbols[-1] = _joined(join)
        else:
            symbols.append(symbol)
    return tuple(symbols)
