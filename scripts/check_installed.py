"""Checks an installed wheel from inside its environment; run by scripts/check_package.sh."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import flag_rerank_integrations as package

EXPECTED = {
    "flag_rerank_integrations/__init__.py",
    "flag_rerank_integrations/py.typed",
    "llama_index/postprocessor/flag_rerank/__init__.py",
}
# These would hide the rest of LlamaIndex's namespace package.
UNWANTED = {"llama_index/__init__.py", "llama_index/postprocessor/__init__.py"}
FOLDERS = {"flag_rerank_integrations", "llama_index"}


def check_files() -> None:
    """Hold the installed files against what the wheel must and must not carry."""
    files = {file.as_posix() for file in distribution("flag-rerank-integrations").files or ()}
    folders = {file.split("/")[0] for file in files}
    problems = [f"missing: {file}" for file in sorted(EXPECTED - files)]
    problems += [f"unwanted: {file}" for file in sorted(UNWANTED & files)]
    problems += [
        f"stray: {folder}"
        for folder in sorted(folders - FOLDERS)
        if folder != ".." and not folder.endswith(".dist-info")
    ]
    if not Path(package.__file__).is_relative_to(sys.prefix):
        problems.append(f"imported from elsewhere: {package.__file__}")
    if problems:
        sys.exit("\n".join(problems))


def check_use() -> None:
    """Import every module, rank with the quickstart model, and start the command."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in names:
        if not name.endswith("__main__"):
            import_module(name)
    ours = import_module("flag_rerank_integrations.llama_index").FlagRerankPostprocessor
    if import_module("llama_index.postprocessor.flag_rerank").FlagRerankPostprocessor is not ours:
        sys.exit("the LlamaIndex namespace holds another FlagRerankPostprocessor")
    with package.Reranker("quickstart", device="cpu") as reranker:
        best = reranker.rank("What do pandas eat?", ["The Nile is a river.", "Pandas eat bamboo."], top_n=1)[0]
    if best.index != 1:
        sys.exit(f"the quickstart model ranked {best} first")
    subprocess.run([Path(sys.executable).with_name("flag-rerank"), "--version"], check=True)  # noqa: S603 - our own command
    print(f"the wheel's {len(names)} modules import, and it ranks: {best}")


if __name__ == "__main__":
    check_files()
    check_use()
