"""Task prompts by name, instructions, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flag_rerank_integrations import RerankConfig, Reranker
from flag_rerank_integrations.errors import ConfigError
from flag_rerank_integrations.families.causal import DEFAULT_PROMPT
from flag_rerank_integrations.families.lightweight import LIGHTWEIGHT_PROMPT
from flag_rerank_integrations.families.prompts import prompt_text

NAMED = {
    "same-meaning": "Predict whether passages A and B have the same meaning.",
    "duplicate-question": "Predict whether queries A and B are asking the same thing.",
    "counterargument": "Predict whether argument A and counterargument B express contradictory opinions.",
}


@pytest.fixture
def path_of(tiny: Any, layered: Any) -> Any:
    return lambda family: tiny("gemma") if family == "causal" else layered(family)


FAMILIES = pytest.mark.parametrize(
    "family, default",
    [("causal", DEFAULT_PROMPT), ("layerwise", DEFAULT_PROMPT), ("lightweight", LIGHTWEIGHT_PROMPT)],
)


def text_read(path: str, pair: tuple[str, str], **options: Any) -> str:
    """What the model reads of a pair, as text."""
    with Reranker(path, device="cpu", max_length=64, **options) as reranker:
        family = reranker._executor._scorer._family  # type: ignore[union-attr]
        ids: Sequence[int] = family.encode([pair])[0].ids
        text: str = family._encoder.texts.tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


@FAMILIES
@pytest.mark.parametrize("name", [None, "qa", *NAMED, "Is B about A?", "B 是否回答了 A?"])
def test_a_prompt_by_name_or_in_full_ends_the_pair(path_of: Any, family: str, default: str, name: str | None) -> None:
    expected = default if name in (None, "qa") else NAMED.get(str(name), name)
    assert text_read(path_of(family), ("who?", "me"), prompt=name) == f"<bos>A: who?\nB: me\n{expected}"


@FAMILIES
def test_instructions_stand_before_their_texts(path_of: Any, family: str, default: str) -> None:
    options = {"instruction": "Question: ", "passage_instruction": "Answer: "}
    read = text_read(path_of(family), ("who?", "me"), **options)
    assert read == f"<bos>A: Question: who?\nB: Answer: me\n{default}"
    with Reranker(path_of(family), device="cpu", **options) as told, Reranker(path_of(family), device="cpu") as plain:
        written = plain.score([("Question: who?", "Answer: me")])
        assert abs(told.score([("who?", "me")])[0] - written[0]) <= 3e-6


@pytest.mark.parametrize("prompt", ["QA", "same_meaning", "counterargumnet", "yes"])
@FAMILIES
def test_a_misspelt_name_is_no_prompt(path_of: Any, family: str, default: str, prompt: str) -> None:
    with pytest.raises(ConfigError, match=f"no prompt named '{prompt}': the names are 'qa', 'same-meaning', "):
        Reranker(path_of(family), device="cpu", prompt=prompt)


def test_a_family_without_prompts_says_so(tiny: Any) -> None:
    for prompt in ("qa", "Judge this."):
        with pytest.raises(ConfigError, match="takes no prompt"):
            Reranker(tiny("bert"), device="cpu", prompt=prompt)
    with pytest.raises(ConfigError, match="passage_instruction is an option of causal and layerwise and lightweight"):
        Reranker(tiny("bert"), device="cpu", passage_instruction="Passage: ")


def test_an_empty_prompt_is_a_text() -> None:
    assert prompt_text(RerankConfig(prompt=""), "default") == ""
