"""Record what training does to each layer, and draw it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._core.engine.graph import RemovableHandle, Tensor
from ..autograd import is_grad_enabled
from ..nn.module import Module
from ..tree import flatten_tree
from .graphs import check_model, wrap_forwards
from .summaries import aligned

__all__ = ["Histogram", "Step", "histograms"]

FEWEST_BINS, MOST_BINS = 10, 60
LARGEST = 1e150  # whose square is a number
MOST_ROWS = 16  # of a picture
GREY, BLUE = "0.5", "tab:blue"
COLUMNS = (  # field of a Step, title, label of the axis
    ("outputs", "output", "value"),
    ("output_gradients", "gradient of the output", "log₁₀ |gradient|"),
    ("weight_gradients", "gradient of the weights", "log₁₀ |gradient|"),
)
HEADS = ("layer", "class", "mean", "std", "zeros", "output grad", "weight grad", "update/weight")


class Histogram(NamedTuple):
    """How the elements of a Tensor are distributed.

    counts, edges: as `numpy.histogram` returns them, of 10 to 60 bins; of a gradient, log10 of the
    magnitudes is counted. mean, std: of the elements themselves. zeros: the share of elements that
    are 0, which have no logarithm. broken: the share that is NaN, infinite or beyond 1e150, and
    counts nowhere else.

    >>> seen = mg.viz.Histogram.of(mg.tensor([0.0, 1.0, 3.0, 4.0]))
    >>> seen.mean, seen.zeros, int(seen.counts.sum())
    (2.0, 0.25, 4)
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    mean: float
    std: float
    zeros: float
    broken: float

    @classmethod
    def of(cls, tensor: Tensor, log: bool = False) -> Histogram:
        """Count the elements of a Tensor, or log10 of their magnitudes."""
        elements = tensor.numpy().astype(np.float64).ravel()
        values = elements[np.abs(elements) < LARGEST]
        counted = np.log10(np.abs(values[values != 0])) if log else values
        low, high = (counted.min(), counted.max()) if counted.size else (0.0, 0.0)
        largest = max(abs(low), abs(high))
        if high - low <= max(1e-9 * largest, 1e-290):  # constant, and bins need a width
            margin = max(0.5, 1e-6 * largest)
            low, high = low - margin, high + margin
        bins = int(np.clip(counted.size**0.5, FEWEST_BINS, MOST_BINS))
        counts, edges = np.histogram(counted, bins, (low, high))
        mean, std = (values.mean(), values.std()) if values.size else (np.nan, np.nan)
        lost, whole = elements.size - values.size, max(elements.size, 1)
        zeros, broken = (values == 0).sum() / whole, lost / whole
        return cls(counts, edges, float(mean), float(std), float(zeros), float(broken))

    @property
    def rms(self) -> float:
        """The root mean square of the elements."""
        return float(np.hypot(self.mean, self.std))


@dataclass
class Step:
    """What `histograms` saw in one training step; the last call of whatever was called repeatedly.

    outputs: of each layer, by its path. output_gradients: d loss / d output, by path.
    weight_gradients: d loss / d parameter, by the name of the parameter. updates:
    ‖change‖ / ‖parameter before‖, by the name of the parameter; empty until the step has changed
    the parameters.

    >>> mg.viz.Step().updates
    {}
    """

    outputs: dict[str, Histogram] = field(default_factory=dict)
    output_gradients: dict[str, Histogram] = field(default_factory=dict)
    weight_gradients: dict[str, Histogram] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)


