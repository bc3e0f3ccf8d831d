"""One run over a corpus: which parts are left, Ray Data to rank them, and what came of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.corpus.manifest import claim, content_of
from flag_rerank_integrations.corpus.parts import Part, find_files, plan
from flag_rerank_integrations.corpus.storage import place_of
from flag_rerank_integrations.corpus.worker import Job, RankParts
from flag_rerank_integrations.errors import ConfigError, MissingExtraError, WorkerDied
from flag_rerank_integrations.executors.ray_cluster import connect, gpus_of_a_worker
from flag_rerank_integrations.executors.worker import error_of
from flag_rerank_integrations.inputs import checked_cut
from flag_rerank_integrations.ray_options import RayOptions, ray_options

__all__ = ["CorpusSummary", "rerank_corpus"]

# Each part travels to a worker by itself, as far as Ray Data's bookkeeping of blocks stays cheap.
_MOST_BLOCKS: Final = 10_000


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """What one run did."""

    parts: int
    """Parts of the corpus: the files in the output directory."""
    skipped_parts: int
    """Parts that were finished before."""
    rows: int
    """Rows read in this run."""
    failed_rows: int
    """Rows of this run without a ranking; their column `rank_error` says why."""
    seconds: float


def rerank_corpus(  # noqa: PLR0913 - what describes a run, by keyword
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    config: RerankConfig,
    *,
    top_n: int | None = None,
    score_threshold: float | None = None,
    query_column: str = "query",
    passages_column: str = "passages",
    part_bytes: int = 4 << 20,
    progress: bool = True,
) -> CorpusSummary:
    """Re-rank every row of a corpus with Ray Data; call it again to resume after an interruption.

    Each row has a query and its passages. What comes out has the same columns and two more:
    `ranking`, a list of index, score and truncated_tokens, best first, and `rank_error`, null
    unless the row could not be ranked. The corpus is cut into parts; each becomes one file of the
    output directory, in the format of its input and in order of the names, and appears only when
    it is complete. Parts whose file is there are passed over.

    Args:
        inputs: Files of JSON lines (.jsonl, .ndjson) or Parquet (.parquet, .pq), or directories of
            them; paths that every node sees, or URIs that pyarrow knows, such as "s3://...".
        output: A directory, or a URI likewise: new, empty, or of the run to resume.
        config: Names the model; its option `ray` says how many workers and what each of them gets.
            `timeout` is for each part.
        top_n: Most passages of a ranking; None is all.
        score_threshold: Passages with a lower score are left out, before `top_n` applies.
        query_column: The column with the query, a string.
        passages_column: The column with the passages, a list of strings.
        part_bytes: About how many bytes of text a part has; what is lost by an interruption is at
            most a few parts for each worker.
        progress: Whether to show a progress bar over the parts.

    Raises:
        ConfigError: An option is wrong, or the output directory holds something else.
        MissingExtraError: Ray, or a library that Ray Data needs, is not installed.
        InputError: An input cannot be found or read.
        ModelLoadError: The model cannot be loaded.
        WorkerError: Scoring failed; `WorkerDied` where a part has ended three workers, or Ray the run.
    """
    start = time.perf_counter()
    options = _checked(config, part_bytes)
    top_n, score_threshold = checked_cut(top_n, score_threshold)
    connect(options)
    _check_installed()
    names = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    files = find_files([os.fspath(name) for name in names])
    parts = plan(files, part_bytes)
    columns = {"query_column": query_column, "passages_column": passages_column}
    job = Job(
        files=tuple(files),
        output=place_of(os.fspath(output)),
        config=config,
        ranking={"top_n": top_n, "score_threshold": score_threshold, **columns},
    )
    finished = claim(job.output, _description(job, parts, part_bytes))
    left = [part for part in parts if part.output not in finished]
    rows = failed = 0
    bar = _bar(len(parts), len(parts) - len(left)) if progress else None
    with closing(_reports(job, left, options)) as reports:
        for report in reports:
            rows, failed = rows + report["rows"], failed + report["failed"]
            if bar is not None:
                bar.update(1)
    if bar is not None:
        bar.close()
    return CorpusSummary(len(parts), len(parts) - len(left), rows, failed, time.perf_counter() - start)


def _check_installed() -> None:
    """Refuse a Ray that was installed without its part for data."""
    try:
        import pyarrow.fs  # noqa: F401 - whether it is there is what matters
        import ray.data  # noqa: F401 - likewise
    except ImportError as error:
        msg = f"Ranking a corpus needs Ray Data ({error}): pip install 'flag-rerank-integrations[ray]'"
        raise MissingExtraError(msg, name=error.name) from error


def _checked(config: RerankConfig, part_bytes: int) -> RayOptions:
    """Refuse wrong options before anything is started, and return how to run."""
    if not isinstance(config, RerankConfig):
        msg = f"config must be a RerankConfig, not {type(config).__name__}."
        raise ConfigError(msg)
    if isinstance(part_bytes, bool) or not isinstance(part_bytes, int) or part_bytes < 1:
        msg = f"part_bytes must be a whole number of at least 1, not {part_bytes!r}."
        raise ConfigError(msg)
    options = ray_options(config.device, config.ray)
    if options is None and config.device != "auto":
        msg = f"A corpus is ranked on Ray, and device={config.device!r} is of this machine: use ray=RayOptions(...)."
        raise ConfigError(msg)
    return options or RayOptions()


def _description(job: Job, parts: Sequence[Part], part_bytes: int) -> dict[str, Any]:
    """Return all that the parts' contents depend on, as JSON values."""
    return {
        "files": [{"path": file.path, "size": file.size} for file in job.files],
        "part_bytes": part_bytes,
        "parts": len(parts),
        "config": content_of(job.config),
        **job.ranking,
    }


def _reports(job: Job, parts: Sequence[Part], options: RayOptions) -> Generator[dict[str, Any], None, None]:
    """Have parts ranked, and yield how each of them went as it is done.

    Raises:
        RerankError: One of them failed.
    """
    if not parts:
        return
    import ray

    try:
        for row in _dataset(job, parts, options).iter_rows():
            report = json.loads(row["report"])
            if "error" in report:
                raise error_of(report["error"], f"Ranking {report['part']} failed")
            yield report
    except ray.exceptions.RayError as error:
        told = " ".join(str(error).split())[-500:]
        msg = f"Ray ended the run; finished parts are kept: {told}"
        raise WorkerDied(msg) from error


def _dataset(job: Job, parts: Sequence[Part], options: RayOptions) -> Any:  # noqa: ANN401 - a ray.data.Dataset
    """Describe the work to Ray Data: rows are parts, and what comes out are reports."""
    import ray.data

    items = [{"part": json.dumps(asdict(part))} for part in parts]
    blocks = min(len(items), _MOST_BLOCKS)
    dataset = ray.data.from_items(items, override_num_blocks=blocks)
    dataset.context.enable_progress_bars = False  # they would count blocks
    return dataset.map_batches(
        RankParts,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(options.num_workers, blocks)),
        num_cpus=options.num_cpus,
        num_gpus=gpus_of_a_worker(options),
        **{name: value for name in ("resources", "runtime_env") if (value := getattr(options, name))},
    )


def _bar(total: int, finished: int) -> Any:  # noqa: ANN401 - tqdm has no types
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=finished, unit="part", desc="re-ranking")
