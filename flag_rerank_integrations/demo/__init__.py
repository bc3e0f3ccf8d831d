"""The main job: retrieve, re-rank through LangChain and LlamaIndex with one shared model, and measure.

Passages are the docstrings of this Python's own standard library, the first stage is BM25, and
the questions are judged. `run` does the work, `report` puts it into words. Importing this package
imports neither torch nor a framework.
"""

from __future__ import annotations

from flag_rerank_integrations.demo.report import as_dict, as_text
from flag_rerank_integrations.demo.run import DEFAULT_TOP_K, DemoResult, missing_distributions, run

__all__ = ["DEFAULT_TOP_K", "DemoResult", "as_dict", "as_text", "missing_distributions", "run"]
