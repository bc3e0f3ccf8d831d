"""The conformance tests can fail: each fault is found by the tests that name it, and no test is without a fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from flag_rerank_integrations.testing import DocumentCompressorConformance, NodePostprocessorConformance

HERE = Path(__file__).parent
Outcomes = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What became of each test of each class of conformance_faults.py, run by a pytest of its own."""
    folder = tmp_path_factory.mktemp("faults")
    report = folder / "report.xml"
    # Neither this project's settings nor its fixtures: a user of the suite has none of them.
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options = ["-q", "--noconftest", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider"]
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", str(HERE / "conformance_faults.py")],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])},
    )  # fmt: skip
    assert answer.returncode == pytest.ExitCode.TESTS_FAILED, answer.stdout + answer.stderr
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - written a line above
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found.setdefault(case.attrib["classname"].rpartition(".")[2], {})[case.attrib["name"]] = outcome
    return found


def failed(tests: dict[str, str]) -> set[str]:
    return {name for name, outcome in tests.items() if outcome == "failed"}


@pytest.mark.parametrize("name", ["TestSoundCompressor", "TestSoundPostprocessor"])
def test_a_sound_reranker_passes_every_test(outcomes: Outcomes, name: str) -> None:
    assert set(outcomes[name].values()) == {"passed"}


def test_each_fault_is_found_by_the_tests_that_name_it(outcomes: Outcomes) -> None:
    import conformance_faults

    classes = {name: kind for name, kind in vars(conformance_faults).items() if name.startswith("Test")}
    faulty = {name: kind for name, kind in classes.items() if hasattr(kind, "breaks")}
    assert len(faulty) > 70
    missed = {
        name: missing
        for name, kind in faulty.items()
        if (missing := {f"test_{test}" for test in kind.breaks} - failed(outcomes[name]))
    }
    assert not missed
    controls = {f"test_{test}" for test in conformance_faults.CONTROLS}
    assert not [name for name in faulty if controls <= failed(outcomes[name])]


@pytest.mark.parametrize("suite", [DocumentCompressorConformance, NodePostprocessorConformance])
def test_every_test_names_a_fault(outcomes: Outcomes, suite: type) -> None:
    import conformance_faults

    named = {
        f"test_{test}"
        for kind in vars(conformance_faults).values()
        if isinstance(kind, type) and issubclass(kind, suite)
        for test in getattr(kind, "breaks", ())
    }
    tests = {name for name in dir(suite) if name.startswith("test_")}
    assert tests - named - {"test_overrides_are_explained"} == set()
