"""Fetching a model's files from the hub or its cache, and saying what to do where that fails."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from flag_rerank_integrations.config import RerankConfig
from flag_rerank_integrations.errors import ModelLoadError
from flag_rerank_integrations.families.weight_files import PICKLES, pickle_error

__all__ = ["fetch"]

logger: Final = logging.getLogger(__name__)

_NO_PLACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_NO_ACCESS: Final = (401, 403)
_SMALL_FILES: Final = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS: Final = ("*.safetensors",)
_ONNX_WEIGHTS: Final = tuple(
    f"{folder}model.onnx{ending}" for folder in ("", "onnx/") for ending in ("", "_data", ".data")
)


def fetch(config: RerankConfig) -> Path:
    """Fetch the files that are needed, and no pickled weights unless they are allowed and there are no others.

    The network is used as far as needed: files in the cache are not fetched again, and a download that was
    broken off goes on where it stopped. The token is that of the hub's own client: HF_TOKEN, or a login.

    Returns:
        The directory of the model's files.

    Raises:
        ModelLoadError: There is no such model, it could not be fetched, or has only pickled weights.
    """
    onnx = "onnx" in (config.backend, config.family)
    code = ("*.py",) if config.trust_remote_code else ()
    folder = _snapshot(config, (*_SMALL_FILES, *(_ONNX_WEIGHTS if onnx else _WEIGHTS), *code))
    if not onnx and not any(folder.rglob("*.safetensors")):
        if config.allow_pickle:
            return _snapshot(config, (*_SMALL_FILES, *PICKLES, *code))
        _refuse_pickles(config)
    return folder


def _snapshot(config: RerankConfig, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            config.model,
            revision=config.revision,
            cache_dir=config.cache_dir,
            local_files_only=config.local_files_only,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # errors of the hub, of its transport and of the file system share no base
        raise ModelLoadError(_explained(error, config)) from error
    return Path(folder)


def _refuse_pickles(config: RerankConfig) -> None:
    """Refuse a repository that has pickled weights and no others, as far as can be told."""
    from huggingface_hub import snapshot_download

    if config.local_files_only:
        return
    try:
        files = snapshot_download(
            config.model,
            revision=config.revision,
            cache_dir=config.cache_dir,
            allow_patterns=list(PICKLES),
            dry_run=True,
        )
    except Exception:  # the files at hand will be judged without it
        logger.debug("The files of %s could not be listed.", config.model, exc_info=True)
        return
    if files:
        raise pickle_error(config, files[0].filename)


def _explained(error: Exception, config: RerankConfig) -> str:
    """Say what went wrong and what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_in_cache(error, config)
    if isinstance(error, errors.HfHubHTTPError):
        return _refused_by_hub(error, config)
    name, said = repr(config.model), _said(error)
    if isinstance(error, errors.HFValidationError):
        return f"{name} is neither a local directory nor a hub id such as 'BAAI/bge-reranker-v2-m3' ({said})."
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return f"{name} cannot be written to the cache ({said}). Make room, or set cache_dir to another directory."
    return f"{name} could not be fetched ({said}). Try again: a download that was broken off goes on where it stopped."


def _refused_by_hub(error: Any, config: RerankConfig) -> str:  # noqa: ANN401 - huggingface_hub is imported late
    """Put the hub's refusal into words."""
    from huggingface_hub import errors, get_token

    name = repr(config.model)
    token = "the one that is set was not accepted" if get_token() else "none is set"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} is gated. Accept its terms on its page, and set HF_TOKEN to a token of that account ({token})."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no {name} on the hub, nor a local directory of that name. Check the spelling; a private model "
            f"needs HF_TOKEN ({token})."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {config.revision!r}. Give one of its branches, tags or commits."
    status = error.response.status_code
    advice = f"A token is needed: HF_TOKEN ({token})." if status in _NO_ACCESS else "Try again later."
    return f"{name} could not be fetched: the hub answered {status} ({_said(error)}). {advice}"


def _not_in_cache(error: Exception, config: RerankConfig) -> str:
    """Tell a model that is not there from half of one, and a network that is off from one that fails."""
    from huggingface_hub import constants, errors

    where = f"the cache ({config.cache_dir or constants.HF_HUB_CACHE})"
    partly = isinstance(error, errors.IncompleteSnapshotError)
    state = f"{config.model!r} is {'only in part' if partly else 'not'} in {where}"
    if config.local_files_only:
        return f"{state}, and local_files_only=True forbids the network. Load it once with local_files_only=False."
    if constants.HF_HUB_OFFLINE:
        return f"{state}, and HF_HUB_OFFLINE forbids the network. Load it once without that variable."
    cause = _said(error.__cause__ or error)
    return f"{state}, and the hub at {constants.ENDPOINT} cannot be reached ({cause}). Check the network."


def _said(error: BaseException) -> str:
    line = next((line for line in str(error).strip().splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.strip()[:300]}"
