"""Copies of LlamaIndex nodes: what happens to a copy does not reach the original."""

from __future__ import annotations

import copy

from llama_index.core.schema import BaseNode, MediaResource

__all__ = ["copy_node", "write_hidden"]


def copy_node(node: BaseNode) -> BaseNode:
    """Copy a node with its id, relationships and private attributes; media bytes are not duplicated.

    Metadata and relationships are copied in depth; a live object among them that refuses to be
    copied, such as a lock, is shared as it is.
    """
    copied = node.model_copy()
    # Straight into the fields: assigning would validate, and count them as set by the user.
    for name, value in vars(node).items():
        if isinstance(value, dict):
            vars(copied)[name] = {key: _copy_value(item) for key, item in value.items()}
        elif isinstance(value, list):
            vars(copied)[name] = list(value)
        elif isinstance(value, MediaResource):
            vars(copied)[name] = value.model_copy()
    return copied


def write_hidden(node: BaseNode, key: str, value: float | None) -> None:
    """Write into a node's metadata, and keep that out of the text that embedding models and LLMs read."""
    node.metadata[key] = value
    for excluded in (node.excluded_embed_metadata_keys, node.excluded_llm_metadata_keys):
        if key not in excluded:
            excluded.append(key)


def _copy_value(value: object) -> object:
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - a value's own __deepcopy__ may raise anything
        return value
