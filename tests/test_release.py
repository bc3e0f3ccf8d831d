"""Releases: the changelog fits the version, and what is not ready is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from flag_rerank_integrations import __version__

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "release_notes.py"
READY = f"""# Changelog

## [Unreleased]

## [{__version__}] - 2026-01-31

### Added

- One thing.

### Fixed

- Another.

## [0.0.1] - 2025-12-24

### Added

- An older thing.
"""


def notes(text: str, folder: Path, tag: str = f"v{__version__}") -> subprocess.CompletedProcess[str]:
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(text, encoding="utf-8")
    command = [sys.executable, str(SCRIPT), tag, str(changelog)]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_the_notes_are_what_the_changelog_says_of_the_version(tmp_path: Path) -> None:
    done = notes(READY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "### Added\n\n- One thing.\n\n### Fixed\n\n- Another.\n"


@pytest.mark.parametrize(
    "text, tag, complaint",
    [
        (READY, "v9.9.9", "the tag is v9.9.9"),
        (READY.replace("## [Unreleased]\n", "## [Unreleased]\n\n### Added\n\n- More.\n"), None, "under [Unreleased]"),
        (READY.replace(" - 2026-01-31", ""), None, "has no date"),
        (READY.replace(f"## [{__version__}] - 2026-01-31\n", ""), None, "the newest entry must be"),
        (READY.replace("### Fixed", "### Mended"), None, "no kind of change 'Mended'"),
        (READY.replace("## [0.0.1] - 2025-12-24", "## 0.0.1"), None, "not a heading"),
    ],
)
def test_what_is_not_ready_is_refused(text: str, tag: str | None, complaint: str, tmp_path: Path) -> None:
    done = notes(text, tmp_path, tag or f"v{__version__}")
    assert done.returncode == 1
    assert not done.stdout
    assert complaint in done.stderr


def test_the_changelog_fits_the_version() -> None:
    """Every heading is of the known form; the newest release is the package's version, unless there is none yet."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import release_notes as notes; "
        "print(*[f'{e.version} {e.day}' for e in notes.read(notes.ROOT / 'CHANGELOG.md')], sep='\\n')"
    )
    command = [sys.executable, "-c", code, str(SCRIPT.parent)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    unreleased, *released = answer.stdout.splitlines()
    assert unreleased == "Unreleased None"
    assert not released or released[0].split()[0] == __version__
    days = [line.split()[1] for line in released]
    assert "None" not in days
    assert days == sorted(days, reverse=True)


def extras_with_the_oldest() -> list[str]:
    """The extras that scripts/test_oldest.sh installs."""
    script = (ROOT / "scripts" / "test_oldest.sh").read_text(encoding="utf-8")
    (line,) = re.findall(r"^extras=(\S+)$", script, flags=re.MULTILINE)
    return line.split(",")


def lower_bounds() -> dict[str, Version]:
    """What pyproject.toml asks for at least, by package; an exact pin is its own bound."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in extras_with_the_oldest() for text in extras[extra])]
    asked = [Requirement(text) for text in texts if not text.startswith("flag-rerank-integrations")]
    return {
        requirement.name: Version(bound.version)
        for requirement in asked
        for bound in requirement.specifier
        if bound.operator in (">=", "==")
    }


def test_the_oldest_releases_tested_are_the_lower_bounds() -> None:
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, flags=re.MULTILINE))
    bounds = lower_bounds()
    assert len(bounds) > 10
    assert {name: Version(pins[name]) for name in bounds} == bounds
