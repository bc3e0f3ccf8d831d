"""The re-ranking postprocessor where users of LlamaIndex look for one."""

from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

__all__ = ["FlagRerankPostprocessor"]
