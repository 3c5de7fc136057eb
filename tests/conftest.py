"""What every test may use, what the examples in docstrings find defined, and the account of the
comparisons with PyTorch."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import minigrad as mg

passed, failed = set(), set()  # names that marks `peer(...)` gave to tests with that outcome


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace):
    """The names that the examples in docstrings take for granted."""
    doctest_namespace.update(mg=mg, np=np)


@pytest.fixture(autouse=True)
def shortcuts_on(request):
    """With the mark `accelerated`, of what a shortcut itself does, shortcuts are taken even where
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
    """After a whole run with PyTorch there: each tick of the README was earned in this run."""
    options = session.config.option
    partly = options.keyword or options.markexpr or options.deselect or options.collectonly
    whole = session.config.args == ["tests"] and not partly
    if exitstatus == 0 and whole and find_spec("torch"):
        from peers_table import marked_names

        idle = marked_names() - passed | failed
        if idle:
            print(f"\nnot compared with PyTorch in this run, though marked: {sorted(idle)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
