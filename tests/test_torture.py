"""The checks of `make torture` detect what they should, and the page has its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minigrad as mg

pytest.importorskip("hypothesis")
pytest.importorskip("resource")
from torture import Result, allocations, interrupts, leaks, report, ulps

TORN = mg.tensor([1.0, 2.0], requires_grad=True)


def clean():
    (TORN * 2.0).sum().backward()


kept = []


def hoards_tensors():
    kept.append(TORN * 2.0)


def makes_cycles():
    y = TORN * 2.0
    y.register_hook(lambda g, y=y: None)


@pytest.mark.skipif(not leaks.STATUS.exists(), reason="no /proc here")
def test_leaks_are_noticed():
    assert leaks.growth(clean, 100)[0] == 0
    for step in (hoards_tensors, makes_cycles):
        assert leaks.growth(step, 100)[0] >= 100
    kept.clear()


def test_errors_in_units_in_the_last_place():
    exact = np.array([1.0, 1.0, 1e-46, np.inf, np.nan, 3.5e38, 1.0, np.nan, -np.inf])
    found = np.array([1 + 2**-23, 1 - 2**-24, 0, np.inf, np.nan, np.inf, np.inf, 1, np.inf], "f")
    errors = ulps.errors(found, exact)
    np.testing.assert_allclose(errors[:6], [1, 0.5, 1e-46 * 2**149, 0, 0, 0], atol=1e-12)
    assert (errors[6:] > 1e6).all()


def test_a_function_that_is_a_little_wrong_is_noticed(monkeypatch):
    monkeypatch.setattr(mg, "tanh", lambda x: mg.asarray(np.tanh(x.numpy()) * np.float32(1 + 1e-6)))
    x = ulps.floats(97 * 5000)
    assert ulps.worst("tanh", x, np.tanh)[0] > 8 > ulps.worst("sin", x, np.sin)[0]


@pytest.mark.parametrize("kind", interrupts.SCENES)
def test_an_uninterrupted_scene_is_sound(kind, tmp_path):
    run, sound = getattr(interrupts.Scene(tmp_path), kind)()
    run()
    assert sound()


def test_what_is_half_done_is_noticed(tmp_path):
    scene = interrupts.Scene(tmp_path)
    _, sound = scene.backward()
    scene.parameters[0].grad = mg.ones_like(scene.parameters[0])
    assert not sound()
    _, sound = scene.step()
    with mg.no_grad():
        scene.parameters[0] += 1.0
    assert not sound()
    _, sound = scene.save()
    mg.save({"x": mg.ones(300, 300), "y": [mg.zeros(10)]}, scene.path)
    assert not sound()


NUMPY = 'File "/x/site-packages/numpy/lib/pad.py", line 3 in _pad'
OURS = 'File "minigrad/nn/conv.py", line 2 in conv2d'
FAULTS = [
    (f"Segmentation fault\n{NUMPY}\n{OURS}", "NumPy's _pad"),
    (f"Segmentation fault\n{OURS}\n{NUMPY}", ""),
    ("Segmentation fault", ""),
    (f"{OURS}\n{NUMPY}\nSystemError: <ufunc> returned NULL", ""),
    (f"{OURS}\n{NUMPY}\nValueError: nothing", ""),
]


@pytest.mark.parametrize(("fault", "foreign"), FAULTS)
def test_only_crashes_of_others_are_let_pass(fault, foreign):
    assert allocations.foreign(fault) == foreign


def test_a_crash_over_the_items_of_a_dict_is_cpythons(tmp_path):
    (tmp_path / "ours.py").write_text("for key in d:\n    for key, x in d.items():\n")
    for line, culprit in ((1, ""), (2, "CPython's dict.items")):
        fault = f'Segmentation fault\nFile "{tmp_path}/ours.py", line {line} in f'
        assert allocations.foreign(fault) == culprit


def test_two_shares_add_up():
    first, second = (
        Result("files", 2, ["one"], {"loaded": 1}),
        Result("files", 3, [], {"refused": 2}),
    )
    both = first + second
    assert both.count == 5 and both.failures == ["one"]
    assert both.notes == {"loaded": 1, "refused": 2}


@pytest.mark.skipif(not report.RESULTS.exists(), reason="no whole run yet")
def test_the_page_has_the_figures_of_the_last_run():
    known = json.loads(report.RESULTS.read_text())
    page = (report.ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
    for block in (report.table(known), report.ulps(known)):
        assert block in page, "python tests/torture/report.py writes them"
    assert not [name for name, result in known.items() if result["failures"]]
