"""Builds small sentence-transformers cross-encoders, the way their authors publish them."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tiny_models import SPECS, build
from transformers import AutoTokenizer

# The shape of Qwen3-Reranker's template: a task, the pair, and the opened answer whose first token is scored.
CHAT_TEMPLATE = (
    "<bos>the document and a query: "
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first }}\n"
    "A: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "B: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<eos>Yes or No?"
)
DEFAULT_PROMPT = "determine whether the passage contains an answer"


def build_classifier(path: Path, *, num_labels: int = 1) -> Path:
    """Write a BERT with a classification head, saved by CrossEncoder itself."""
    plain = path.parent / f"{path.name}-torch"
    build(SPECS["bert"], plain, num_labels=num_labels)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(path))
    return path


def build_chat_reranker(path: Path) -> Path:
    """Write a causal model with a chat template; its score is logit("Yes") - logit("No")."""
    plain = path.parent / f"{path.name}-torch"
    build(SPECS["qwen3"], plain)
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(plain)
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
    model = CrossEncoder(
        modules=[
            Transformer(str(plain), transformer_task="text-generation"),
            LogitScore(true_token_id=yes, false_token_id=no),
        ],
        device="cpu",
        prompts={"search": DEFAULT_PROMPT},
        default_prompt_name="search",
    )
    model.save_pretrained(str(path))
    return path
