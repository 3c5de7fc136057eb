"""The lessons in examples/ run in fast mode, find what they claim, and draw pictures."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

imread = pytest.importorskip("matplotlib.image").imread
pytest.importorskip("tqdm")

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LESSONS = sorted(path.stem for path in EXAMPLES.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    """Runs a lesson, with --fast; returns its module, the result of main, and its picture."""
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where a script finds lesson.py

    def run(name, *arguments):
        if name in ("06_cnn_digits", "12_tabular", "look_inside"):
            pytest.importorskip("sklearn")
        specification = importlib.util.spec_from_file_location(
            f"lesson_{name}", EXAMPLES / f"{name}.py"
        )
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, specification.name, module)
        specification.loader.exec_module(module)
        for folder in ("PICTURES", "PUBLISHED"):
            monkeypatch.setattr(sys.modules["lesson"], folder, tmp_path / folder)
        found = module.main(list(arguments or ["--fast"]))
        (picture,) = tmp_path.glob("*/*")
        assert picture.name == f"{name}.png"
        pixels = imread(picture)
        assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.02, "it is blank"
        return module, found, picture

    yield run
    sys.modules.pop("lesson", None)


def test_the_lessons_are_there_with_a_page_of_explanation_each():
    assert [name[:2] for name in LESSONS] == [f"{k:02}" for k in range(1, 14)]
    for name in LESSONS:
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        page = text.split('"""')[1]
        assert page.startswith(f"Lesson {int(name[:2])}: ")
        assert 150 < len(page.split()) < 600
        assert re.search(r"\b(19|20)\d\d\b", page), "a lesson says where its matter comes from"
        assert (EXAMPLES / "output" / f"{name}.png").is_file()


def test_hand_and_machine_agree_where_measuring_does_not_reach(lesson):
    module, found, _ = lesson("01_gradient_by_hand")
    assert found["machine"] < 1e-15 < 1e-13 < found["measured"] < 1e-9
    assert 1e-7 < found["h"] < 1e-4
    assert module.by_measuring(1e-5) == pytest.approx(module.by_hand()[0], rel=1e-8)


def test_backward_runs_newest_first_and_the_bias_before_batchnorm_is_useless(lesson):
    _, found, picture = lesson("02_computation_graph")
    order = found["order"]
    assert order[:2] == ["mean", "softmax_cross_entropy"] and order[-1] == "linear"
    assert "mean" in order[order.index("var") :]
    assert found["useless"] < 1e-6
    assert picture == found["path"]


@pytest.mark.parametrize("missing", ["package", "program"])
def test_matplotlib_draws_the_graph_where_graphviz_is_missing(
    lesson, monkeypatch, tmp_path, capsys, missing
):
    monkeypatch.setenv("PATH", str(tmp_path))  # no program dot
    if missing == "package":
        monkeypatch.setitem(sys.modules, "graphviz", None)
    _, found, picture = lesson("02_computation_graph")
    assert picture == found["path"]
    said = capsys.readouterr().out
    assert ("pip install graphviz" if missing == "package" else "dot was not found") in said
    assert "matplotlib draws it instead" in said


def test_a_graph_drawn_by_matplotlib_has_every_box_below_its_inputs(lesson):
    lesson("01_gradient_by_hand")
    x = mg.ones(2, requires_grad=True)
    w = mg.ones(2, requires_grad=True)
    y = mg.exp(x)
    figure = sys.modules["lesson"].draw_dot(mg.viz.graph(y * w + y, params={"w": w, "x": x}).dot)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    place = {t.get_text().split("\n")[0]: t.get_position() for t in axis.texts if t.get_text()}
    assert place.keys() == {"x", "exp", "w", "multiply", "add"}
    heights = [place[name][1] for name in ("x", "exp", "multiply", "add")]
    assert heights == sorted(heights, reverse=True) and len({*heights}) == 4
    assert place["w"][1] == place["exp"][1], "an input stands just above its use"
    assert len({*place.values()}) == 5, "two boxes in one place"
    assert len(axis.texts) - len(place) == 5, "an arrow is missing"


def test_a_run_leaves_the_checkout_clean_unless_told_to_publish(lesson, tmp_path):
    module, _, picture = lesson("01_gradient_by_hand")
    assert picture.parent == tmp_path / "PICTURES"
    with pytest.raises(SystemExit, match="2"):
        module.main(["--fast", "--publish"])
    picture.unlink()
    _, _, picture = lesson("01_gradient_by_hand", "--publish")
    assert picture.parent == tmp_path / "PUBLISHED"


