"""The examples run as a user would run them, and report wrong arguments in one line."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for requirement in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(requirement)

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_digits.py"


@pytest.fixture(scope="module")
def demo():
    """examples/train_digits.py as a module; it is not in a package."""
    specification = importlib.util.spec_from_file_location("train_digits", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # where a script finds lesson.py
        patch.setitem(sys.modules, specification.name, module)  # its dataclasses look it up
        specification.loader.exec_module(module)
        yield module
        del sys.modules["lesson"]


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """A short training run with pictures: the results, and the folder of the pictures."""
    folder = tmp_path_factory.mktemp("demo") / "output"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["lesson"], "PICTURES", folder)
        return demo.main(["--epochs", "2", "--seed", "3"]), folder


def run(*arguments, script=SCRIPT, before=""):
    """Run a script in a separate process, with this minigrad, after some code."""
    code = f"import runpy, sys; {before}; sys.argv[0] = {str(script)!r}; "
    code += f"sys.path.insert(0, {str(script.parent)!r}); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = ["-c", code] if before else [str(script)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=False,
    )


def test_the_script_prints_a_table_of_both_networks():
    done = run("--epochs", "2", "--no-plots")
    assert done.returncode == 0, done.stderr
    assert "1347 digits to train on, 450 to test on" in done.stdout
    assert "picture:" not in done.stdout
    rows = re.findall(r"^(with|without) BatchNorm +(.+)$", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["with", "without"]
    for _, row in rows:
        *accuracies, seconds, rate = row.split()
        mean, *each = [float(text.rstrip("%")) for text in accuracies]
        assert len(each) == 3
        assert mean == pytest.approx(np.mean(each), abs=0.01)
        assert min(each) > 80
        assert float(seconds) >= 0
        assert float(rate) > 0
    assert "100%" in done.stderr, "the progress bars end full"


def test_both_networks_learn_and_a_seed_gives_the_same_run_again(demo, trained):
    results, _ = trained
    assert list(results) == ["with BatchNorm", "without BatchNorm"]
    for runs in results.values():
        assert len(runs) == demo.SEEDS
        for one in runs:
            assert one.steps == 2 * 42
            assert one.loss[1] < one.loss[0]
            assert one.test_accuracy[-1] > 0.8
    again = demo.train(demo.load(), batchnorm=True, epochs=2, seed=3)
    assert again.loss == results["with BatchNorm"][0].loss


def test_the_pictures_are_drawn(trained):
    from matplotlib.image import imread

    _, folder = trained
    names = ["confusion_matrix.png", "learning_curves.png", "misread_digits.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.02, f"{name} is blank"


@pytest.mark.parametrize("misread", [0, 1, 9, 450])
def test_any_number_of_misread_digits_makes_a_picture(demo, misread, tmp_path):
    x, truth = np.random.default_rng(0).random((450, 64)), np.arange(450) % 10
    likely = np.eye(10)[(truth + (np.arange(450) < misread)) % 10]
    figure = demo.misread_digits(x, truth, likely, "a net")
    assert sum(len(axis.images) for axis in figure.axes) == min(misread, 40)
    assert f"{misread} of 450" in figure.get_suptitle()
    figure.savefig(tmp_path / "misread.png")


def test_the_split_is_stratified_and_whatever_the_seed(demo):
    data, again = demo.load(), demo.load()
    assert data.test_y.tolist() == again.test_y.tolist()
    counts = np.bincount(data.test_y.numpy())
    assert counts.min() >= 43
    assert counts.max() <= 46
    assert data.train_x.numpy().min() == 0
    assert data.train_x.numpy().max() == 1


def test_help():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--epochs", "--seed", "--no-plots", "--publish"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--epochs", "0"), "--epochs"),
        (("--epochs", "abc"), "--epochs"),
        (("--epochs", "²"), "--epochs"),
        (("--epochs",), "--epochs"),
        (("--seed", "-1"), "--seed"),
        (("--seed", "1.5"), "--seed"),
        (("--nope",), "--nope"),
        (("stray",), "stray"),
    ],
)
def test_wrong_arguments_get_one_line(demo, capsys, arguments, named):
    with pytest.raises(SystemExit) as stopped:
        demo.main(list(arguments))
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("train_digits.py: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err


def test_wrong_arguments_to_the_script():
    done = run("--epochs", "0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    "script, arguments, missing, package",
    [
        ("train_digits", [], "sklearn", "'minigrad-cython[examples]'"),
        ("train_parallel", [], "mpi4py", "'minigrad-cython[mpi]'"),
        ("sweep", ["--backend", "dask"], "dask", "'minigrad-cython[sweeps]'"),
        ("sweep", ["--backend", "ray"], "ray", "ray"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(script, arguments, missing, package):
    path = SCRIPT.with_name(f"{script}.py")
    done = run(*arguments, script=path, before=f"sys.modules['{missing}'] = None")
    assert done.returncode == 1
    assert done.stderr == f"{script}.py: {missing} is missing; `pip install {package}`\n"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--address", "tcp://host:1"], "--address is of a cluster: --backend dask or ray"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_to_a_sweep(arguments, said):
    done = run(*arguments, script=SCRIPT.with_name("sweep.py"))
    assert (done.returncode, done.stderr) == (2, f"sweep.py: {said} (see --help)\n")
