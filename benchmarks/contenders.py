"""The same work written for minigrad and for each installed peer.

`WORK` is the table: a name, the target ratios, and for each contender a function that sets up the
work and returns a callable that does it once. Contenders whose library is missing are skipped. All
use float32, one thread, and the same shapes; a full training step is zero_grad, forward,
cross-entropy, backward, Adam.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np


def available(*modules: str) -> bool:
    """Whether all these modules are installed."""
    return all(find_spec(module) for module in modules)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 numbers, the same for every contender."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------ one operation
def add_minigrad() -> Callable:
    import minigrad as mg

    a, b = mg.tensor(random(8, 8), requires_grad=True), mg.tensor(random(8, 8, seed=1))
    return lambda: a + b


def add_torch() -> Callable:
    import torch

    a, b = torch.tensor(random(8, 8), requires_grad=True), torch.tensor(random(8, 8, seed=1))
    return lambda: a + b


# ------------------------------------------------------------------------------------- 100-op chain
def chain(a, b, operations: int):
    """Operations on 8 x 8 matrices, alternately multiply and add; nothing can be folded."""
    y = a
    for _ in range(operations // 2):
        y = y * b + b
    return y


def chain_minigrad(operations: int = 100) -> Callable:
    import minigrad as mg

    a, b = mg.tensor(random(8, 8), requires_grad=True), mg.tensor(random(8, 8, seed=1) * 0.1)

    def run():
        a.grad = None
        chain(a, b, operations).sum().backward()

    return run


def chain_torch(operations: int = 100) -> Callable:
    import torch

    a, b = torch.tensor(random(8, 8), requires_grad=True), torch.tensor(random(8, 8, seed=1) * 0.1)

    def run():
        a.grad = None
        chain(a, b, operations).sum().backward()

    return run


def chain_jax(operations: int = 100) -> Callable:
    import jax

    a, b = jax.numpy.asarray(random(8, 8)), jax.numpy.asarray(random(8, 8, seed=1) * 0.1)
    gradient = jax.jit(jax.grad(lambda a, b: chain(a, b, operations).sum()))
    return lambda: gradient(a, b).block_until_ready()


# ------------------------------------------------------------------------- MLP with BatchNorm, Adam
def mlp_data(sizes: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    return random(batch, sizes[0]), np.random.default_rng(1).integers(0, sizes[-1], batch)


def mlp_layers(nn, sizes: tuple[int, ...]) -> list:
    """Linear, BatchNorm1d, ReLU for each hidden layer, then Linear; the names agree."""
    layers: list = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU()]
    return [*layers, nn.Linear(*sizes[-2:])]


def train_minigrad(layers: Callable, data: tuple[np.ndarray, np.ndarray]) -> Callable:
    """A training step of the net that `layers` builds from the library's `nn`."""
    import minigrad as mg

    model = mg.nn.Sequential(*layers(mg.nn))
    criterion, optimizer = mg.nn.CrossEntropyLoss(), mg.optim.Adam(model.parameters())
    x, target = (mg.tensor(a) for a in data)

    def step():
        optimizer.zero_grad()
        criterion(model(x), target).backward()
        optimizer.step()

    return step


def train_torch(
    layers: Callable, data: tuple[np.ndarray, np.ndarray], fused: bool = False
) -> Callable:
    import torch

    model = torch.nn.Sequential(*layers(torch.nn))
    criterion, optimizer = (
        torch.nn.CrossEntropyLoss(),
        torch.optim.Adam(model.parameters(), fused=fused),
    )
    x, target = (torch.from_numpy(a) for a in data)

    def step():
        optimizer.zero_grad()
        criterion(model(x), target).backward()
        optimizer.step()

    return step


