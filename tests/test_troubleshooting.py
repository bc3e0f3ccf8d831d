"""docs/troubleshooting.md: every error class is there, and every message it explains is one that the code can give."""

from __future__ import annotations

import ast
import re

import pytest
from guide_pages import ROOT

from flag_rerank_integrations import errors

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
GAP = "\0"


def text_of(node: ast.AST) -> str | None:
    """A string as the source has it, with a gap where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:\.\d)?[sdrf]", GAP, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    return None


def source_texts() -> str:
    """All strings of the package, one a line."""
    found = []
    for path in (ROOT / "flag_rerank_integrations").rglob("*.py"):
        found += [text_of(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return "\n".join(text.replace("\n", " ") for text in found if text)


def messages() -> list[str]:
    """The messages that the page's tables explain."""
    sections = PAGE.partition("## ConfigError")[2].partition("## Results that surprise")[0]
    return re.findall(r"^\| `([^`]+)` \|", sections, re.MULTILINE)


SOURCE = source_texts()


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_class_is_explained(name: str) -> None:
    kind = getattr(errors, name)
    (row,) = re.findall(rf"^\| \[?`{name}`.*$", PAGE, re.MULTILINE)
    assert any(f"`{base.__name__}`" in row.split("|")[2] for base in kind.__bases__)
    assert kind is errors.RerankError or re.search(rf"^## .*\b{name}\b", PAGE, re.MULTILINE)


def test_all_is_the_whole_tree() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {kind.__name__ for kind in own} == set(errors.__all__)
    assert all(issubclass(kind, errors.RerankError) for kind in own)


@pytest.mark.parametrize("message", messages())
def test_the_message_is_one_that_the_code_can_give(message: str) -> None:
    parts = [re.escape(part) for part in message.split("...")]
    filled = rf"[^\n]*{GAP}[^\n]*".join(parts)
    plain = r"[^\n]*".join(parts)
    assert re.search(filled, SOURCE) or re.search(plain, SOURCE), message


def test_there_are_messages() -> None:
    assert len(messages()) > 60
