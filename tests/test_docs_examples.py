"""docs/examples.md leads to its own parts; test_guides.py runs its examples."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "examples.md").read_text(encoding="utf-8")


def test_the_pages_own_links_lead_to_its_headings() -> None:
    targets = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert targets == {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
