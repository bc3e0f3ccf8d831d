from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert_tokenizer, gemma_tokenizer, xlmr_tokenizer

from flag_rerank_integrations.encoding import PairEncoder, PairTemplate, TextEncoder, repair
from flag_rerank_integrations.families.causal import CausalEncoder

TOKENIZERS = {"bert": bert_tokenizer(), "xlmr": xlmr_tokenizer(), "gemma": gemma_tokenizer()}
LITERALS = ["</s>", "<s>", "<pad>", "[SEP]", "[PAD]", "[CLS]", "<bos>", "<eos>"]
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from(["panda", "Berlin", "大熊猫", "  ", "\n", *LITERALS]), max_size=30).map(" ".join),
)


def encoder_for(name: str, length: int = 64, **options: Any) -> PairEncoder:
    factory = {"bert": bert_tokenizer, "xlmr": xlmr_tokenizer, "gemma": gemma_tokenizer}[name]
    return PairEncoder(factory().backend_tokenizer, max_length=length, **options)


ENCODERS = {(name, mode): encoder_for(name, special_tokens=mode) for name in TOKENIZERS for mode in ("plain", "parse")}


@settings(deadline=None)
@given(st.sampled_from(list(ENCODERS)), st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_ids_and_types_equal_the_tokenizers_own(which: tuple[str, str], pairs: list[tuple[str, str]]) -> None:
    name, mode = which
    for (query, passage), pair in zip(pairs, ENCODERS[which].encode(pairs), strict=True):
        own = TOKENIZERS[name](
            [query], [passage], split_special_tokens=mode == "plain", return_token_type_ids=True, truncation=False
        )
        expected, types = own["input_ids"][0], own["token_type_ids"][0]
        encoder = ENCODERS[which]
        query_fits = len(encoder.texts.encode({query: 64})[query].ids) <= encoder.query_max_length
        if len(expected) <= 64 and query_fits:
            assert pair.truncated_tokens == 0
            assert list(pair.ids) == expected
            assert pair.type_ids == types


@settings(deadline=None)
@given(st.sampled_from(["bert", "xlmr"]), texts, texts, st.integers(8, 40))
def test_pairs_always_fit_and_what_was_cut_is_counted(name: str, query: str, passage: str, length: int) -> None:
    encoder = encoder_for(name, length) if length % 8 == 0 else ENCODERS[name, "plain"]
    (pair,) = encoder.encode([(query, passage)])
    query_ids, passage_ids = encoder.texts.ids(query), encoder.texts.ids(passage)
    assert len(pair) <= encoder.max_length
    kept = len(pair) - encoder.template.size - min(len(query_ids), encoder.query_max_length)
    assert pair.truncated_tokens == len(passage_ids) - kept
    assert kept >= min(1, len(passage_ids)), "the passage keeps at least one token"


def test_query_gets_three_quarters_by_default() -> None:
    encoder = encoder_for("bert", 40)
    (pair,) = encoder.encode([("panda " * 100, "berlin " * 100)])
    assert encoder.query_max_length == 30
    assert pair.type_ids is not None
    assert pair.type_ids.count(0) == 32
    assert len(pair) == 40


@pytest.mark.parametrize("literal, name", [("[SEP]", "bert"), ("[PAD]", "bert"), ("<bos>", "gemma")])
def test_literal_special_tokens_are_text_unless_parsed(literal: str, name: str) -> None:
    special = TOKENIZERS[name].convert_tokens_to_ids(literal)
    for mode, found in (("plain", False), ("parse", True), ("escape", False)):
        assert (special in encoder_for(name, special_tokens=mode).texts.ids(f"a {literal} b")) is found


@pytest.mark.parametrize("literal", ["</s>", "<s>", "<pad>", "<mask>"])
def test_only_escape_keeps_special_pieces_out_of_a_unigram_text(literal: str) -> None:
    """XLM-R lists its special tokens as ordinary pieces, so tokenizers' own setting finds them in a text."""
    special = TOKENIZERS["xlmr"].convert_tokens_to_ids(literal)
    text = f"a {literal} b{literal}{literal}"
    escaping = encoder_for("xlmr", special_tokens="escape")
    assert special not in escaping.encode([("q", text)])[0].ids[5:-1]
    plain = TOKENIZERS["xlmr"](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert encoder_for("xlmr").texts.ids(text) == plain


def test_each_distinct_text_is_tokenized_once() -> None:
    encoder = ENCODERS["bert", "plain"]
    counted: list[int] = []
    inner = encoder.texts.tokenizer

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def encode_batch_fast(self, batch: list[str], **options: Any) -> Any:
            counted.append(len(batch))
            return inner.encode_batch_fast(batch, **options)

    encoder.texts.tokenizer = Counting()  # type: ignore[assignment]
    try:
        encoder.encode([("q1", "p1"), ("q1", "p2"), ("q2", "p1"), ("q1", "p1")])
    finally:
        encoder.texts.tokenizer = inner
    assert counted == [4], "both queries and both passages, in one go"


def test_a_text_that_is_query_and_passage_is_read_as_far_as_either_needs() -> None:
    encoder = ENCODERS["bert", "plain"]
    text = "panda " * 2_000
    ((query, passage),) = encoder.texts.encode_pairs([(text, text)], query_limit=20, passage_limit=100)
    assert query is passage
    assert len(passage.ids) >= 100
    ((query, passage),) = encoder.texts.encode_pairs([(text, text)], query_limit=100, passage_limit=20)
    assert len(query.ids) >= 100


def test_tokenizer_settings_are_never_changed_by_encoding() -> None:
    encoder = ENCODERS["xlmr", "plain"]
    encoder.encode([("a " * 500, "b " * 500)])
    assert encoder.texts.tokenizer.truncation is None
    assert encoder.texts.tokenizer.padding is None


def test_oversized_text_is_capped_before_it_is_tokenized() -> None:
    word = "panda "
    encoder = TextEncoder(bert_tokenizer().backend_tokenizer)
    one = len(encoder.ids(word))
    seen: list[int] = []
    inner = encoder.tokenizer

    class Measuring:
        def encode_batch_fast(self, batch: list[str], **options: Any) -> Any:
            seen.extend(map(len, batch))
            return inner.encode_batch_fast(batch, **options)

    encoder.tokenizer = Measuring()  # type: ignore[assignment]
    huge = word * 500_000
    found = encoder.encode({huge: 100})[huge]
    assert max(seen) < 10_000
    assert len(found.ids) >= 100
    estimate = len(found.ids) + found.unread_tokens
    assert estimate == pytest.approx(500_000 * one, rel=0.02)


def test_white_space_does_not_hide_the_text_behind_it() -> None:
    encoder = TextEncoder(bert_tokenizer().backend_tokenizer)
    text = " " * 5_000 + "panda bear " * 100
    assert encoder.encode({text: 64})[text].ids[:64] == encoder.ids("panda bear " * 100)[:64]


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "ok", "", "\x00", "😀", "\ud83d\ude00"])
def test_repair_makes_any_string_encodable(text: str) -> None:
    repaired = repair(text)
    repaired.encode()
    if text.isascii():
        assert repaired == text


