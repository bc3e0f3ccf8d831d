"""LlamaIndex nodes: what may come in, and copies whose changes do not reach the original."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llama_index.core.schema import BaseNode, MediaResource, NodeWithScore, QueryBundle

from flag_rerank_integrations.errors import InputError
from flag_rerank_integrations.wrapping import copied_metadata

__all__ = ["checked_call", "copy_node", "write_hidden"]


def checked_call(nodes: Sequence[NodeWithScore], query_bundle: QueryBundle | None) -> tuple[str, list[NodeWithScore]]:
    """Return the query and the nodes, or say what is wrong with them, before any event is sent."""
    if query_bundle is None:
        msg = "Missing query bundle in extra info."  # as LlamaIndex's own postprocessors word it
        raise InputError(msg)
    if not isinstance(query_bundle, QueryBundle):
        msg = f"query_bundle must be a QueryBundle, not {type(query_bundle).__name__}; a string goes in query_str=."
        raise InputError(msg)
    if not isinstance(query_bundle.query_str, str):
        msg = f"The query must be a string, not {type(query_bundle.query_str).__name__}."
        raise InputError(msg)
    if isinstance(nodes, NodeWithScore | BaseNode | str | Mapping | set) or not isinstance(nodes, Iterable):
        msg = f"nodes must be a list of NodeWithScore, not {type(nodes).__name__}."
        raise InputError(msg)
    items = list(nodes)
    for position, item in enumerate(items):
        if not isinstance(item, NodeWithScore):
            msg = f"nodes[{position}] must be a NodeWithScore, not {type(item).__name__}."
            raise InputError(msg)
    return query_bundle.query_str, items


def copy_node(node: BaseNode) -> BaseNode:
    """Copy a node with its id, relationships and private attributes; media bytes are not duplicated.

    Metadata and relationships are copied in depth; a live object among them that refuses to be
    copied, such as a lock, is shared as it is.
    """
    copied = node.model_copy()
    # Straight into the fields: assigning would validate, and count them as set by the user.
    for name, value in vars(node).items():
        if isinstance(value, dict):
            vars(copied)[name] = copied_metadata(value)
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