class histograms:  # noqa: N801  (a context manager is written like a function)
    """Record the outputs, gradients and updates of each layer of `model` inside a `with` block.

    model: a Module, trained in the block as elsewhere. Its layers are the modules that call no
    other module. A step lasts until the parameters have changed, so it may run forward and backward
    several times; what runs under `no_grad` is not part of it. `steps` has a Step for each,
    `plot()` draws them, and `print` shows the last one as a table. Nothing is kept but counts.
    After the block, and after an error in it, the model is as it would be without.

    What to look for: outputs that are mostly at ±1 (saturated tanh) or 0 (dead ReLU); gradients
    whose magnitude changes from layer to layer (Glorot & Bengio 2010, figures 2 to 7); updates that
    are far from 1/1000 of the weights, a rule of thumb for the learning rate (Karpathy, CS231n,
    "Neural networks part 3", 2015).

    Raises TypeError unless `model` is a Module.

    >>> net = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.Tanh(), mg.nn.Linear(3, 1))
    >>> optimizer = mg.optim.SGD(net.parameters(), lr=0.1)
    >>> with mg.viz.histograms(net) as seen:
    ...     for _ in range(5):
    ...         optimizer.zero_grad()
    ...         mg.square(net(mg.ones(4, 2))).mean().backward()
    ...         optimizer.step()
    >>> len(seen.steps), list(seen.steps[-1].outputs), sorted(seen.steps[-1].updates)[0]
    (5, ['0', '1', '2'], '0.bias')
    """

    def __init__(self, model: Module) -> None:
        check_model(model)
        self.model = model
        self.steps: list[Step] = []
        self._kinds: dict[str, str] = {}
        self._parameters: dict[str, Tensor] = {}
        self._before: dict[str, tuple[int, NDArray[Any]]] = {}  # versions and values
        self._handles: list[RemovableHandle] = []
        self._running: list[int] = []  # how many modules each running module has called

    def __enter__(self) -> histograms:
        self._kinds = {path: type(module).__name__ for path, module in self.model.named_modules()}
        self._parameters, self._before = dict(self.model.named_parameters()), {}
        self._handles = wrap_forwards(self.model, self._call)
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                note = partial(self._note_weight_gradient, name)
                self._handles.append(parameter.register_hook(note))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._end_step()

    def _call(
        self, path: str, module: Module, forward: Callable[..., Any], *inputs: Any, **options: Any
    ) -> Any:
        if not is_grad_enabled():
            return forward(*inputs, **options)
        if not self._running and (not self._before or self._changed()):
            self._end_step()
            self.steps.append(Step())
            named = self._parameters.items()
            self._before = {name: (p._version, p.numpy(copy=True)) for name, p in named}
        self._running.append(0)
        try:
            output = forward(*inputs, **options)
        finally:
            called = self._running.pop()
            if self._running:
                self._running[-1] += 1
        if not called:
            self._note_output(path, output)
        return output

    def _changed(self) -> bool:
        """Whether a parameter was written to since the step began."""
        named = self._parameters.items()
        return any(parameter._version != self._before[name][0] for name, parameter in named)

    def _end_step(self) -> None:
        if not self._before or not self._changed():
            return
        for name, parameter in self._parameters.items():
            before = self._before[name][1].astype(np.float64)
            change = float(np.linalg.norm((parameter.numpy() - before).ravel()))
            size = float(np.linalg.norm(before.ravel()))
            self.steps[-1].updates[name] = change / size if size else np.inf if change else 0.0
        self._before = {}

    def _note_output(self, path: str, output: Any) -> None:
        leaves = (x for x in flatten_tree(output)[0] if isinstance(x, Tensor))
        first = next((x for x in leaves if x.dtype.kind == "f" and x.size), None)
        if first is None:
            return
        step, seen = self.steps[-1], Histogram.of(first)
        step.outputs[path] = seen

        def note(gradient: Tensor) -> None:
            if step.outputs[path] is seen:  # else the layer has been called again since
                step.output_gradients[path] = Histogram.of(gradient, log=True)

        if first.requires_grad:
            self._handles.append(first.register_hook(note))

    def _note_weight_gradient(self, name: str, gradient: Tensor) -> None:
        if self.steps:
            self.steps[-1].weight_gradients[name] = Histogram.of(gradient, log=True)

    # ------------------------------------------------------------------------------- reports
    def _weight_of(self, path: str) -> str | None:
        """The name of the largest parameter of a layer, which stands for it."""
        own = {n: p.size for n, p in self._parameters.items() if n.rpartition(".")[0] == path}
        return max(own, key=own.__getitem__, default=None)

    def __str__(self) -> str:
        if not self.steps:
            return "no training step was recorded yet"
        step, cells = self.steps[-1], [list(HEADS)]
        for path, output in step.outputs.items():
            name = self._weight_of(path) or ""
            gradients = step.output_gradients.get(path), step.weight_gradients.get(name)
            texts = [f"{output.mean:.2g}", f"{output.std:.2g}", f"{output.zeros:.0%}"]
            texts += [f"{seen.rms:.1e}" if seen else "" for seen in gradients]
            texts.append(f"{step.updates[name]:.1e}" if name in step.updates else "")
            cells.append([path or "(model)", self._kinds[path], *texts])
        head, *lines = aligned(cells, left=2)
        return "\n".join([head, "-" * len(head), *lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_png_(self) -> bytes | None:
        try:
            from matplotlib import pyplot

            figure = self.plot()
        except (ImportError, RuntimeError):  # nothing to draw with, or nothing to draw
            return None
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        pyplot.close(figure)
        return picture.getvalue()

    def plot(self, layers: Sequence[str] | None = None, figure: Any = None) -> Any:
        """Draw a row for each layer, and the updates over the steps; returns the Matplotlib figure.

        From the left: the output of the layer, d loss / d output and d loss / d weights, each in
        the first step (grey) and in the last (blue), and as high as its largest bin; then
        ‖update‖ / ‖weights‖ in each step. The largest parameter of a layer counts as its weights.

        layers: the paths of those to draw; by default all, or sixteen of them, evenly spread.
        figure: to draw into, empty; by default a new one of pyplot.

        Raises RuntimeError if no step was recorded, ValueError for a layer that was not called in
        the last one, ImportError without Matplotlib.
        """
        known = list(self.steps[-1].outputs) if self.steps else []
        if not known:
            raise RuntimeError(
                "viz.histograms: no training step was recorded; call the model inside the with "
                "block, and not under no_grad"
            )
        if layers is None:
            places = np.linspace(0, len(known) - 1, min(len(known), MOST_ROWS)).round()
            layers = [known[int(place)] for place in places]
        for path in layers:
            if path not in known:
                raise ValueError(
                    f"viz.histograms: no layer {path!r} was called in the last step; there are "
                    f"{', '.join(map(repr, known))}"
                )
        if figure is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise ImportError(
                    "viz: the package matplotlib is not installed; `pip install matplotlib`"
                ) from None
            size = 14, 1.2 + 0.8 * len(layers)
            figure = pyplot.figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(len(layers), 4, width_ratios=(1, 1, 1, 1.6))
        for column in range(3):
            axes = [figure.add_subplot(grid[row, column]) for row in range(len(layers))]
            self._draw_column(axes, layers, column)
        self._draw_updates(figure.add_subplot(grid[:, 3]), layers)
        last = f", step {len(self.steps)} in blue" * (len(self.steps) > 1)
        figure.suptitle(f"step 1 in grey{last}" if last else "step 1", fontsize=10)
        return figure

    def _draw_column(self, axes: Sequence[Any], layers: Sequence[str], column: int) -> None:
        kind, title, label = COLUMNS[column]
        drawn, ends = [], []
        for axis, path in zip(axes, layers, strict=True):
            name = (self._weight_of(path) or "") if kind == "weight_gradients" else path
            seen = None
            for number, color in {0: GREY, len(self.steps) - 1: BLUE}.items():
                seen = getattr(self.steps[number], kind).get(name)
                if seen is not None and seen.counts.any():
                    heights, last = seen.counts / seen.counts.max(), color == BLUE
                    axis.stairs(
                        heights, seen.edges, color=color, fill=last, alpha=0.5 + 0.5 * (not last)
                    )
                    ends += [seen.edges[0], seen.edges[-1]]
                    drawn.append(axis)
            if seen is None:  # of no such gradient in the last step
                axis.axis("off")
                continue
            notes = [f"mean {seen.mean:.2g}", f"std {seen.std:.2g}"] * (kind == "outputs")
            notes += [f"{100 * seen.zeros:.0f} % zero"] * (seen.zeros > 0)
            notes += [f"{100 * seen.broken:.0f} % NaN or infinite"] * (seen.broken > 0)
            place = {"transform": axis.transAxes, "ha": "right", "va": "top", "fontsize": 7}
            axis.text(0.99, 0.95, "\n".join(notes), **place)
            axis.set(yticks=[], ylim=(0, 1.3))
            if column == 0:
                text = f"{path or '(model)'}\n{self._kinds[path]}"
                axis.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
        axes[0].set_title(title, fontsize=10)
        if drawn:
            drawn[-1].set_xlabel(label)
        if column:  # logarithms: one axis for all layers, so that their magnitudes can be compared
            for axis in drawn:
                axis.set_xlim(min(ends), max(ends))
                axis.tick_params(labelbottom=axis is drawn[-1])

    def _draw_updates(self, axis: Any, layers: Sequence[str]) -> None:
        from matplotlib import colormaps

        names = [name for name in map(self._weight_of, layers) if name]
        for k, name in enumerate(names):
            at = [i for i, step in enumerate(self.steps, 1) if name in step.updates]
            ratios = [self.steps[i - 1].updates[name] for i in at]
            style = {"color": colormaps["viridis"](0.9 * k / max(len(names) - 1, 1)), "lw": 1}
            style |= {"ls": "-" if self._parameters[name].ndim > 1 else "--"}  # γ of a norm
            axis.plot(at, ratios, marker="." if len(at) < 20 else "", label=name, **style)
        axis.axhline(1e-3, ls=":", color=GREY, label="1/1000")
        axis.set(yscale="log", xlabel="step", ylabel="‖update‖ / ‖weights‖")
        axis.set_title("update of the weights", fontsize=10)
        axis.legend(fontsize=8)