def test_template_is_read_off_the_post_processor() -> None:
    bert = PairTemplate.of(bert_tokenizer().backend_tokenizer)
    assert (bert.before, bert.between, bert.after, bert.types) == ((2,), (3,), (3,), (0, 0, 0, 1, 1))
    xlmr = PairTemplate.of(xlmr_tokenizer().backend_tokenizer)
    assert (xlmr.before, xlmr.between, xlmr.after, xlmr.size) == ((0,), (2, 2), (2,), 4)


def test_unknown_language_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = TextEncoder(bert_tokenizer().backend_tokenizer)
    with caplog.at_level(logging.WARNING, "flag_rerank_integrations"):
        encoder.encode({"ῥῶ " * 20: 64})
        encoder.encode({"ῥῶ " * 21: 64})
    assert len([record for record in caplog.records if "unknown" in record.message]) == 1


class TestCausalEncoder:
    def make(self, length: int = 60, **options: Any) -> CausalEncoder:
        encoder = CausalEncoder(gemma_tokenizer().backend_tokenizer, bos_id=2, **options)
        encoder.cut_to(length, None)
        return encoder

    def test_layout(self) -> None:
        encoder = self.make(prompt="Yes or No?")
        (pair,) = encoder.encode([("how many?", "ten")])
        ids = encoder.texts.ids
        assert list(pair.ids) == [
            2, *ids("A: how many?"), *ids("\n"), *ids("B: ten"), *ids("\n"), *ids("Yes or No?")
        ]  # fmt: skip

    def test_instruction_comes_before_the_query(self) -> None:
        asked = self.make(instruction="Find: ").encode([("how many?", "ten")])
        assert asked == self.make().encode([("Find: how many?", "ten")])

    def test_no_bos(self) -> None:
        encoder = CausalEncoder(gemma_tokenizer().backend_tokenizer, bos_id=None)
        encoder.cut_to(60, None)
        assert encoder.encode([("q", "p")])[0].ids == self.make().encode([("q", "p")])[0].ids[1:]

    def test_every_length_fits_and_keeps_the_prompt(self) -> None:
        rng = random.Random(3)
        encoder = self.make(40)
        pairs = [("q " * rng.randint(0, 90), "p " * rng.randint(0, 300)) for _ in range(60)]
        for (_, passage), pair in zip(pairs, encoder.encode(pairs), strict=True):
            assert len(pair) <= encoder.max_length
            assert list(pair.ids[-encoder.tail_length :]) == encoder._tail
            assert (pair.truncated_tokens > 0) or len(encoder.texts.ids(f"B: {passage}")) <= 40
