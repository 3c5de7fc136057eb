"""The exercises: a blank is pointed out, a right answer passes, and wrong ones get their hint."""

# ruff: noqa: E501 (a table of answers)
from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from examples.exercises import judge as harness  # noqa: E402
from examples.exercises.__main__ import main  # noqa: E402
from examples.exercises.judge import WrongAnswerError, compare, exercises, measured  # noqa: E402

FILES = exercises()

SOLUTIONS = {
    1: ["dy * y * (1 - y)"],
    2: ["(g * x).sum(axis=0)", "mg.einsum('nc,nc->c', g, x)"],
    3: ["X.T @ (p - y) / len(y)", "((p - y)[:, None] * X).mean(axis=0)"],
    4: ["RATE * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)"],
    5: [
        "(C * dy * gamma - (dy * gamma).sum(axis=1, keepdims=True)"
        " - normal * (dy * gamma * normal).sum(axis=1, keepdims=True)) / (C * std)"
    ],
    6: ["mg.einsum('nkijuv,ckuv->ncij', windows, w)"],
    7: ["f * c + i * mg.tanh(a)"],
    8: ["mg.softmax(mg.where(hidden, -math.inf, q @ k.mT / math.sqrt(d)), axis=-1)"],
    9: ["mg.autograd.grad((g * v).sum(), x)[0]", "mg.autograd.grad(g, x, v)"],
    10: [
        "y + h * slope(y + h / 2 * slope(y))",
        "y + h / 2 * (slope(y) + slope(y + h * slope(y)))",  # Heun's
    ],
    11: ["g[..., None, None] * mg.linalg.inv(K).mT"],
    12: [
        "train.mean(axis=0), np.where(train.std(axis=0) > 0, train.std(axis=0), 1)",
        "train.mean(axis=0), train.std(axis=0) + 1e-9",
    ],
    13: ["w @ (f - mean) ** 2", "w @ f**2 - mean**2"],
}

