"""Prints what CHANGELOG.md says of a release, and refuses one that is not ready.

    python scripts/release_notes.py v0.2.0 [CHANGELOG.md]

Ready means: the tag is that of the package's version, the newest entry is that version's, it has a date and says
something, and nothing is left under Unreleased.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNRELEASED = "Unreleased"
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<day>\d{4}-\d{2}-\d{2}))?$")


@dataclass(frozen=True)
class Entry:
    """What a changelog says of one version."""

    version: str
    day: date | None
    text: str


def package_version() -> str:
    """Return the version in the package's source, without importing it."""
    source = (ROOT / "flag_rerank_integrations" / "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(version))):
                return version
    sys.exit("flag_rerank_integrations/__init__.py has no __version__")


def read(changelog: Path) -> list[Entry]:
    """Return the entries of a changelog from top to bottom; a heading that is of no known form ends the program."""
    parts = re.split(r"^(?=## )", changelog.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [_entry(part) for part in parts[1:]]


def _entry(part: str) -> Entry:
    heading, _, text = part.partition("\n")
    found = HEADING.match(heading.rstrip())
    if found is None:
        sys.exit(f"not a heading of Keep a Changelog: {heading!r}")
    strange = [kind for kind in re.findall(r"^### (.*)$", text, flags=re.MULTILINE) if kind.strip() not in KINDS]
    if strange:
        sys.exit(f"{heading}: there is no kind of change {strange[0]!r}; there are {', '.join(KINDS)}")
    day = date.fromisoformat(found["day"]) if found["day"] else None
    return Entry(found["version"], day, text.strip())


def problems(tag: str, version: str, entries: list[Entry]) -> list[str]:
    """Return why this version cannot be released under this tag; nothing where it can."""
    found = [] if tag == f"v{version}" else [f"the tag is {tag}, and the package's version is {version}"]
    left = [entry for entry in entries if entry.version == UNRELEASED and entry.text]
    released = [entry for entry in entries if entry.version != UNRELEASED]
    if left:
        found.append("there are changes under [Unreleased]: move them to the version's own heading")
    if not released or released[0].version != version:
        return [*found, f"the newest entry must be '## [{version}] - YYYY-MM-DD'"]
    if released[0].day is None:
        found.append(f"the entry of {version} has no date")
    if not released[0].text:
        found.append(f"the entry of {version} is empty")
    return found


def main() -> None:
    """Print the notes of the release that a tag names."""
    tag, *rest = sys.argv[1:]
    version, entries = package_version(), read(Path(rest[0]) if rest else ROOT / "CHANGELOG.md")
    if wrong := problems(tag, version, entries):
        sys.exit("\n".join(wrong))
    print(next(entry.text for entry in entries if entry.version == version))


if __name__ == "__main__":
    main()
