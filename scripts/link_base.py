"""Shows an empty environment the packages that a wheel needs without extras, and no others.

    python scripts/link_base.py WHEEL SITE_PACKAGES

Run it with the interpreter of an environment that has them: every file of these packages becomes a link in the
other environment's folder. That takes seconds where an installation would unpack torch a second time, and pip,
which sees the packages' metadata there, still says whether the wheel's requirements are met.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed_by(wheel: Path) -> dict[str, Distribution]:
    """Return the distributions that a wheel needs without extras, and what they need in turn, by name."""
    (root,) = distributions(path=[str(wheel)])
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "")]
    while waiting:
        holder, extra = waiting.pop()
        for requirement in map(Requirement, holder.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            for wanted in ("", *requirement.extras):
                if (name, wanted) not in seen:
                    seen.add((name, wanted))
                    found[name] = needed = _installed(requirement, holder)
                    waiting.append((needed, wanted))
    return found


def _installed(requirement: Requirement, holder: Distribution) -> Distribution:
    try:
        return distribution(requirement.name)
    except PackageNotFoundError:
        sys.exit(f"{holder.name} needs {requirement}, which is not installed in {sys.prefix}")


def link(needed: Distribution, folder: Path) -> int:
    """Link the files of a distribution into a folder, and return how many there are."""
    count = 0
    for file in needed.files or ():
        source, target = Path(str(needed.locate_file(file))), folder / file
        if ".." in file.parts or not source.exists():  # commands, which nobody calls here; files that were removed
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
        count += 1
    return count


def main() -> None:
    """Link what the wheel named first needs into the folder named second."""
    wheel, folder = map(Path, sys.argv[1:])
    needed = needed_by(wheel)
    files = sum(link(one, folder) for one in needed.values())
    print(f"linked {len(needed)} packages ({files} files): {', '.join(sorted(needed))}")


if __name__ == "__main__":
    main()