WRONG = {  # answers, and what is said of them
    1: {
        "-dy * y * (1 - y)": "wrong sign",
        "dy * y * (1 - y) / 2": "0.5 times",
        "dy * (1 - y**2)": "derivative of tanh",
        "y * (1 - y)": "chain rule",
        "dy": "chain rule",
        "dy * y * (1 - x)": "is right",
        "dy * (1 - y)": "is right",
        "'a'": "at line 27",
        "undefined": "NameError at line 26",
        "dy * np.log(-1)": "NaN",
    },
    2: {
        "g * x": "sum over what it was broadcast to",
        "-(g * x).sum(axis=0)": "wrong sign",
        "2 * (g * x).sum(axis=0)": "2 times",
        "(g * x).sum(axis=1)": "its own w",
        "(g * x).mean(axis=0)": "divides by N",
        "g.sum(axis=0)": "is missing",
        "(g * x.detach()).sum(axis=0)": "gradcheck",
        "mg.tensor((g * x).sum(axis=0).tolist())": "gradcheck",
        "None": "should be numbers, not NoneType",
    },
    3: {
        "X.T @ (y - p) / len(y)": "wrong sign",
        "X.T @ (p - y)": "20 times its gradient",
        "(p - y) / len(y)": "with respect to the logits",
        "X * (p - y)[:, None] / len(y)": "not summed over the points",
        "X.T @ p": "is right",
        "X @ (p - y)": "ValueError at line",
    },
    4: {
        "RATE * m / (np.sqrt(v) + EPS)": "not corrected",
        "RATE * m / (1 - BETA1**t) / (v / (1 - BETA2**t) + EPS)": "not by its root",
        "m / (1 - BETA1**t) / (np.sqrt(v / (1 - BETA2**t)) + EPS)": "the rate is missing",
        "-RATE * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)": "wrong sign",
        "RATE * g": "is right",
    },
    5: {
        "dy * gamma / std": "both their terms are missing",
        "(dy * gamma - (dy * gamma).mean(axis=1, keepdims=True)) / std": "of the variance is missing",
        "(C * dy - dy.sum(1, keepdims=True) - normal * (dy * normal).sum(1, keepdims=True))"
        " / (C * std)": "γ is missing",
        "gamma * (C * dy - dy.sum(1, keepdims=True) - normal * (dy * normal).sum(1, keepdims=True))"
        " / (C * std)": "into the sums",
        "(len(x) * dy * gamma - (dy * gamma).sum(axis=0) - normal * (dy * gamma * normal).sum(axis=0))"
        " / (len(x) * std)": "sums over the batch",
        "-(C * dy * gamma - (dy * gamma).sum(axis=1, keepdims=True)"
        " - normal * (dy * gamma * normal).sum(axis=1, keepdims=True)) / (C * std)": "wrong sign",
        "(C * dy * gamma - (dy * gamma).sum(axis=1, keepdims=True)"
        " - normal * (dy * gamma * normal).sum(axis=1, keepdims=True)) / std": "4 times",
        "(C * dy * gamma - (dy * gamma).sum(axis=1)"
        " - normal * (dy * gamma * normal).sum(axis=1)) / (C * std)": "ValueError",
    },
    6: {
        "-mg.einsum('nkijuv,ckuv->ncij', windows, w)": "wrong sign",
        "mg.einsum('nkijuv,ckuv->ncij', windows, mg.flip(w, axis=(2, 3)))": "flipped",
        "mg.einsum('nkijuv,ckuv->nijc', windows, w)": "channels come second",
        "mg.einsum('nkijuv,ckuv->ncij', windows, w) / 3": "0.3333 times",
        "mg.einsum('nkijuv,ckuv->nckij', windows, w)": "shape (2, 4, 3, 4, 4)",
        "mg.einsum('nkijuv,ckuv->ncij', windows, w.detach())": "RuntimeError",
    },
    7: {
        "i * c + f * mg.tanh(a)": "exchanged",
        "f * c + i * a": "through a tanh",
        "f * c": "nothing is written",
        "c + i * mg.tanh(a)": "kept whole",
        "f * c - i * mg.tanh(a)": "is right",
        "-(f * c + i * mg.tanh(a))": "wrong sign",
    },
    8: {
        "mg.softmax(q @ k.mT / math.sqrt(d), axis=-1)": "mask is missing",
        "mg.softmax(mg.where(hidden, -math.inf, q @ k.mT), axis=-1)": "not divided by √d",
        "mg.softmax(mg.where(hidden, -math.inf, q @ k.mT / d), axis=-1)": "by its root",
        "mg.softmax(mg.where(hidden, -math.inf, q @ k.mT / math.sqrt(d)), axis=-2)": "over the keys",
        "mg.softmax(mg.where(hidden, 0.0, q @ k.mT / math.sqrt(d)), axis=-1)": "not a weight of 0",
        "mg.softmax(mg.where(hidden, q @ k.mT / math.sqrt(d), -math.inf), axis=-1)": "NaN",
        "mg.softmax(mg.where(hidden, -math.inf, -q @ k.mT / math.sqrt(d)), axis=-1)": "is right",
    },
    9: {
        "g * v": "element by element",
        "g @ v": "the slope in the direction",
        "mg.autograd.grad(g.sum(), x)[0]": "a vector of ones",
        "-mg.autograd.grad((g * v).sum(), x)[0]": "wrong sign",
        "mg.autograd.grad((g * v).mean(), x)[0]": "0.25 times",
        "mg.autograd.grad((g.detach() * v).sum(), x)[0]": "RuntimeError at line",
    },
    10: {
        "y + h * slope(y)": "order of Euler's method",
        "y - h * slope(y)": "another equation",
        "y + 2 * h * slope(y)": "another equation",
        "y": "another equation",
        "y + h * slope(y + h * slope(y))": "order of Euler's method",
        "y + h / 2 * (slope(y) + slope(y - h * slope(y)))": "not by 4",
    },
    11: {
        "g[..., None, None] * mg.linalg.inv(K)": "order of i and j",
        "mg.linalg.inv(K).mT": "g is missing",
        "(g * mg.linalg.det(K))[..., None, None] * mg.linalg.inv(K).mT": "without the logarithm",
        "-g[..., None, None] * mg.linalg.inv(K).mT": "wrong sign",
        "3 * g[..., None, None] * mg.linalg.inv(K).mT": "3 times",
        "g * mg.linalg.inv(K).mT": "ValueError at line",
        "g[..., None, None] * mg.linalg.inv(K.detach()).mT": "gradcheck",
    },
    12: {
        "np.concatenate([train, test]).mean(0), np.concatenate([train, test]).std(0)": "of all rows",
        "test.mean(axis=0), test.std(axis=0)": "test rows",
        "train.mean(axis=0), train.std(axis=0)": "constant column in training has a NaN",
        "train.mean(axis=0), np.maximum(train.std(axis=0, ddof=1), 1e-9)": "n - 1",
        "train.mean(axis=0), train.var(axis=0) + 1e-9": "is right",
        "-train.mean(axis=0), train.std(axis=0) + 1e-9": "is right",
        "train.mean(axis=1), train.std(axis=1)": "ValueError",
    },
    13: {
        "((f - mean) ** 2).mean(axis=0)": "has none",
        "w @ (f - f.mean(axis=0)) ** 2": "about the weighted mean",
        "np.sqrt(w @ (f - mean) ** 2)": "standard deviation",
        "(f - mean) ** 2": "each member",
        "-w @ (f - mean) ** 2": "wrong sign",
        "2 * (w @ (f - mean) ** 2)": "2 times",
    },
}


