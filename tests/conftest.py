"""For the whole suite: with CI=true nothing may be skipped.

A test that needs a component of the operating system skips where the component is missing, and
pytest lists it (`-ra`). Where CI=true is set, such a skip is a failure: the machine was to install
everything that packaging/debian-test-packages.txt names.
"""

import os

import pytest

# onnxruntime would report its use to its maker; our programs say no, and so do their tests.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

STRICT = os.environ.get("CI") == "true"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {item.nodeid}: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {collector.nodeid}: {report.longrepr}"
    return report
