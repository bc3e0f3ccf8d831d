"""How Sphinx builds this site; scripts/build_docs.sh runs it."""
# ruff: noqa: INP001 - what Sphinx reads is no package

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # document this tree, whatever else is installed

from flag_rerank_integrations import __version__  # noqa: E402 - found by the line above

project = "flag-rerank-integrations"
author = "The flag-rerank-integrations authors"
copyright = author  # noqa: A001 - Sphinx's own name for it
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "code"
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# Notebooks come with the outputs that their own tests have made.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100  # beyond it each parameter has a line
toc_object_entries_show_parents = "hide"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
# The build uses no network, and so knows no names of other projects and of the standard library.
_FOREIGN = (
    *("argparse", "collections", "concurrent", "logging", "os", "pathlib", "types", "typing", "typing_extensions"),
    *("annotated_types", "langchain_classic", "langchain_core", "llama_index", "llama_index_instrumentation"),
    *("numpy", "opentelemetry", "prometheus_client", "pyarrow", "pydantic", "pydantic_core", "ray", "torch"),
    *("_pytest", "pytest"),
)
nitpick_ignore_regex = [(r"py:.*", rf"({'|'.join(_FOREIGN)})\..*")]
nitpick_ignore = [
    ("py:class", "flag_rerank_integrations.lifetime.Options"),  # a type variable
    ("py:class", "Options"),
    ("py:class", "BaseDocumentCompressor"),  # LangChain's, as written in annotations
    ("py:class", "RetrieverLike"),
    ("py:class", "HasStats"),  # as written in annotations, without its module
    ("py:class", "Metric"),  # the Prometheus client's
    ("py:class", "MeterProvider"),  # OpenTelemetry's
    ("py:class", "RerankOptions"),  # the options of RerankConfig, for type checkers
]

# Pages may link to files beside docs/, as they do where they are read in the repository.
_OUTSIDE = {
    "../README.md": "index.md",
    "../README.zh-CN.md": "zh/index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "reporting.md",
    "../benchmarks/README.md": "benchmarks.md",
    "../notebooks/": "notebooks/",
}
_LINK = re.compile(r"\]\((?P<up>(?:\.\./)*)(?P<target>[^)\s]+)\)")


def _copy_notebooks() -> None:
    """Bring the notebooks to where Sphinx looks; git ignores the copies."""
    copies = ROOT / "docs" / "notebooks"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copyfile(path, copies / path.name)


_as_written: dict[str, list[str]] = {}


def _keep(_app: Any, what: str, name: str, _documented: object, _options: object, lines: list[str]) -> None:  # noqa: ANN401
    """Note what an attribute's text is before Napoleon takes the words before a colon for its type."""
    if what in ("attribute", "data", "property"):
        _as_written[name] = list(lines)


def _restore(_app: Any, _what: str, name: str, _documented: object, _options: object, lines: list[str]) -> None:  # noqa: ANN401
    """Undo what Napoleon did to an attribute's text."""
    if name in _as_written:
        lines[:] = _as_written.pop(name)


def _valid_signature(
    _app: Any,  # noqa: ANN401 - sphinx.application.Sphinx
    _what: str,
    _name: str,
    _documented: object,
    _options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Write a dataclass's default that is made anew each time as what Python can parse."""
    return (signature and signature.replace("<factory>", "..."), returned)


def _lead_inside(_app: Any, docname: str, source: list[str]) -> None:  # noqa: ANN401 - sphinx.application.Sphinx
    """Let links out of docs/ lead to the page of this site that has the same content."""
    depth = docname.count("/")

    def inside(found: re.Match[str]) -> str:
        up, target = found["up"], found["target"]
        if up.count("../") != depth + 1:
            return found[0]
        for outer, inner in _OUTSIDE.items():
            beside = outer.removeprefix("../")
            if target.startswith(beside):
                return f"]({'../' * depth}{inner}{target[len(beside) :]})"
        return found[0]

    source[0] = _LINK.sub(inside, source[0])


def _name_language(_app: Any, pagename: str, _template: str, context: dict[str, Any], _doctree: object) -> None:  # noqa: ANN401 - as above
    """Say that Chinese pages are Chinese: browsers choose glyphs, and screen readers voices, by it."""
    if pagename.startswith("zh/"):
        context["language"] = "zh-CN"


def setup(app: Any) -> None:  # noqa: ANN401 - sphinx.application.Sphinx
    """Prepare what is not there as Sphinx wants it."""
    _copy_notebooks()
    app.connect("source-read", _lead_inside)
    app.connect("html-page-context", _name_language)
    app.connect("autodoc-process-docstring", _keep, priority=400)  # before Napoleon, which has 500 ...
    app.connect("autodoc-process-docstring", _restore, priority=600)  # ... and after it
    app.connect("autodoc-process-signature", _valid_signature)