def filled(number, answer, folder):
    """The path of a copy of an exercise with this answer in its blank."""
    path = FILES[number]
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (place,) = [
        node
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.Constant) and node.value is ...
    ]
    line = lines[place.lineno - 1]
    lines[place.lineno - 1] = line[: place.col_offset] + answer + line[place.end_col_offset :]
    copy = folder / path.name
    copy.write_text("".join(lines), encoding="utf-8")
    return copy


def test_every_lesson_has_one():
    lessons = {p.stem: p for p in (ROOT / "examples").glob("[0-9][0-9]_*.py")}
    assert {path.stem[1:] for path in FILES.values()} == set(lessons)
    assert set(SOLUTIONS) == set(WRONG) == set(FILES)
    for number, path in FILES.items():
        assert harness.read(path).title.startswith(f"Exercise {number}: ")
        assert 40 < len(harness.read(path).text.split()) < 150
        lesson = ast.get_docstring(ast.parse(lessons[path.stem[1:]].read_text(encoding="utf-8")))
        assert f"make exercise N={number}" in " ".join(lesson.split()[-40:])


@pytest.mark.parametrize("number", FILES)
def test_a_blank_is_pointed_out(number, capsys):
    assert main([str(number)]) == 1
    task, _, said = capsys.readouterr().out.rstrip().rpartition("\n")
    assert task.startswith(f"Exercise {number}: ")
    line = int(re.search(r"line (\d+)", said)[1])
    assert FILES[number].name in said
    assert "..." in FILES[number].read_text(encoding="utf-8").splitlines()[line - 1]


@pytest.mark.parametrize("number, answer", [(n, a) for n, all_ in SOLUTIONS.items() for a in all_])
def test_the_solution_passes(number, answer, tmp_path):
    path = filled(number, answer, tmp_path)
    assert harness.blank(path) == 0 and harness.judge(path).endswith(".")


@pytest.mark.parametrize(
    "number, answer, hint", [(n, *pair) for n, wrong in WRONG.items() for pair in wrong.items()]
)
def test_wrong_answers_are_refused_with_a_hint(number, answer, hint, tmp_path):
    with pytest.raises(WrongAnswerError) as caught:
        harness.judge(filled(number, answer, tmp_path))
    assert hint in str(caught.value)