def train_jax(loss: Callable, parameters, running) -> Callable:
    """An Adam step on loss(parameters, running) -> (loss, running)."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def update(parameters, running, m, v, t):
        gradients, running = jax.grad(loss, has_aux=True)(parameters, running)
        tree_map = jax.tree_util.tree_map
        m = tree_map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = tree_map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        scale, root = 1e-3 / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
        parameters = tree_map(
            lambda p, m, v: p - scale * m / (jnp.sqrt(v) * root + 1e-8), parameters, m, v
        )
        return parameters, running, m, v, t + 1

    zeros = jax.tree_util.tree_map(jnp.zeros_like, parameters)
    state = [parameters, running, zeros, zeros, jnp.float32(1)]

    def step():
        state[:] = update(*state)
        jax.block_until_ready(state)

    return step


def step_minigrad(sizes: tuple[int, ...], batch: int) -> Callable:
    return train_minigrad(lambda nn: mlp_layers(nn, sizes), mlp_data(sizes, batch))


def step_torch(sizes: tuple[int, ...], batch: int, fused: bool = False) -> Callable:
    return train_torch(lambda nn: mlp_layers(nn, sizes), mlp_data(sizes, batch), fused)


def mlp_jax(sizes: tuple[int, ...]) -> tuple:
    """The loss of parameters, running statistics, x and target; parameters; running statistics."""
    import jax
    import jax.numpy as jnp

    parameters = []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        layer = {"w": jnp.asarray(random(n_in, n_out, seed=k) / n_in**0.5), "b": jnp.zeros(n_out)}
        if k < len(sizes) - 2:
            layer |= {"scale": jnp.ones(n_out), "shift": jnp.zeros(n_out)}
        parameters.append(layer)
    running = [(jnp.zeros(n), jnp.ones(n)) for n in sizes[1:-1]]

    def loss(parameters, running, x, target):
        h, updated, batch = x, [], len(x)
        for layer, (mean, var) in zip(parameters[:-1], running, strict=True):
            h = h @ layer["w"] + layer["b"]
            m, v = h.mean(0), h.var(0)
            updated.append((0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * batch / (batch - 1)))
            h = jax.nn.relu((h - m) / jnp.sqrt(v + 1e-5) * layer["scale"] + layer["shift"])
        h = jax.nn.log_softmax(h @ parameters[-1]["w"] + parameters[-1]["b"])
        return -jnp.take_along_axis(h, target[:, None], 1).mean(), updated

    return loss, parameters, running


def step_jax(sizes: tuple[int, ...], batch: int) -> Callable:
    import jax.numpy as jnp

    x, target = (jnp.asarray(a) for a in mlp_data(sizes, batch))
    loss, *state = mlp_jax(sizes)
    return train_jax(lambda parameters, running: loss(parameters, running, x, target), *state)


# ------------------------------------------------------------------------ many MLPs with BatchNorm
def ensemble_data(members: int, sizes: tuple[int, ...], batch: int) -> tuple:
    shape = members, batch
    return random(*shape, sizes[0]), np.random.default_rng(1).integers(0, sizes[-1], shape)


def ensemble_minigrad(members: int, sizes: tuple[int, ...], batch: int) -> Callable:
    import minigrad as mg

    net = mg.nn.Ensemble(lambda: mg.nn.Sequential(*mlp_layers(mg.nn, sizes)), members)
    criterion, optimizer = mg.nn.CrossEntropyLoss(), mg.optim.Adam(net.parameters())
    x, target = (mg.tensor(a) for a in ensemble_data(members, sizes, batch))

    def step():
        optimizer.zero_grad()
        net.loss(criterion, net(x), target).sum().backward()
        optimizer.step()

    return step


def loop_of_steps(members: int, sizes: tuple[int, ...], batch: int) -> Callable:
    steps = [step_minigrad(sizes, batch) for _ in range(members)]

    def step():
        for one in steps:
            one()

    return step


def ensemble_jax(members: int, sizes: tuple[int, ...], batch: int) -> Callable:
    import jax
    import jax.numpy as jnp
    import optax

    loss, *states = mlp_jax(sizes)
    parameters, running = jax.tree_util.tree_map(lambda a: jnp.stack([a] * members), states)
    x, target = (jnp.asarray(a) for a in ensemble_data(members, sizes, batch))
    adam = optax.adam(1e-3)
    slopes = jax.vmap(jax.grad(loss, has_aux=True))

    @jax.jit
    def update(parameters, running, state):
        gradients, running = slopes(parameters, running, x, target)
        moves, state = adam.update(gradients, state)
        return optax.apply_updates(parameters, moves), running, state

    state = [parameters, running, adam.init(parameters)]

    def step():
        state[:] = update(*state)
        jax.block_until_ready(state)

    return step


def matmuls(sizes: tuple[int, ...], batch: int) -> Callable:
    """The matrix products of a step, by NumPy into preallocated outputs: the BLAS limit."""
    jobs = []
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        x, w, g = random(batch, n_in), random(n_out, n_in), random(batch, n_out)
        jobs += [(x, w.T, np.empty((batch, n_out), "f")), (g.T, x, np.empty((n_out, n_in), "f"))]
        if k:
            jobs.append((g, w, np.empty((batch, n_in), "f")))

    def run():
        for a, b, out in jobs:
            np.dot(a, b, out)

    return run


# ----------------------------------------------------------------------- CNN with BatchNorm, Adam
CLASSES = 10


def cnn_data(channels: tuple[int, ...], side: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    images = random(batch, channels[0], side, side)
    return images, np.random.default_rng(1).integers(0, CLASSES, batch)


def cnn_layers(nn, channels: tuple[int, ...], side: int) -> list:
    """A 3 x 3 convolution, BatchNorm2d, ReLU and max-pooling of 2 x 2 for each pair of channels."""
    layers: list = []
    for n_in, n_out in pairwise(channels):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    left = side // 2 ** (len(channels) - 1)
    return [*layers, nn.Flatten(), nn.Linear(channels[-1] * left**2, CLASSES)]


def cnn_minigrad(channels: tuple[int, ...], side: int, batch: int) -> Callable:
    data = cnn_data(channels, side, batch)
    return train_minigrad(lambda nn: cnn_layers(nn, channels, side), data)


def cnn_torch(channels: tuple[int, ...], side: int, batch: int, fused: bool = False) -> Callable:
    data = cnn_data(channels, side, batch)
    return train_torch(lambda nn: cnn_layers(nn, channels, side), data, fused)


def cnn_jax(channels: tuple[int, ...], side: int, batch: int) -> Callable:
    import jax
    import jax.numpy as jnp

    x, target = (jnp.asarray(a) for a in cnn_data(channels, side, batch))
    parameters, running = [], []
    for k, (n_in, n_out) in enumerate(pairwise(channels)):
        kernel = jnp.asarray(random(n_out, n_in, 3, 3, seed=k) / (9 * n_in) ** 0.5)
        vectors = {"b": jnp.zeros(n_out), "scale": jnp.ones(n_out), "shift": jnp.zeros(n_out)}
        parameters.append({"w": kernel, **vectors})
        running.append((jnp.zeros(n_out), jnp.ones(n_out)))
    size = channels[-1] * (side // 2 ** (len(channels) - 1)) ** 2
    last = {"w": jnp.asarray(random(size, CLASSES) / size**0.5), "b": jnp.zeros(CLASSES)}

    def per_channel(v):
        return v[:, None, None]

    def loss(parameters, running):
        h, updated = x, []
        for layer, (mean, var) in zip(parameters[:-1], running, strict=True):
            h = jax.lax.conv_general_dilated(h, layer["w"], (1, 1), "SAME")
            h = h + per_channel(layer["b"])
            m, v = h.mean((0, 2, 3)), h.var((0, 2, 3))
            count = h.size // h.shape[1]
            updated.append((0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * count / (count - 1)))
            h = (h - per_channel(m)) / jnp.sqrt(per_channel(v) + 1e-5)
            h = jax.nn.relu(h * per_channel(layer["scale"]) + per_channel(layer["shift"]))
            h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        h = h.reshape(batch, -1) @ parameters[-1]["w"] + parameters[-1]["b"]
        h = jax.nn.log_softmax(h)
        return -jnp.take_along_axis(h, target[:, None], 1).mean(), updated

    return train_jax(loss, [*parameters, last], running)


# ---------------------------------------------------------------------------------------- BatchNorm
def normalize(x, mean, var, sqrt):
    return (x - mean) / sqrt(var + 1e-5)


def norm_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    axes = (0, *range(2, len(shape)))
    return axes, tuple(1 if d in axes else n for d, n in enumerate(shape))


def batchnorm_minigrad(shape: tuple[int, ...]) -> Callable:
    import minigrad as mg

    layer = (mg.nn.BatchNorm1d if len(shape) < 4 else mg.nn.BatchNorm2d)(shape[1])
    x, g = mg.tensor(random(*shape), requires_grad=True), mg.tensor(random(*shape, seed=1))

    def run():
        x.grad = layer.weight.grad = layer.bias.grad = None
        layer(x).backward(g)

    return run


def composed_of_primitives(run: Callable) -> Callable:
    """The same with the derived formulas switched off."""
    from minigrad._core.fast.accelerate import shortcuts

    loops = shortcuts()["derived formulas"]

    def composed():
        loops.enabled = False
        run()
        loops.enabled = True

    return composed


def on_two_threads(run: Callable) -> Callable:
    """The same with a second thread for large loops, wherever the process may run."""
    from minigrad._core.fast.loops import set_threads

    def shared():
        threads, processors = set_threads(2), os.sched_getaffinity(0)
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        run()
        os.sched_setaffinity(0, processors)
        set_threads(threads)

    return shared


def threads_work(name: str, make: Callable) -> Work:
    """Two threads compared with one."""
    contenders = {"minigrad": lambda: on_two_threads(make()), "minigrad on one thread": make}
    return Work(f"{name}, two threads", contenders, {"minigrad on one thread": 1.0})


def cross_entropy_minigrad(composed: bool) -> Callable:
    """The mean loss of 100 rows of 2, by the primitive or the four primitives it replaces."""
    import minigrad as mg
    from minigrad._core import ops

    x, labels = mg.tensor(random(100, 2), requires_grad=True), mg.tensor(np.arange(100) % 2)

    def run():
        x.grad = None
        if composed:
            log_p = mg.log_softmax(x, 1)
            loss = mg.take_along_axis(log_p, labels.reshape(-1, 1), 1).sum() / -100.0
        else:
            loss = ops.softmax_cross_entropy(x, labels).mean()
        loss.backward()
        return loss

    return run


def batchnorm_torch(shape: tuple[int, ...], composed: bool) -> Callable:
    import torch

    axes, kept = norm_shapes(shape)
    layer = (torch.nn.BatchNorm1d if len(shape) < 4 else torch.nn.BatchNorm2d)(shape[1])
    x, g = torch.tensor(random(*shape), requires_grad=True), torch.tensor(random(*shape, seed=1))

    def forward():
        if not composed:
            return layer(x)
        mean, var = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, correction=0)
        y = normalize(x, mean, var, torch.sqrt)
        return y * layer.weight.reshape(kept) + layer.bias.reshape(kept)

    def run():
        x.grad = layer.weight.grad = layer.bias.grad = None
        forward().backward(g)

    return run


def batchnorm_jax(shape: tuple[int, ...]) -> Callable:
    import jax
    import jax.numpy as jnp

    axes, kept = norm_shapes(shape)
    x, g = jnp.asarray(random(*shape)), jnp.asarray(random(*shape, seed=1))

    def loss(x, weight, bias):
        y = normalize(x, x.mean(axes, keepdims=True), x.var(axes, keepdims=True), jnp.sqrt)
        return (g * (y * weight + bias)).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    weight, bias = jnp.ones(kept), jnp.zeros(kept)
    return lambda: jax.block_until_ready(gradient(x, weight, bias))


# --------------------------------------------------------------------------------------------- LSTM
LSTM = 64, 128, 32, 32  # features of the input, hidden units, steps, batch


def lstm_data() -> tuple[np.ndarray, np.ndarray]:
    """An input and a cotangent of the output, (steps, batch, features)."""
    features, hidden, steps, batch = LSTM
    return random(steps, batch, features), random(steps, batch, hidden, seed=1)


def recurrent(library: str, kind: str = "LSTM") -> Callable:
    """Forward and backward of a recurrent layer of minigrad or torch; the names are the same."""
    module = import_module(library)
    layer = getattr(module.nn, kind)(*LSTM[:2])
    x, g = map(module.tensor, lstm_data())
    x.requires_grad = True

    def run():
        x.grad = None
        layer.zero_grad()
        layer(x)[0].backward(g)

    return run


def lstm_jax() -> Callable:
    import jax
    import jax.numpy as jnp

    features, hidden, _, batch = LSTM
    x, g = map(jnp.asarray, lstm_data())
    shapes = (4 * hidden, features), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)
    weights = [jnp.asarray(random(*s, seed=k) / hidden**0.5) for k, s in enumerate(shapes)]

    def loss(x, w_ih, w_hh, b_ih, b_hh):
        def step(state, z):
            h, c = state
            i, f, m, o = jnp.split(z + h @ w_hh.T, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(m)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((batch, hidden))
        return (jax.lax.scan(step, (start, start), x @ w_ih.T + b_ih + b_hh)[1] * g).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))
    return lambda: jax.block_until_ready(gradient(x, *weights))


# --------------------------------------------------------------------------------- linear algebra
def equations(
    library: str, name: str, n: int, columns: tuple[int, ...], backward: bool
) -> Callable:
    """`linalg.solve` of a matrix (n, n) and right sides (n, *columns), or `linalg.cholesky` of a
    positive definite one; the names are the same in both libraries."""
    module = import_module(library)
    matrix = random(n, n)
    if name == "cholesky":
        matrix = matrix @ matrix.T + n * np.eye(n, dtype=np.float32)
    arrays = [matrix, random(n, *columns, seed=1)][: 1 if name == "cholesky" else 2]
    inputs = [module.tensor(a, requires_grad=True) for a in arrays]
    function, g = getattr(module.linalg, name), None

    def run():
        nonlocal g
        for x in inputs:
            x.grad = None
        y = function(*inputs)
        if backward:
            g = module.ones_like(y) if g is None else g
            y.backward(g)

    return run


# -------------------------------------------------------------------------- kernels against NumPy's
def kernel_minigrad(name: str, shape: tuple[int, ...], axis) -> Callable:
    import minigrad as mg

    x = mg.tensor(np.abs(random(*shape)) + 0.1)
    function = getattr(mg, name)
    return (lambda: function(x)) if axis == "elementwise" else (lambda: function(x, axis=axis))


def kernel_numpy(name: str, shape: tuple[int, ...], axis) -> Callable:
    x = np.abs(random(*shape)) + np.float32(0.1)
    if name == "sigmoid":
        return lambda: 1 / (1 + np.exp(-x))
    function = getattr(np, name)
    return (lambda: function(x)) if axis == "elementwise" else (lambda: function(x, axis=axis))


def product_arrays(rows: int, inner: int, columns: int, layout: str) -> tuple:
    """Two matrices; the layout has a letter for each: n for C order, t for transposed."""
    a, b = random(rows, inner), random(inner, columns, seed=1)
    return (
        np.asfortranarray(a) if layout[0] == "t" else a,
        np.asfortranarray(b) if layout[1] == "t" else b,
    )


def product_minigrad(*product) -> Callable:
    import minigrad as mg

    x, y = map(mg.asarray, product_arrays(*product))
    return lambda: x @ y


def product_numpy(rows: int, inner: int, columns: int, layout: str) -> Callable:
    x, y = product_arrays(rows, inner, columns, layout)
    out = np.empty((rows, columns), np.float32)
    return lambda: np.dot(x, y, out)


# ------------------------------------------------------------------- every function against NumPy's
MILLION, SQUARE, CUBE = (1048576,), (1024, 1024), (64, 256, 64)
OPERANDS: dict[str, Callable] = {
    "x": lambda shape: random(*shape),
    "y": lambda shape: random(*shape, seed=1),
    "row": lambda shape: random(shape[-1], seed=1),
    "column": lambda shape: random(*shape[:-1], 1, seed=1),
    "positive": lambda shape: np.abs(random(*shape)) + 0.1,
    "unit": lambda shape: np.tanh(random(*shape)) * 0.999,
    "above 1": lambda shape: np.abs(random(*shape)) + 1.1,
    "mask": lambda shape: random(*shape, seed=2) > 0,
    "index": lambda shape: np.random.default_rng(3).integers(0, min(shape), shape),
    "picks": lambda shape: np.random.default_rng(3).integers(0, shape[0], shape[0]),
}


def scatter_numpy(x: np.ndarray, axis: int, index: np.ndarray, source: np.ndarray) -> np.ndarray:
    out, places = x.copy(), list(np.ogrid[tuple(map(slice, index.shape))])
    places[axis] = index
    np.add.at(out, tuple(places), source)
    return out


def put_numpy(x: np.ndarray, index, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


def exponentials(x: np.ndarray, axis: int) -> np.ndarray:
    return np.exp(x - x.max(axis, keepdims=True))


# The NumPy code for functions that have another name there or do not exist.
IN_NUMPY: dict[str, Callable] = {
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "relu": lambda x: np.maximum(x, 0),
    "gate": lambda x, y: np.where(y <= 0, 0, x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "logsigmoid": lambda x: -np.logaddexp(0, -x),
    "norm": np.linalg.norm,
    "logsumexp": lambda x, axis: np.log(exponentials(x, axis).sum(axis)) + x.max(axis),
    "softmax": lambda x, axis: (e := exponentials(x, axis)) / e.sum(axis, keepdims=True),
    "log_softmax": lambda x, axis: (
        (z := x - x.max(axis, keepdims=True)) - np.log(np.exp(z).sum(axis, keepdims=True))
    ),
    "clone": np.copy,
    "flatten": np.ravel,
    "split": lambda x, size: np.split(x, len(x) // size),
    "getitem": lambda x, index: x[index],
    "put": put_numpy,
    "scatter_add": scatter_numpy,
}


@lru_cache(8)
def operand(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same memory for both contenders."""
    array = OPERANDS[name](shape)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def function_operands(given, dtype: str, shape: tuple[int, ...], use: Callable = lambda a: a):
    """Replace names in OPERANDS by use(array), with floats in that dtype."""
    if isinstance(given, (list, tuple)):
        return type(given)(function_operands(part, dtype, shape, use) for part in given)
    named = isinstance(given, str) and given in OPERANDS
    return use(operand(given, dtype, shape)) if named else given


