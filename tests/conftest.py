"""Fixtures for all tests, names defined for docstring examples, and the record of comparisons with
PyTorch."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import minigrad as mg

passed, failed = set(), set()  # names in marks `peer(...)` of tests with that outcome


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """The names that docstring examples use without defining them."""
    doctest_namespace.update(mg=mg, np=np)


@pytest.fixture(autouse=True)
def shortcuts_on(request):
    """Tests marked `accelerated` test the shortcuts themselves: they use them even if
    MINIGRAD_FAST=0 switches them off."""
    if request.node.get_closest_marker("accelerated") is None:
        yield
    else:
        with mg.autograd.accelerated():
            yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or report.skipped or report.failed:
        for mark in item.iter_markers("peer"):
            (passed if report.passed else failed).update(mark.args)
    return report


def pytest_sessionfinish(session, exitstatus):
    """After a complete run with PyTorch: every tick in the README passed in this run."""
    options = session.config.option
    partly = options.keyword or options.markexpr or options.deselect or options.collectonly
    whole = session.config.args == ["tests"] and not partly
    if exitstatus == 0 and whole and find_spec("torch"):
        from peers_table import marked_names

        idle = marked_names() - passed | failed
        if idle:
            print(f"\nnot compared with PyTorch in this run, though marked: {sorted(idle)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