def test_no_hint_is_for_the_right_answer(tmp_path, monkeypatch):
    """Each mistake is wrong itself."""
    met = []

    def checked(what, yours, right, mistakes=None, rtol=1e-6):
        for hint, value in (mistakes or {}).items():
            met.append(hint)
            with pytest.raises(WrongAnswerError):
                compare(what, value, right, None, rtol)
        compare(what, yours, right, mistakes, rtol)

    for number, (answer, *_) in SOLUTIONS.items():
        if number == 5:  # its hints are for x, and are tried for γ and β as well
            continue
        path = filled(number, answer, tmp_path)
        path.write_text(
            path.read_text(encoding="utf-8").replace("def judge():", "def judge(compare):"),
            encoding="utf-8",
        )
        scope = {"__name__": f"examples.exercises.{path.stem}", "__package__": "examples.exercises"}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        scope["judge"](checked)
    assert len(set(met)) > 30


# --------------------------------------------------------------------------------- the command
def test_the_command_judges(tmp_path, monkeypatch, capsys):
    for answer, status, start in (("dy * y * (1 - y)", 0, "Right. "), ("dy", 1, "Not yet. ")):
        path = filled(1, answer, tmp_path)
        monkeypatch.setattr("examples.exercises.__main__.exercises", lambda path=path: {1: path})
        assert main(["1"]) == status
        said = capsys.readouterr().out.splitlines()
        assert any(line.startswith(start) for line in said[-2:])


def test_without_a_number_they_are_listed(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"Exercise {number}: " in said for number in FILES)


@pytest.mark.parametrize("words", [["0"], ["14"], ["x"], ["-1"], ["1", "2"], ["²"]])
def test_bad_arguments_take_one_line(words, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("exercises: expected a number from 1 to 13, got ")


def test_a_file_that_python_cannot_read(tmp_path, monkeypatch, capsys):
    path = filled(3, "X.T @@ p", tmp_path)
    monkeypatch.setattr("examples.exercises.__main__.exercises", lambda: {3: path})
    assert main(["3"]) == 1
    assert "Python cannot read line 22: invalid syntax" in capsys.readouterr().out


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "examples.exercises", "2"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and done.stdout.startswith("Exercise 2: "), done.stderr


def test_the_makefile_has_the_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(
        r"^exercise: .*\n\t@\$\(PY\) -m examples.exercises \$\(N\)$", text, re.MULTILINE
    )


# ----------------------------------------------------------------------------------- the judge
def test_what_compare_recognises():
    right = np.array([[1.0, 2.0], [3.0, 4.0]])
    compare("x", right.tolist(), right)
    compare("x", mg.tensor(right * (1 + 1e-8)), right)
    compare("x", np.zeros(2), np.zeros(2))
    for yours, words in (
        (-right, "wrong sign"),
        (-3 * right, "-3 times"),
        (0.7 * right, r"at index \(1, 1\) is 2.8, and 4 is right"),
        (right.T, r"at index \(0, 1\) is 3, and 2 is right"),
        (right[0], r"shape \(2,\)"),
        (right * np.nan, "NaN"),
        (right[None], r"shape \(1, 2, 2\), and should have \(2, 2\)\."),
        (object(), "should be numbers, not object"),
        (np.zeros((2, 2)), "is right"),
    ):
        with pytest.raises(WrongAnswerError, match=words):
            compare("x", yours, right)
    with pytest.raises(WrongAnswerError, match="x: the hint"):
        compare("x", right + 1, right, {"the hint": right + 1})


def test_measured_gradients():
    slopes = measured(lambda a, b: (a**2).sum() * b, [1.0, 2.0], 3.0)
    np.testing.assert_allclose(slopes[0], [6, 12], rtol=1e-8)
    np.testing.assert_allclose(slopes[1], 5, rtol=1e-8)