def test_the_pictures_of_a_run_are_not_under_version_control():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    command = ["git", "check-ignore", "--quiet", "build/pictures/x.png", "examples/output/x.png"]
    assert subprocess.run(command[:-1], cwd=ROOT, check=False).returncode == 0
    assert subprocess.run([*command[:3], command[-1]], cwd=ROOT, check=False).returncode == 1


def test_logistic_regression_finds_the_weights_that_made_the_points(lesson):
    module, found, _ = lesson("03_logistic_regression")
    assert found["difference"] < 1e-15
    assert (np.abs(found["learnt"] - module.TRUE) < 3 * found["spread"]).all()
    assert found["losses"] == sorted(found["losses"], reverse=True), "convex: always downhill"
    assert found["losses"][0] == pytest.approx(np.log(2))


def test_the_network_parts_the_moons_and_a_line_does_not(lesson):
    _, found, _ = lesson("04_two_moons")
    assert found["network"] > 0.97
    assert 0.8 < found["line"] < 0.92


def test_batchnorm_has_the_gradient_of_the_paper_and_detached_a_runaway_bias(lesson):
    module, found, _ = lesson("05_batchnorm_from_primitives")
    assert found["error"] < 1e-14 and found["missing"] > 0.1
    assert found["bias"] < 1e-3 and found["lost_bias"] > 0.4
    x = mg.randn(6, 3)
    np.testing.assert_allclose(
        module.batch_norm(x).numpy(), nn.functional.batch_norm(x, None, None).numpy(), atol=1e-6
    )


def test_the_convolutional_network_reads_digits(lesson):
    module, found, _ = lesson("06_cnn_digits")
    assert len(found["accuracy"]) == 1 and found["accuracy"][0] > 0.9
    images = np.zeros((500, 1, 8, 8), np.float32)
    images[:, 0, 3, 4] = 1
    places = np.argwhere(module.moved(images, np.random.default_rng(0))[:, 0])[:, 1:]
    assert {tuple(place) for place in places.tolist()} == {
        (i, j) for i in (2, 3, 4) for j in (3, 4, 5)
    }


def test_the_lstm_learns_more_than_counts_of_characters(lesson):
    module, found, _ = lesson("07_char_lstm")
    assert found["bits"]["LSTM"] < found["bits"]["single characters"]
    assert found["bits"]["pairs"] < found["bits"]["single characters"] < np.log2(95)
    assert found["curve"][-1] < found["curve"][0] - 1
    assert all(
        sample.startswith("Return") and len(sample) > 80 for sample in found["samples"].values()
    )
    single, pairs = module.table_bits(np.tile([0, 1], 5000), np.tile([0, 1], 50), 2)
    assert single == pytest.approx(1, abs=1e-3) and pairs == pytest.approx(0, abs=1e-3)


def test_the_transformer_attends_to_nothing_that_comes_later(lesson):
    module, found, _ = lesson("08_tiny_transformer")
    assert found["losses"][-1] < 0.95 * found["losses"][0] and found["digits"] > 0.15
    for weights in found["maps"]:
        assert weights.shape == (module.HEADS, 8, 16)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        rows, columns = np.indices((8, 16))
        assert (weights[:, columns > rows + 8] == 0).all()
    sequences = module.make_sequences(50, np.random.default_rng(0))
    assert (np.sort(sequences[:, :8]) == sequences[:, 9:]).all() and (sequences[:, 8] == 10).all()


def test_newton_doubles_the_digits_and_damped_it_never_climbs(lesson):
    module, found, _ = lesson("09_newton")
    errors = found["errors"]
    assert errors["Newton"][-1] < 1e-14 and errors["damped Newton"][-1] < 1e-14
    assert len(errors["Newton"]) < 10 < len(errors["damped Newton"]) < 30
    assert errors["gradient descent"][-1] > 1e-2
    heights = {
        method: [module.rosenbrock(mg.tensor(place)).item() for place in path]
        for method, path in found["paths"].items()
    }
    assert max(heights["Newton"]) > 1000
    damped = heights["damped Newton"]
    assert damped == sorted(damped, reverse=True)
    near = errors["damped Newton"][errors["damped Newton"] < 1e-2][:-1]
    assert (near[1:] < 100 * near[:-1] ** 2).all()
    _, hessian = module.gradient_and_hessian(module.rosenbrock, np.array([2.0, 3.0]))
    assert hessian.tolist() == [[2 + 1200 * 4 - 400 * 3, -800], [-800, 200]]


