"""A judged set: queries, passages, and which passages are relevant for which query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flag_rerank_integrations.errors import ConfigError, InputError
from flag_rerank_integrations.evaluation.qrels import read_qrels
from flag_rerank_integrations.evaluation.texts import read_texts

__all__ = ["JudgedSet"]

_PACKED: Final = ".gz"


@dataclass(frozen=True)
class JudgedSet:
    """Queries and passages by id, and the judgements that join them."""

    queries: Mapping[str, str]
    """Texts by query id."""
    corpus: Mapping[str, str]
    """Texts by passage id."""
    qrels: Mapping[str, Mapping[str, int]]
    """Grades by query id and passage id; above 0 is relevant, what is not there counts as 0."""
    name: str = "judged set"
    """What to call it in reports."""

    @classmethod
    def from_folder(  # noqa: PLR0913 - one for each file
        cls,
        folder: str | Path = ".",
        *,
        split: str = "test",
        corpus: str | Path | None = None,
        queries: str | Path | None = None,
        qrels: str | Path | None = None,
        only: Collection[str] | None = None,
    ) -> JudgedSet:
        """Read a folder in BEIR's layout; every file may be gzipped, and be named by itself.

        Args:
            folder: Has corpus.jsonl, queries.jsonl, and qrels/SPLIT.tsv or qrels.tsv.
            split: Which judgements to read where the folder has several.
            corpus: The passages, instead of the folder's; see `read_texts`.
            queries: The queries, instead of the folder's; see `read_texts`.
            qrels: The judgements, instead of the folder's; see `read_qrels`.
            only: Ids of the passages to keep, where not all are needed; None keeps all.

        Raises:
            InputError: A file is missing or wrong; the message names the file and the line.
        """
        home = Path(folder)
        judgements = qrels or _found(home, f"qrels/{split}.tsv", "qrels.tsv")
        return cls(
            queries=read_texts(queries or _found(home, "queries.jsonl", "queries.tsv")),
            corpus=read_texts(corpus or _found(home, "corpus.jsonl", "corpus.tsv"), only),
            qrels=read_qrels(judgements),
            name=home.resolve().name or "judged set",
        )

    def asked(self) -> list[str]:
        """Return the ids of the queries that have a text and at least one judgement, in the queries' order."""
        return [query for query in self.queries if self.qrels.get(query)]

    def limited(self, count: int | None) -> JudgedSet:
        """Return the set with at most so many of its judged queries, spread evenly over their order.

        Neighbours in a file are often about the same passage: the first so many would be fewer
        questions than they seem.

        Raises:
            ConfigError: `count` is no whole number of at least 1.
        """
        if count is None:
            return self
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            msg = f"The number of queries must be a whole number of at least 1, not {count!r}."
            raise ConfigError(msg)
        asked = self.asked()
        kept = [asked[place * len(asked) // count] for place in range(count)] if count < len(asked) else asked
        return replace(
            self,
            queries={query: self.queries[query] for query in kept},
            qrels={query: self.qrels[query] for query in kept},
        )


def _found(folder: Path, *names: str) -> Path:
    """Return the first of some files that is there, gzipped or not."""
    for name in names:
        for path in (folder / name, folder / f"{name}{_PACKED}"):
            if path.is_file():
                return path
    msg = f"{folder} has no {' nor '.join(names)}; BEIR's layout is corpus.jsonl, queries.jsonl and qrels/test.tsv"
    raise InputError(msg)
