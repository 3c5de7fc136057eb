"""The benchmarks run and report; nothing is timed here, since tests must not depend on speed."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
MODULES = ("machine", "contenders", "plots", "run", "scaling", "defaults", "estimators")
PEERS = ("torch", "jax")


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmarks, which are not in a package; no peer is available."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        names = MODULES if _has_matplotlib() else [name for name in MODULES if name != "plots"]
        modules = SimpleNamespace(**{name: import_module(name) for name in names})
        for module in (modules.machine, modules.contenders):
            find = module.find_spec
            patch.setattr(module, "find_spec", lambda name, find=find: _unless_peer(name, find))
        yield modules
        for name in names:
            del sys.modules[name]


def _has_matplotlib() -> bool:
    try:
        import_module("matplotlib")
    except ImportError:
        return False
    return True


def _unless_peer(name, find):
    return None if name in PEERS else find(name)


@pytest.fixture
def results(bench):
    """A row that has reached its targets, one that has not, and one with an absolute limit."""
    table = bench.contenders
    works = [
        ("steps", table.Work("quick", {}, {"torch": 0.5, "jax": 1.0}), (1.0, 3.0, 2.0)),
        ("steps", table.Work("slow", {}, {"torch": 0.5}), (2.0, 3.0, 2.0)),
        ("process", table.Work("load", {}, unit="ms", at_most=50), (60.0, 900.0, 300.0)),
    ]
    names = ("minigrad", "torch", "jax")
    rows = [
        bench.run.make_row(
            group, work, {name: [v, 2 * v, 3 * v] for name, v in zip(names, values, strict=True)}
        )
        for group, work, values in works
    ]
    return {"machine": bench.machine.describe(), "rows": rows}


def test_every_row_has_a_minigrad_contender_a_target_and_a_name_of_its_own(bench):
    rows = [work for group in bench.contenders.WORK.values() for work in group]
    assert len({work.name for work in rows}) == len(rows)
    for work in rows:
        assert "minigrad" in work.contenders
        assert work.targets or work.at_most, work.name
        assert set(work.targets) <= set(work.contenders)


def test_the_small_rows_run(bench):
    work = bench.contenders.WORK
    kernels = [row for row in work["kernels"] if "4096" in row.name or "(64, 64)" in row.name]
    assert len(kernels) == 17
    for row in [*work["steps"][:4], work["batchnorm"][0], *kernels]:
        row.contenders["minigrad"]()()
        if "numpy" in row.contenders:
            row.contenders["numpy"]()()


def test_functions_are_measured_on_request_and_agree_with_numpy(bench):
    table = bench.contenders
    assert set(table.ON_REQUEST) <= set(table.WORK)
    for name in ("softplus", "logsumexp", "vecdot", "scatter_add along 1", "einsum ij,j->ij"):
        row = next(work for work in table.WORK["functions"] if work.name.startswith(name))
        ours, theirs = (row.contenders[who]()() for who in ("minigrad", "numpy"))
        np.testing.assert_allclose(ours.numpy(), theirs, 1e-4, 1e-3)


def test_the_loss_and_its_composition_agree(bench):
    norm, loss = bench.contenders.WORK["composed"]
    norm.contenders["minigrad composed"]()()
    ours, composed = (make()().item() for make in loss.contenders.values())
    assert ours == pytest.approx(composed, rel=1e-6)


def test_processes_of_their_own(bench):
    assert bench.contenders.in_process("import minigrad; print(1.5)") == 1.5
    assert 0 < bench.contenders.import_time("minigrad")() < 60_000
    used = bench.contenders.step_memory(bench.contenders.step_minigrad, (4, 4, 2), 4)
    assert 0 <= used < 10_000


def test_a_run_writes_well_formed_json(bench, tmp_path, capsys):
    path = tmp_path / "new" / "figures.json"
    arguments = ["--match", "exp of (4096", "--rounds", "2", "--seconds", "1e-5", "--json"]
    bench.run.main([*arguments, str(path)])
    printed = capsys.readouterr().out
    assert "exp of (4096,)" in printed
    assert "of 1 rows reached" in printed
    written = json.loads(path.read_text(encoding="utf-8"))
    assert set(written) == {"machine", "rows"}
    assert set(written["machine"]["libraries"]) == {"minigrad", "numpy"}
    for library in written["machine"]["libraries"].values():
        assert library["version"]
        assert library["blas"]
        assert library["instruction_set"]
    (row,) = written["rows"]
    assert (row["group"], row["unit"]) == ("kernels", "us")
    for figures in row["contenders"].values():
        low, high = figures["quartiles"]
        assert 0 < low <= figures["median"] <= high < math.inf
        assert len(figures["samples"]) == 2
    (target,) = row["targets"]
    assert (target["against"], target["at_most"]) == ("numpy", 1.0)
    assert target["reached"] == (target["value"] <= 1.0)
    assert path.with_suffix(".png").exists() == _has_matplotlib()


def test_what_users_get_is_measured_in_processes_of_their_own(bench, tmp_path, capsys):
    assert len({row.name for row in bench.defaults.rows()}) == len(bench.defaults.rows())
    path = tmp_path / "figures.json"
    match = ["--match", "64x64 @ 64x64, float32"]
    arguments = [*match, "--rounds", "2", "--seconds", "1e-5", "--json", str(path)]
    bench.run.main(["default", "busy", *arguments])
    assert "minigrad / minigrad on one thread = " in capsys.readouterr().out
    idle, busy = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert (idle["group"], busy["group"]) == ("default", "busy")
    for row, peer, lost in ((idle, 1.0, 1.03), (busy, 0.5, 1.25)):
        assert set(row["contenders"]) == {
            f"{name}{threads}"
            for name in ("minigrad", "numpy")
            for threads in ("", " on one thread")
        }
        at_most = {target["against"]: target["at_most"] for target in row["targets"]}
        assert at_most == {"numpy": peer, "minigrad on one thread": lost}
    with pytest.raises(SystemExit):
        bench.run.main(["default", "steps"])


def test_the_nets_of_the_default_rows_run(bench):
    new = ("transformer", "LSTM", "GRU", "x + y", "64x64")
    rows = [row for row in bench.defaults.rows() if row.name.startswith(new)]
    assert len(rows) == 6
    for row in rows:
        row.contenders["minigrad"]()()


def test_whole_fits_are_measured(bench, tmp_path, capsys):
    pytest.importorskip("sklearn")
    names = [fit.name for fit in bench.estimators.rows()]
    assert len(set(names)) == len(names) == 13
    path = tmp_path / "figures.json"
    arguments = ["--match", "digits, 16-16, batch 200", "--rounds", "2", "--json", str(path)]
    bench.run.main(["estimators", *arguments])
    assert "minigrad / scikit-learn = " in capsys.readouterr().out
    time, error = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert (time["unit"], error["unit"]) == ("ms", "%")
    assert (time["targets"][0]["at_most"], error["targets"][0]["at_most"]) == (0.25, 1.0)
    for row in (time, error):
        assert set(row["contenders"]) == {"minigrad", "scikit-learn"}
    assert all(0 < figures["median"] < 20 for figures in error["contenders"].values())
    with pytest.raises(SystemExit):
        bench.run.main(["estimators", "steps"])


def test_the_verdict_names_the_rows_that_fall_short(bench, results):
    lines = bench.run.verdict(results["rows"]).splitlines()
    assert lines == [
        "1 of 3 rows reached:",
        "  not reached: slow: 0.667 torch, to reach 0.500",
        "  not reached: load: 120.000 ms, to reach 50.000",
    ]
    shown = bench.run.show(results["rows"][1])
    assert "minigrad / torch = 0.667   to reach: 0.500 NOT YET" in shown


def test_a_row_without_a_peer_is_no_verdict(bench):
    work = bench.contenders.Work("alone", {}, {"torch": 0.5})
    row = bench.run.make_row("steps", work, {"minigrad": [1.0]})
    assert row["targets"] == []
    assert bench.run.verdict([row]).splitlines() == [
        "0 of 0 rows reached",
        "1 rows had no peer installed to compare with",
    ]


def test_the_table_goes_between_the_markers_however_often(bench, results, tmp_path):
    page = tmp_path / "README.md"
    original = (FOLDER / "README.md").read_text(encoding="utf-8")
    page.write_text(original, encoding="utf-8")
    bench.run.fill_readme(results, page)
    filled = page.read_text(encoding="utf-8")
    assert "| slow | 4.00 µs | 6.00 µs (**0.667 > 0.5**) | 4.00 µs (1) |" in filled
    assert "| load | 120 ms (**> 50**) | 1,800 ms (0.0667) | 600 ms (0.2) |" in filled
    begin = "<!-- results, by run.py --markdown -->"
    assert filled.partition(begin)[0] == original.partition(begin)[0]
    bench.run.fill_readme(results, page)
    assert page.read_text(encoding="utf-8") == filled
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        bench.run.fill_readme(results, page)
    assert page.read_text(encoding="utf-8") == "nothing"


def test_the_pictures_are_drawn(bench, results):
    pytest.importorskip("matplotlib")
    figure = bench.plots.comparison(results["rows"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "quick  (2 µs)",
        "slow  (4 µs)",
        "load  (120 ms)",
    ]
    bar = SimpleNamespace(set_description=str, update=lambda: None)
    panels = bench.scaling.panels()
    for panel in panels:
        panel.sizes = panel.sizes[:2]
    measured = [bench.scaling.measure(panel, 1, 1e-6, bar) for panel in panels]
    for panel in measured:
        assert [point["size"] for point in panel["contenders"]["minigrad"]] == sorted(
            point["size"] for point in panel["contenders"]["minigrad"]
        )
        assert "minigrad" in bench.scaling.show(panel)
    assert len(bench.plots.curves(measured).axes) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "unknown group nonsense"),
        (["--match", "no such row"], "no row's name contains"),
        (["--rounds", "0"], "must be positive"),
        (["--markdown", "--json", "no/such/file.json"], "run without --markdown first"),
    ],
)
def test_wrong_arguments(bench, capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(None):
        bench.run.main(arguments)
    assert said in f"{stopped.value}{capsys.readouterr().err}"


def test_every_contender_has_a_colour_and_a_label(bench):
    pytest.importorskip("matplotlib")
    plots = bench.plots
    names = {
        name
        for group in bench.contenders.WORK.values()
        for work in group
        for name in work.contenders
    }
    names |= {name for fit in bench.estimators.rows() for name in fit.contenders}
    assert names <= set(plots.COLORS) and names - {"minigrad"} <= set(plots.LABELS)