def test_the_rates_of_hares_and_foxes_are_found(lesson):
    module, found, _ = lesson("10_fit_an_ode")
    relative = np.log(found["found"] / module.TRUE)
    assert (np.abs(relative) < 3 * found["spread"]).all()
    assert (found["spread"] < 0.1).all()
    assert found["losses"][-1] == pytest.approx(found["losses"][-2], rel=1e-9), "Newton is done"
    assert found["losses"][-1] < 62 * 0.5 * 1.6, "62 counts: half of chi-squared"


def test_the_evidence_finds_the_smoothness_of_the_curve(lesson):
    module, found, _ = lesson("11_gaussian_process")
    relative = np.log(found["found"] / module.TRUE)
    assert (np.abs(relative) < 3 * found["spread"]).all()
    assert found["losses"][-1] < found["losses"][0] - 30
    assert found["inside"] > 0.8 and found["widening"] > 2, "uncertain where nothing was measured"
    assert found["errors"][1] < 0.5 * found["errors"][0]
    # The formula, against NumPy's density of a normal distribution
    random = np.random.default_rng(0)
    theta, x, y = random.normal(size=3), np.sort(random.uniform(0, 5, 9)), random.normal(size=9)
    a, length, noise = np.exp(theta)
    covariance = a**2 * np.exp(-((x[:, None] - x) ** 2) / (2 * length**2)) + noise**2 * np.eye(9)
    density = 0.5 * (
        y @ np.linalg.solve(covariance, y)
        + np.linalg.slogdet(covariance)[1]
        + 9 * np.log(2 * np.pi)
    )
    tensors = (mg.tensor(values, requires_grad=values is theta) for values in (theta, x, y))
    theta, x, y = tensors
    assert module.surprise(theta, x, y).item() == pytest.approx(density)
    module.surprise(theta, x, y).backward()
    g, h = module.hessian(theta, x, y)
    np.testing.assert_allclose(g.numpy(), theta.grad.numpy(), rtol=1e-10)
    np.testing.assert_allclose(h.numpy(), h.numpy().T, rtol=1e-8)


def test_batchnorm_evens_out_the_gradients_of_the_layers(lesson):
    _, found, _ = lesson("look_inside")
    even, uneven = (np.array(found[name]) for name in ("with BatchNorm", "without BatchNorm"))
    assert even.max() < 5 * even.min() and uneven.max() > 50 * uneven.min()
    assert (np.diff(uneven) > 0).all()


# ------------------------------------------------------------------------------------ command line
def run_script(name, *arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=False,
    )


def test_help_is_the_page():
    done = run_script("01_gradient_by_hand", "--help")
    assert done.returncode == 0, done.stderr
    assert "Lesson 1" in done.stdout and "--fast" in done.stdout


@pytest.mark.parametrize("arguments", [("--nope",), ("stray",)])
def test_wrong_arguments_get_one_line(arguments):
    done = run_script("01_gradient_by_hand", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("01_gradient_by_hand.py: ") and arguments[0] in done.stderr


def test_nets_and_trees_on_tables(lesson):
    _, found, _ = lesson("12_tabular")
    errors = {name: table.mean(axis=0) for name, table in found["errors"].items()}
    assert set(errors) == {"diabetes", "wine", "breast cancer", "digits"}
    for name, most in (("wine", 10), ("breast cancer", 10), ("digits", 8), ("diabetes", 90)):
        assert (errors[name] < most).all(), name
    _, trees, net = found["noise"].mean(axis=0).T
    assert net[-1] > net[0] + 3, "noise hurts a net"
    assert trees[-1] < net[-1], "trees ignore it"


def test_an_ensemble_disagrees_where_there_are_no_data(lesson):
    module, found, _ = lesson("13_ensemble")
    np.testing.assert_allclose(found["left"], found["right"], atol=1e-12)
    assert found["losses"].shape == (60, module.MEMBERS)
    assert (found["losses"][-1] < found["losses"][0] / 3).all()
    z, spread = found["z"], found["each"].std(axis=0)
    near, inside = (np.abs(z) > module.GAP[1]) & (np.abs(z) < 3), np.abs(z) < module.GAP[1]
    assert spread[inside].mean() > 2 * spread[near].mean()
