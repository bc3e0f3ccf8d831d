"""Task prompts by name."""

from __future__ import annotations

import re
from typing import Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ConfigError

__all__ = ["TASKS", "prompt_text"]

# The tasks that the model card of BAAI/bge-reranker-v2.5-gemma2-lightweight lists, in its words. Its
# fourth is question answering, for which each model has a wording of its own.
TASKS: Final = {
    "same-meaning": "Predict whether passages A and B have the same meaning.",
    "duplicate-question": "Predict whether queries A and B are asking the same thing.",
    "counterargument": "Predict whether argument A and counterargument B express contradictory opinions.",
}
_ANSWERING: Final = "qa"
_LOOKS_LIKE_A_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


def prompt_text(config: RerankConfig, default: str) -> str:
    """Return the prompt that a config asks for, by name or in full.

    Args:
        config: Its `prompt` is None, "qa", one of `TASKS`, or a text.
        default: The model's own prompt, which is about question answering.

    Raises:
        ConfigError: The prompt is a single word that is no name: a text would be a sentence.
    """
    prompt = config.prompt
    if prompt is None or prompt == _ANSWERING:
        return default
    if prompt in TASKS:
        return TASKS[prompt]
    if _LOOKS_LIKE_A_NAME.fullmatch(prompt):
        names = ", ".join(map(repr, (_ANSWERING, *TASKS)))
        msg = f"There is no prompt named {prompt!r}: the names are {names}. A prompt of your own is a sentence."
        raise ConfigError(msg)
    return prompt