def function_minigrad(name: str, dtype: str, shape: tuple[int, ...], given: tuple, axis: dict):
    import minigrad as mg

    operands, function = function_operands(given, dtype, shape, mg.asarray), getattr(mg, name)
    return lambda: function(*operands, **axis)


def function_numpy(name: str, dtype: str, shape: tuple[int, ...], given: tuple, axis: dict):
    operands = function_operands(given, dtype, shape)
    function = IN_NUMPY.get(name) or getattr(np, name)
    return lambda: function(*operands, **axis)


# ------------------------------------------------------------------------ separate processes
LARGEST = (1024, 2048, 2048, 10), 512
LARGEST_CNN = (1, 16, 32), 28, 64


def in_process(code: str) -> float:
    """Run code in a fresh Python and return the number it prints. Bytecode is cached, as in an
    installed package."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join([str(Path(__file__).parent), *map(os.path.abspath, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def import_time(module: str) -> Callable[[], float]:
    """Milliseconds to import a module after NumPy."""
    return lambda: in_process(
        f"import numpy, time; start = time.perf_counter(); import {module}; "
        "print((time.perf_counter() - start) * 1e3)"
    )


def resident(peak: bool) -> float:
    """Resident memory of this process in MB, current or peak.

    On Linux `ru_maxrss` of a child includes the peak of its parent, but VmHWM does not. Elsewhere
    the peak is used for both.
    """
    status = Path("/proc/self/status")
    if status.exists():
        name = "VmHWM:" if peak else "VmRSS:"
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1e3
    import resource  # not on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1e6 if sys.platform == "darwin" else 1e3)


def step_memory(make: Callable, sizes: tuple[int, ...], batch: int) -> float:
    """Peak MB of a training step: parameters, gradients, Adam's moments, the graph.

    A step of a small net loads the library first, and the data already exist: neither is counted.
    """
    make((4, 4, 2), 4)()
    data = mlp_data(sizes, batch)
    before = resident(peak=False)
    step = make(sizes, batch)
    for _ in range(3):
        step()
    del data
    return resident(peak=True) - before


def cnn_memory(make: Callable, channels: tuple[int, ...], side: int, batch: int) -> float:
    """The same for a training step of a CNN."""
    make((1, 2, 2), 4, 4)()
    before = resident(peak=False)
    step = make(channels, side, batch)
    for _ in range(3):
        step()
    return resident(peak=True) - before


def peak_memory(measure: str, make: str, shape: tuple) -> Callable[[], float]:
    """The result of `measure` for a step made by `make`, in a separate process."""
    arguments = ", ".join(map(str, shape))
    return lambda: in_process(f"import contenders as c; print(c.{measure}(c.{make}, {arguments}))")


# ---------------------------------------------------------------------------------------- the table
@dataclass
class Work:
    """One row: the work, the contenders, and the largest acceptable ratio to each peer.

    If the unit is not microseconds, the callables return the figure instead of being timed, and
    `at_most` is the largest acceptable figure of minigrad.
    """

    name: str
    contenders: dict[str, Callable[[], Callable]]
    targets: dict[str, float] = field(default_factory=dict)
    unit: str = "us"
    at_most: float | None = None
    brief: bool = False  # one of very many rows: half the rounds, 1/25 of the time


def mlp_work(sizes: tuple[int, ...], batch: int, targets: dict[str, float]) -> Work:
    contenders = {
        "minigrad": lambda: step_minigrad(sizes, batch),
        "torch": lambda: step_torch(sizes, batch),
        "torch fused Adam": lambda: step_torch(sizes, batch, fused=True),
        "jax": lambda: step_jax(sizes, batch),
        "matmuls": lambda: matmuls(sizes, batch),
    }
    return Work(f"MLP-BN {'-'.join(map(str, sizes))}, batch {batch}", contenders, targets)


def ensemble_work(sizes: tuple[int, ...], batch: int, targets: dict[str, float]) -> Work:
    shape = 32, sizes, batch
    contenders = {
        "minigrad": lambda: ensemble_minigrad(*shape),
        "loop": lambda: loop_of_steps(*shape),
        "jax vmap": lambda: ensemble_jax(*shape),
    }
    return Work(f"32 x MLP-BN {'-'.join(map(str, sizes))}, batch {batch}", contenders, targets)


def cnn_work(channels: tuple[int, ...], side: int, batch: int, targets: dict[str, float]) -> Work:
    contenders = {
        "minigrad": lambda: cnn_minigrad(channels, side, batch),
        "torch": lambda: cnn_torch(channels, side, batch),
        "torch fused Adam": lambda: cnn_torch(channels, side, batch, fused=True),
        "jax": lambda: cnn_jax(channels, side, batch),
    }
    name = f"CNN-BN {'-'.join(map(str, channels))} on {side}x{side}, batch {batch}"
    return Work(name, contenders, targets)


def batchnorm_work(shape: tuple[int, ...]) -> Work:
    contenders = {
        "minigrad": lambda: batchnorm_minigrad(shape),
        "torch composed": lambda: batchnorm_torch(shape, composed=True),
        "torch": lambda: batchnorm_torch(shape, composed=False),
        "jax": lambda: batchnorm_jax(shape),
    }
    return Work(
        f"BatchNorm {shape}, forward + backward", contenders, {"torch composed": 0.5, "torch": 2.5}
    )


def kernel_work(name: str, shape: tuple[int, ...], axis="elementwise") -> Work:
    label = f"{name} of {shape}" + ("" if axis == "elementwise" else f", axis {axis}")
    contenders = {
        "minigrad": lambda: kernel_minigrad(name, shape, axis),
        "numpy": lambda: kernel_numpy(name, shape, axis),
    }
    return Work(label, contenders, {"numpy": 1.0})


def equations_work(name: str, n: int, columns: tuple[int, ...], backward: bool) -> Work:
    sides = f" with {(n, *columns)}" if name == "solve" else ""
    return Work(
        f"{name} of {(n, n)}{sides}, forward" + " + backward" * backward,
        {
            library: lambda library=library: equations(library, name, n, columns, backward)
            for library in ("minigrad", "torch")
        },
        {"torch": 1.0},
    )


def product_work(rows: int, inner: int, columns: int, layout: str) -> Work:
    contenders = {
        "minigrad": lambda: product_minigrad(rows, inner, columns, layout),
        "numpy": lambda: product_numpy(rows, inner, columns, layout),
    }
    name = f"{rows}x{inner} @ {inner}x{columns}, {layout}"
    return Work(name, contenders, {"numpy": 1.0})


def function_work(name: str, shape: tuple[int, ...], *given, axis="none", said: str = "") -> list:
    """A row per dtype: the function on operands of the shape, along an axis if any."""
    works, options = [], {} if axis == "none" else {"axis": axis}
    for dtype in ("float32", "float64"):
        label = f"{name}{said} of {dtype} {shape}" + "".join(
            f", axis {axis}" for axis in options.values()
        )
        contenders = {
            "minigrad": lambda d=dtype: function_minigrad(name, d, shape, given, options),
            "numpy": lambda d=dtype: function_numpy(name, d, shape, given, options),
        }
        works.append(Work(label, contenders, {"numpy": 1.0}, brief=True))
    return works


# Names, by the operand they are defined for.
UNARY = {
    "x": "negative abs sign square reciprocal relu exp exp2 expm1 sin cos tan atan sinh cosh tanh "
    "asinh sigmoid silu softplus logsigmoid floor ceil trunc round isnan isinf isfinite "
    "logical_not clone flatten all any count_nonzero argmax argmin nonzero",
    "positive": "sqrt rsqrt log log2 log10 log1p",
    "unit": "asin acos atanh",
    "above 1": "acosh",
}
BINARY = (
    "add subtract multiply divide maximum minimum gate less less_equal greater greater_equal equal "
    "not_equal floor_divide remainder atan2 hypot logical_and logical_or logical_xor isclose "
    "allclose"
)
REDUCED = "sum prod mean var std max min norm"
ALONG = (
    f"{REDUCED} all any count_nonzero logsumexp softmax log_softmax argmax argmin cumulative_sum "
    "cumulative_prod flip unstack"
)
SUBSCRIPTS = "ij,ij->j ij,ij->i ij,ij-> ij->ji ij->j ij,j->i ij,i->j ij,j->ij"


def every_function() -> list[Work]:
    """Every function that NumPy also has, on 2^20 elements, along each axis if it takes one."""
    rows = []
    for operand, names in UNARY.items():
        for name in names.split():
            rows += function_work(name, MILLION, operand)
    for name in BINARY.split():
        rows += function_work(name, MILLION, "x", "y")
    for axis in (0, 1):
        rows += function_work("sort", SQUARE, "x", axis=axis)
        rows += function_work("argsort", SQUARE, "x", axis=axis)
        rows += function_work("scatter_add", SQUARE, "x", axis, "index", "y", said=f" along {axis}")
    for said, other in {" a row": "row", " a column": "column", " a number": 0.5}.items():
        rows += function_work("add", SQUARE, "x", other, said=said)
        rows += function_work("less", SQUARE, "x", other, said=said)
    rows += function_work("pow", MILLION, "positive", "y")
    rows += function_work("pow", MILLION, "x", 2, said=" 2")
    rows += function_work("where", MILLION, "mask", "x", "y")
    rows += function_work("clip", MILLION, "x", -0.5, 0.5)
    for name in REDUCED.split():
        rows += function_work(name, MILLION, "x")
    for shape in (SQUARE, CUBE):
        for axis in range(len(shape)):
            for name in ALONG.split():
                rows += function_work(name, shape, "x", axis=axis)
            rows += function_work("take_along_axis", shape, "x", "index", axis=axis)
            rows += function_work("take", shape, "x", "picks", axis=axis)
            rows += function_work("concat", shape, ["x", "y"], axis=axis)
            rows += function_work("stack", shape, ["x", "y"], axis=axis)
            rows += function_work("repeat", shape, "x", 2, axis=axis)
            rows += function_work("roll", shape, "x", 3, axis=axis)
            rows += function_work("expand_dims", shape, "x", axis=axis)
            rows += function_work("vecdot", shape, "x", "y", axis=axis - len(shape))
        for axes in [(0, 1)] if shape == SQUARE else [(0, 1), (0, 2), (1, 2)]:
            for name in REDUCED.split():
                rows += function_work(name, shape, "x", axis=axes)
    rows += function_work("take_along_axis", MILLION, "x", "index", axis=0)
    rows += function_work("cumulative_sum", MILLION, "x", axis=0)
    rows += function_work("put", MILLION, "x", "index", MILLION)
    rows += function_work("put", SQUARE, "x", "picks", SQUARE)
    rows += function_work("getitem", MILLION, "x", "index", said=" with integers")
    rows += function_work("getitem", SQUARE, "x", "picks", said=" with integers")
    rows += function_work("getitem", SQUARE, "x", "mask", said=" with a mask")
    rows += function_work("getitem", SQUARE, "x", (slice(1, -1), slice(1, -1)), said=" with slices")
    rows += function_work("pad", SQUARE, "x", 1)
    rows += function_work("tile", SQUARE, "x", (2, 1))
    rows += function_work("tril", SQUARE, "x")
    rows += function_work("triu", SQUARE, "x")
    rows += function_work("diagonal", SQUARE, "x")
    rows += function_work("trace", SQUARE, "x")
    rows += function_work("outer", (1024,), "x", "y")
    rows += function_work("broadcast_to", (1024,), "x", SQUARE)
    rows += function_work("meshgrid", (1024,), "x", "y")
    rows += function_work("reshape", SQUARE, "x", CUBE)
    rows += function_work("permute_dims", CUBE, "x", (2, 0, 1))
    rows += function_work("swapaxes", CUBE, "x", 0, 2)
    rows += function_work("moveaxis", CUBE, "x", 0, 2)
    rows += function_work("matrix_transpose", SQUARE, "x")
    rows += function_work("squeeze", (1, *SQUARE), "x")
    rows += function_work("split", SQUARE, "x", 512)
    for subscripts in SUBSCRIPTS.split():
        other = ["y"] if subscripts.startswith("ij,ij") else ["row"] if "," in subscripts else []
        rows += function_work("einsum", SQUARE, subscripts, "x", *other, said=f" {subscripts}")
    return rows


STEPS = [
    Work("a + b, 8x8, recorded", {"minigrad": add_minigrad, "torch": add_torch}, {"torch": 1 / 12}),
    Work(
        "100-op chain on 8x8, forward + backward",
        {"minigrad": chain_minigrad, "torch": chain_torch, "jax": chain_jax},
        {"torch": 1 / 10, "jax": 2.0},
    ),
    mlp_work((2, 16, 16, 2), 100, {"torch": 1 / 10, "torch fused Adam": 1 / 7, "jax": 1 / 3}),
    mlp_work((64, 64, 64, 10), 32, {"torch": 1 / 8, "torch fused Adam": 1 / 5, "jax": 1 / 2}),
    mlp_work((784, 256, 256, 10), 128, {"torch fused Adam": 1 / 2, "jax": 0.8, "matmuls": 1.4}),
    mlp_work(*LARGEST, {"torch": 1 / 2, "jax": 1.0, "matmuls": 1.12}),
    cnn_work((1, 8, 16), 8, 32, {"torch": 1 / 2, "jax": 1.0}),
    cnn_work(*LARGEST_CNN, {"torch": 0.8}),
]
RECURRENT = [
    Work(
        "LSTM({}, {}) over {} steps of batch {}, forward + backward".format(*LSTM),
        {
            "minigrad": lambda: recurrent("minigrad"),
            "torch": lambda: recurrent("torch"),
            "jax": lstm_jax,
        },
        {"torch": 1.0},
    )
]
BATCHNORM = [batchnorm_work(shape) for shape in ((128, 256), (4096, 1024), (32, 64, 28, 28))]
COMPOSED = [
    Work(
        "BatchNorm (100, 16), forward + backward",
        {
            "minigrad": lambda: batchnorm_minigrad((100, 16)),
            "minigrad composed": lambda: composed_of_primitives(batchnorm_minigrad((100, 16))),
        },
        {"minigrad composed": 1.0},
    ),
    Work(
        "cross-entropy of (100, 2), forward + backward",
        {
            "minigrad": lambda: cross_entropy_minigrad(composed=False),
            "minigrad composed": lambda: cross_entropy_minigrad(composed=True),
        },
        {"minigrad composed": 1.0},
    ),
]
LARGE = (4096, 1024)
THREADS = [
    threads_work(
        f"x + y of {LARGE}",
        lambda: function_minigrad("add", "float32", LARGE, ("x", "y"), {}),
    ),
    threads_work(f"exp of {LARGE}", lambda: kernel_minigrad("exp", LARGE, "elementwise")),
    threads_work(f"sum of {LARGE}, axis 0", lambda: kernel_minigrad("sum", LARGE, 0)),
    threads_work(f"BatchNorm {LARGE}, forward + backward", lambda: batchnorm_minigrad(LARGE)),
]
KERNELS = [
    kernel_work(name, (n,))
    for n in (4096, 1048576)
    for name in ("exp", "log", "tanh", "sigmoid", "sqrt")
] + [
    kernel_work(name, shape, axis)
    for shapes in (((4096,), (64, 64)), ((1048576,), (1024, 1024), (64, 256, 64)))
    for shape in shapes
    for axis in ([None] if len(shape) == 1 else [0, 1] if len(shape) == 2 else [0, 1, 2, (0, 2)])
    for name in ("sum", "mean", "var", "max")
]
PRODUCTS = [
    product_work(100, 16, 16, "nn"),
    product_work(32, 64, 64, "nn"),
    product_work(32, 64, 64, "nt"),
    product_work(512, 193, 32, "nn"),
    product_work(193, 512, 32, "tn"),
    product_work(128, 784, 256, "nt"),
]
LINALG = [
    equations_work(name, n, columns, backward)
    for n in (4, 32, 256)
    for name, columns in (("solve", ()), ("solve", (n,)), ("cholesky", ()))
    for backward in (False, True)
]
PROCESS = [
    Work(
        "import, beyond NumPy's own",
        {name: lambda name=name: import_time(name) for name in ("minigrad", "torch", "jax")},
        unit="ms",
        at_most=50,
    ),
    Work(
        f"peak memory of the MLP-BN {'-'.join(map(str, LARGEST[0]))} step, batch {LARGEST[1]}",
        {
            name: lambda name=name: peak_memory("step_memory", f"step_{name}", LARGEST)
            for name in ("minigrad", "torch")
        },
        {"torch": 1.0},
        unit="MB",
    ),
    Work(
        f"peak memory of the CNN-BN {'-'.join(map(str, LARGEST_CNN[0]))} step, batch "
        f"{LARGEST_CNN[2]}",
        {
            name: lambda name=name: peak_memory("cnn_memory", f"cnn_{name}", LARGEST_CNN)
            for name in ("minigrad", "torch")
        },
        {"torch": 1.5},
        unit="MB",
    ),
]
ENSEMBLES = [
    ensemble_work((2, 16, 16, 2), 32, {"loop": 0.25, "jax vmap": 0.6}),
    ensemble_work((2, 16, 16, 2), 100, {"loop": 0.35, "jax vmap": 0.55}),
    ensemble_work((64, 64, 64, 10), 32, {"loop": 0.6, "jax vmap": 0.75}),
]
WORK = {
    "steps": STEPS,
    "ensembles": ENSEMBLES,
    "recurrent": RECURRENT,
    "batchnorm": BATCHNORM,
    "kernels": KERNELS,
    "products": PRODUCTS,
    "linalg": LINALG,
    "process": PROCESS,
    "composed": COMPOSED,
    "threads": THREADS,
    "functions": every_function(),
}
# Only if named: minigrad against itself, and about 600 rows that take a minute.
ON_REQUEST = {"composed", "threads", "functions"}


def present(work: Work) -> dict[str, Callable[[], Callable]]:
    """The contenders of a row with an installed library."""
    library = {
        "torch": "torch",
        "torch fused Adam": "torch",
        "torch composed": "torch",
        "jax": "jax",
        "jax vmap": "optax",
    }
    return {
        name: make
        for name, make in work.contenders.items()
        if available(library.get(name, "numpy"))
    }
