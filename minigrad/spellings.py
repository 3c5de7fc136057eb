"""What is spelled otherwise in PyTorch and NumPy: one table behind errors and a page of the docs.

Design note
-----------
1. A row of the table says where a name of another library is looked for, the code there, and the
   code here. Both run, on the names of `tests/test_spellings.py`, which walks the table and
   compares the results. A sentence in parentheses stands where there is nothing to write.
2. Cost where no error occurs, measured on Python 3.11:
   - Attributes of Tensor and Module: none. With a `__getattr__`, CPython would make a bound method
     for each call: 41 ns for `x.m()` of a compiled class became 80 to 110 ns. So the names of the
     table are descriptors in the classes that refuse to be read (`Elsewhere`): `hasattr` is False,
     and other attributes are found as before. For near misses of attributes of objects the
     interpreter has its own "Did you mean".
   - Modules have a `__getattr__`, as NumPy and PyTorch have, and CPython does not cache where their
     names are: `mg.exp(x)` takes 20 ns more. Methods do not, nor do functions that were imported.
   - Keywords of compiled functions: none. They raise TypeError in C that Cython generates, and
     setup.py puts a call of `lead_on` there.
   - Keywords of functions in Python: these raise TypeError before any of their code runs, so
     `namespace.led` wraps the functions of `mg`, for 90 to 180 ns. Those of `nn.functional`, whose
     keywords are PyTorch's, are not wrapped.
   - Constructors check their keywords first (`namespace.Constructed`).
   - 0.4 ms of the import.
3. The AttributeError has a `name`, but where there is advice no `obj`: the interpreter would add a
   guess of its own ("here it is x.size. Did you mean: 'numpy'?").
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from ._core.engine.graph import attach_methods

CPU = "(minigrad computes on the CPU; leave it out)"
EAGER = "(minigrad runs eagerly, and has no compiler; leave it out)"
DTYPES = "(the dtypes are float32, float64, int32, int64 and bool)"
PRECISION = f"{DTYPES[:-1]}; float16 files and arrays are read as float32)"
IN_PLACE = "abs ceil cos erf exp floor log reciprocal relu round rsqrt sigmoid sin sqrt tan tanh"


class Spelling(NamedTuple):
    """A row of the table: where the name is looked for (several places are separated by spaces),
    the name, the code there, the code here or a sentence in parentheses, and a note.

    >>> mg.spellings.find("Tensor", "view").here
    'x.reshape(3, 2)'
    """

    where: str
    name: str
    there: str
    here: str
    note: str = ""

    @property
    def advice(self) -> str:
        """What an error and the page say."""
        if self.remark:
            return self.remark
        note = f" ({self.note})" if self.note else ""
        if self.here.isidentifier():
            return f"leave it out: {self.there} is {self.here} here{note}"
        there = f" for {self.there}" if self.name in self.there else ""
        return f"here it is {self.here}{there}{note}"

    @property
    def remark(self) -> str | None:
        """The sentence, if there is no code to write instead."""
        return self.here[1:-1] if self.there == "" else None

    @property
    def renamed(self) -> str:
        """The keyword here of a row about a keyword: that at the same place among the keywords."""
        there, here = (re.findall(r"(\w+)=", code) for code in (self.there, self.here))
        return str(here[there.index(self.name) if self.name in there else 0])


# x and y are float tensors of shape (2, 3), s and w of (3, 3), v and u of (3,), b of (2, 3, 3);
# i holds integers of shape (2, 3), k of (2,), m is x > 0; a is a NumPy array; net is a Linear.
TABLE: list[tuple[str, ...]] = [
    # ------------------------------------------------------------------------------ shapes
    ("Tensor", "view", "x.view(3, 2)", "x.reshape(3, 2)"),
    ("Tensor", "view_as", "s.view_as(w)", "s.reshape(w.shape)"),
    ("Tensor", "reshape_as", "s.reshape_as(w)", "s.reshape(w.shape)"),
    ("Tensor mg", "permute", "x.permute(1, 0)", "x.permute_dims((1, 0))"),
    ("Tensor mg", "transpose", "x.transpose(0, 1)", "x.swapaxes(0, 1)"),
    ("Tensor mg", "t", "x.t()", "x.T"),
    ("Tensor mg", "adjoint", "b.adjoint()", "b.mT"),
    ("Tensor mg", "swapdims", "x.swapdims(0, 1)", "x.swapaxes(0, 1)"),
    ("Tensor mg", "movedim", "b.movedim(0, 2)", "b.moveaxis(0, 2)"),
    ("Tensor mg", "unsqueeze", "x.unsqueeze(1)", "x.expand_dims(1)"),
    ("Tensor mg", "ravel", "x.ravel()", "x.flatten()"),
    ("Tensor mg", "unflatten", "x.unflatten(1, (3, 1))", "x.reshape(2, 3, 1)"),
    ("Tensor", "expand", "v.expand(2, 3)", "v.broadcast_to((2, 3))"),
    ("Tensor", "expand_as", "v.expand_as(x)", "v.broadcast_to(x.shape)"),
    ("Tensor", "contiguous", "x.contiguous()", "x"),
    ("Tensor mg", "numel", "x.numel()", "x.size"),
    ("Tensor", "nelement", "x.nelement()", "x.size"),
    ("Tensor", "dim", "x.dim()", "x.ndim"),
    ("Tensor", "ndimension", "x.ndimension()", "x.ndim"),
    ("Tensor", "element_size", "x.element_size()", "x.dtype.itemsize"),
    ("Tensor", "itemsize", "x.itemsize", "x.dtype.itemsize"),
    ("Tensor", "nbytes", "x.nbytes", "x.size * x.dtype.itemsize"),
    ("mg", "shape", "np.shape(a)", "x.shape"),
    ("mg", "ndim", "np.ndim(a)", "x.ndim"),
    ("mg", "size", "np.size(a)", "x.size"),
    ("Tensor", "is_contiguous stride storage storage_offset untyped_storage data_ptr", "",
     "(minigrad keeps NumPy arrays; see x.numpy().flags and x.numpy().strides)"),
    # ------------------------------------------------------------------- joining and splitting
    ("mg", "cat", "torch.cat([x, y], dim=1)", "mg.concat([x, y], axis=1)"),
    ("mg", "concatenate", "np.concatenate([a, a], axis=1)", "mg.concat([x, x], axis=1)"),
    ("mg", "append", "np.append(a, a, axis=0)", "mg.concat([x, x], axis=0)"),
    ("mg", "vstack", "torch.vstack([x, y])", "mg.concat([x, y], axis=0)"),
    ("mg", "hstack", "torch.hstack([x, y])", "mg.concat([x, y], axis=1)"),
    ("mg", "column_stack", "torch.column_stack([v, u])", "mg.stack([v, u], axis=1)"),
    ("Tensor mg", "chunk", "x.chunk(3, dim=1)", "mg.split(x, x.shape[1] // 3, axis=1)"),
    ("Tensor", "split", "x.split(2, dim=1)", "mg.split(x, 2, axis=1)"),
    ("mg", "array_split", "np.array_split(a, 3, axis=1)", "mg.split(x, x.shape[1] // 3, axis=1)"),
    ("Tensor mg", "unbind", "x.unbind(1)", "mg.unstack(x, axis=1)"),
    ("Tensor mg", "repeat_interleave", "x.repeat_interleave(2, dim=1)", "x.repeat(2, axis=1)"),
    ("mg", "flipud", "np.flipud(a)", "x.flip(0)"),
    ("mg", "fliplr", "np.fliplr(a)", "x.flip(1)"),
    ("mg", "rollaxis", "np.rollaxis(a, 1)", "x.moveaxis(1, 0)"),
    ("mg", "cartesian_prod", "", "(use mg.stack(mg.meshgrid(x, y, indexing='ij'), axis=-1))"),
    # ------------------------------------------------------------------------------ indexing
    ("Tensor mg", "gather", "x.gather(1, i)", "x.take_along_axis(i, axis=1)"),
    ("Tensor mg", "index_select", "x.index_select(0, k)", "x.take(k, axis=0)"),
    ("Tensor mg", "masked_select", "x.masked_select(m)", "x[m]"),
    ("Tensor mg", "masked_fill", "x.masked_fill(m, 0.5)", "mg.where(m, 0.5, x)"),
    ("Tensor mg", "narrow", "x.narrow(1, 0, 2)", "x[:, 0:2]"),
    ("Tensor mg", "select", "x.select(1, 0)", "x[:, 0]"),
    ("Tensor mg", "argwhere", "m.argwhere()", "mg.stack(mg.nonzero(m), axis=1)"),
    ("Tensor mg", "diag", "s.diag()", "s.diagonal()", "of a vector: mg.eye(3) * v"),
    ("Tensor mg", "diag_embed", "x.diag_embed()", "x.expand_dims(2) * mg.eye(3)"),
    ("Tensor mg", "diagflat", "v.diagflat()", "mg.eye(3) * v"),
    ("Tensor", "scatter_add_", "x.scatter_add_(1, i, y)", "x.copy_(x.scatter_add(1, i, y))"),
    ("Tensor mg", "scatter scatter_ index_copy index_fill index_add put_along_axis", "",
     "(write x[index] = value on a detached tensor, or add with scatter_add)"),
    # ---------------------------------------------------------------- elementwise functions
    ("Tensor mg", "clamp", "x.clamp(0, 1)", "x.clip(0, 1)"),
    ("Tensor mg", "clamp_min", "x.clamp_min(0)", "x.clip(min=0)"),
    ("Tensor mg", "clamp_max", "x.clamp_max(1)", "x.clip(max=1)"),
    ("Tensor mg", "sub", "x.sub(y)", "x - y"),
    ("Tensor mg", "mul", "x.mul(y)", "x * y"),
    ("Tensor mg", "div", "x.div(y)", "x / y"),
    ("Tensor mg", "true_divide", "x.true_divide(y)", "x / y"),
    ("Tensor mg", "neg", "x.neg()", "-x"),
    ("Tensor mg", "fmod", "x.fmod(y)", "x - y * (x / y).trunc()"),
    ("mg", "mod", "np.mod(a, 2)", "x % 2"),
    ("mg", "power", "np.power(a, 2)", "x**2"),
    ("Tensor mg", "eq", "x.eq(y)", "x == y"),
    ("Tensor mg", "ne", "x.ne(y)", "x != y"),
    ("Tensor mg", "lt", "x.lt(y)", "x < y"),
    ("Tensor mg", "le", "x.le(y)", "x <= y"),
    ("Tensor mg", "gt", "x.gt(y)", "x > y"),
    ("Tensor mg", "ge", "x.ge(y)", "x >= y"),
    ("Tensor mg", "absolute", "x.absolute()", "x.abs()"),
    ("mg", "fabs", "np.fabs(a)", "x.abs()"),
    ("Tensor mg", "fix", "x.fix()", "x.trunc()"),
    ("mg", "around", "np.around(a)", "x.round()"),
    ("Tensor mg", "frac", "x.frac()", "x - x.trunc()"),
    *(("Tensor mg", f"arc{name}", f"q.arc{name}()", f"q.a{name}()")
      for name in ("sin", "cos", "tan", "sinh", "tanh")),
    ("Tensor mg", "arctan2", "x.arctan2(y)", "x.atan2(y)"),
    ("Tensor mg", "arccosh", "(1 + q).arccosh()", "(1 + q).acosh()"),
    ("Tensor mg", "logit", "q.logit()", "(q / (1 - q)).log()"),
    ("mg", "expit", "torch.special.expit(x)", "x.sigmoid()"),
    ("mg", "addcmul", "torch.addcmul(x, x, y, value=2)", "x + 2 * x * y"),
    ("mg", "addcdiv", "torch.addcdiv(x, x, y, value=2)", "x + 2 * x / y"),
    ("mg", "heaviside", "torch.heaviside(x, y)", "mg.where(x == 0, y, (x > 0).astype(x.dtype))"),
    ("mg", "rad2deg", "torch.rad2deg(x)", "x * (180 / np.pi)"),
    ("mg", "deg2rad", "torch.deg2rad(x)", "x * (np.pi / 180)"),
    # ------------------------------------------------------------------- reductions and products
    ("Tensor", "values", "x.max(1).values", "x.max(1)"),
    ("Tensor", "indices", "x.max(1).indices", "x.argmax(1)"),
    ("Tensor mg", "amax", "x.amax(1)", "x.max(axis=1)"),
    ("Tensor mg", "amin", "x.amin(1)", "x.min(axis=1)"),
    ("mg", "aminmax", "tuple(torch.aminmax(x))", "(x.min(), x.max())"),
    ("mg", "average", "np.average(a, axis=1)", "x.mean(axis=1)"),
    ("mg", "ptp", "np.ptp(a, axis=1)", "x.max(axis=1) - x.min(axis=1)"),
    ("Tensor mg", "cumsum", "x.cumsum(1)", "x.cumulative_sum(axis=1)"),
    ("Tensor mg", "cumprod", "x.cumprod(1)", "x.cumulative_prod(axis=1)"),
    ("mg", "var_mean", "torch.var_mean(x)", "(x.var(correction=1), x.mean())"),
    ("mg", "std_mean", "torch.std_mean(x)", "(x.std(correction=1), x.mean())"),
    ("Tensor mg", "dist", "x.dist(y)", "(x - y).norm()"),
    ("mg", "cdist", "torch.cdist(s, w)", "(s[:, None] - w[None]).norm(axis=-1)"),
    ("mg", "nansum", "torch.nansum(x)", "x.nan_to_num(0).sum()"),
    ("mg", "histc histogram", "",
     "(use np.histogram(x.numpy(), bins), or mg.bincount of whole numbers)"),
    ("Tensor mg", "mm", "x.mm(s)", "x @ s"),
    ("Tensor mg", "bmm", "b.bmm(b)", "b @ b"),
    ("Tensor mg", "mv", "x.mv(v)", "x @ v"),
    ("Tensor mg", "dot", "v.dot(u)", "v @ u"),
    ("Tensor mg", "inner", "v.inner(u)", "v @ u"),
    ("Tensor mg", "vdot", "v.vdot(u)", "v @ u"),
    ("mg", "multi_dot", "torch.linalg.multi_dot([x, s, w])", "x @ s @ w"),
    ("mg", "kron", "torch.kron(x, s)", "mg.einsum('ij,kl->ikjl', x, s).reshape(6, 9)"),
    ("Tensor mg linalg", "inverse", "s.inverse()", "mg.linalg.inv(s)"),
    ("Tensor mg", "logdet", "(s @ s.mT).logdet()", "mg.linalg.slogdet(s @ s.mT)[1]"),
    ("mg", "cholesky_solve", "", "(of a factor L: mg.linalg.solve(L @ L.mT, x))"),
    ("linalg", "eig eigvals", "",
     "(minigrad has no complex numbers; for symmetric matrices use mg.linalg.eigh)"),
    ("Tensor mg", "ger", "v.ger(u)", "mg.outer(v, u)"),
    ("Tensor mg", "addmm", "x.addmm(x, s)", "x + x @ s"),
    ("Tensor mg", "baddbmm", "b.baddbmm(b, b)", "b + b @ b"),
    # ------------------------------------------------------------------------------ creation
    ("mg", "array", "torch.tensor([1.0, 2.0])", "mg.tensor([1.0, 2.0])"),
    ("mg", "from_numpy", "torch.from_numpy(a)", "mg.asarray(a)"),
    ("mg", "as_tensor", "torch.as_tensor(a)", "mg.asarray(a)"),
    ("mg", "scalar_tensor", "torch.scalar_tensor(2.0)", "mg.tensor(2.0)"),
    ("mg", "FloatTensor", "torch.FloatTensor([1, 2])", "mg.tensor([1, 2], dtype=mg.float32)"),
    ("mg", "DoubleTensor", "torch.DoubleTensor([1, 2])", "mg.tensor([1, 2], dtype=mg.float64)"),
    ("mg", "LongTensor", "torch.LongTensor([1, 2])", "mg.tensor([1, 2], dtype=mg.int64)"),
    ("mg", "IntTensor", "torch.IntTensor([1, 2])", "mg.tensor([1, 2], dtype=mg.int32)"),
    ("mg", "BoolTensor", "torch.BoolTensor([True])", "mg.tensor([True])"),
    ("mg", "identity", "np.identity(3, np.float32)", "mg.eye(3)"),
    ("mg", "logspace", "torch.logspace(0, 2, 3)", "10.0 ** mg.linspace(0, 2, 3)"),
    ("mg", "range", "torch.arange(4)", "mg.arange(4)"),
    ("mg", "rand_like", "torch.rand_like(x)", "mg.rand(*x.shape)"),
    ("mg", "randn_like", "torch.randn_like(x)", "mg.randn(*x.shape)"),
    ("mg", "randint_like", "torch.randint_like(i, 9)", "mg.randint(9, size=i.shape)"),
    ("mg", "random", "np.random.normal(size=(2, 3))", "mg.normal(size=(2, 3))",
     "the seed: mg.manual_seed(0)"),
    ("Tensor", "new_tensor", "x.new_tensor([1.0])", "mg.tensor([1.0], dtype=x.dtype)"),
    ("Tensor", "new_zeros", "x.new_zeros(2)", "mg.zeros(2, dtype=x.dtype)"),
    ("Tensor", "new_ones", "x.new_ones(2)", "mg.ones(2, dtype=x.dtype)"),
    ("Tensor", "new_full", "x.new_full((2,), 7.0)", "mg.full((2,), 7.0, dtype=x.dtype)"),
    ("Tensor", "new_empty", "x.new_empty(2)", "mg.empty(2, dtype=x.dtype)"),
    ("Tensor", "copy", "a.copy()", "x.clone()"),
    ("mg", "copy", "np.copy(a)", "x.clone()"),
    ("mg", "is_tensor", "torch.is_tensor(x)", "isinstance(x, mg.Tensor)"),
    ("mg", "special", "torch.special.erf(x)", "mg.erf(x)"),
    ("mg", "distributions", "",
     "(draw with mg.normal, mg.bernoulli or mg.multinomial; write the density as an expression)"),
    ("mg", "seed initial_seed", "", "(use mg.manual_seed(0); mg.get_rng_state() is the state)"),
    ("mg", "use_deterministic_algorithms", "",
     "(one seed gives one result; leave it out)"),
    ("mg", "datasets", "", "(minigrad brings no data: read arrays with NumPy, then mg.asarray)"),
    ("mg", "set_printoptions get_printoptions", "", "(NumPy prints: use np.set_printoptions)"),
    # -------------------------------------------------------------------------------- in place
    ("Tensor", "add_", "x.add_(y)", "x += y", "with alpha=2: x += 2 * y"),
    ("Tensor", "sub_", "x.sub_(y)", "x -= y"),
    ("Tensor", "mul_", "x.mul_(y)", "x *= y"),
    ("Tensor", "div_", "x.div_(y)", "x /= y"),
    ("Tensor", "clamp_", "x.clamp_(0, 1)", "x.copy_(x.clip(0, 1))"),
    ("Tensor", "masked_fill_", "x.masked_fill_(m, 0.5)", "x[m] = 0.5"),
    ("Tensor", "fill", "a.fill(2.0)", "x.fill_(2.0)"),
    *(("Tensor", f"{name}_", f"q.{name}_()", f"q.copy_(q.{name}())") for name in IN_PLACE.split()),
    ("Tensor", "neg_", "x.neg_()", "x.copy_(-x)"),
    ("Tensor", "normal_", "x.normal_()", "x.copy_(mg.randn(*x.shape))"),
    ("Tensor", "uniform_", "x.uniform_()", "x.copy_(mg.rand(*x.shape))"),
    ("Tensor", "unsqueeze_", "x.unsqueeze_(0)", "x = x.expand_dims(0)"),
    ("Tensor", "detach_", "x.detach_()", "x = x.detach()"),
    # ------------------------------------------------------------------------- dtypes, devices
    ("Tensor", "to", "x.to(torch.float64)", "x.astype(mg.float64)", f"a device: {CPU[1:-1]}"),
    ("Tensor", "type", "x.type(torch.float64)", "x.astype(mg.float64)"),
    ("Tensor", "type_as", "i.type_as(x)", "i.astype(x.dtype)"),
    ("Tensor", "float", "i.float()", "i.astype(mg.float32)"),
    ("Tensor", "double", "x.double()", "x.astype(mg.float64)"),
    ("Tensor", "int", "x.int()", "x.astype(mg.int32)"),
    ("Tensor", "long", "x.long()", "x.astype(mg.int64)"),
    ("Tensor", "bool", "x.bool()", "x.astype(mg.bool)"),
    ("Tensor mg", "is_floating_point", "x.is_floating_point()", "x.dtype.kind == 'f'"),
    ("Tensor", "half bfloat16 byte char short", "", PRECISION),
    ("mg", "float", "torch.float", "mg.float32"),
    ("mg", "double", "torch.double", "mg.float64"),
    ("mg", "int", "torch.int", "mg.int32"),
    ("mg", "long", "torch.long", "mg.int64"),
    ("mg", "bool_", "np.dtype(np.bool_)", "mg.bool"),
    ("mg", "float16 half bfloat16 uint8 int8 int16 short uint16 uint32 uint64", "", PRECISION),
    ("mg", "complex64 complex128 cfloat cdouble complex", "", DTYPES),
    ("Tensor", "cpu", "x.cpu()", "x"),
    ("Tensor Module", "cuda xpu mps pin_memory is_cuda share_memory_ share_memory get_device",
     "", CPU),
    ("mg", "device cuda mps xpu backends cudnn set_default_device", "", CPU),
    ("Module", "cpu", "net.cpu()", "net"),
    ("Module", "half bfloat16", "", PRECISION),
    ("Module mg", "compile jit script", "", EAGER),
    ("mg", "amp autocast GradScaler", "", f"{PRECISION[:-1]}; leave it out)"),
    # -------------------------------------------------------------------------- autograd, func
    ("Tensor", "data", "x.data", "x.detach()", "to set it: x.detach().copy_(y)"),
    ("mg", "inference_mode", "torch.inference_mode()", "mg.no_grad()"),
    ("autograd", "Variable", "torch.autograd.Variable(x)", "x"),
    ("autograd", "functional", "torch.autograd.functional.jacobian(f, v)",
     "mg.func.jacobian(f)(v)", "hessian, hvp, vjp and jvp are in mg.func too"),
    ("func", "jacrev", "torch.func.jacrev(f)(v)", "mg.func.jacobian(f)(v)"),
    ("func", "jacfwd", "torch.func.jacfwd(f)(v)", "mg.func.jacobian(f)(v)"),
    ("func", "grad_and_value", "torch.func.grad_and_value(g)(v)[::-1]",
     "mg.func.value_and_grad(g)(v)"),
    ("func mg", "vmap", "", "(write the batch as a first axis: operations broadcast over it)"),
    # ---------------------------------------------------------------- nn, optim, data
    ("nn.functional", "upsample", "F.interpolate(p, scale_factor=2)",
     "F.interpolate(p, scale_factor=2)"),
    ("nn.functional", "relu_", "F.relu_(x)", "F.relu(x)"),
    ("nn.functional", "elu_", "F.elu_(x)", "F.elu(x)"),
    ("nn.functional", "leaky_relu_", "F.leaky_relu_(x)", "F.leaky_relu(x)"),
    ("nn", "UpsamplingNearest2d", "nn.UpsamplingNearest2d(scale_factor=2)(p)",
     "nn.Upsample(scale_factor=2)(p)"),
    ("nn", "LazyLinear LazyConv1d LazyConv2d LazyBatchNorm1d LazyBatchNorm2d LazyConvTranspose1d "
     "LazyConvTranspose2d LazyInstanceNorm1d LazyInstanceNorm2d", "",
     "(give the number of inputs: nn.Linear(x.shape[1], 10))"),
    ("nn", "Buffer", "", "(in __init__: self.register_buffer('mean', x))"),
    ("nn.functional", "gumbel_softmax", "",
     "(add the noise: F.softmax((x - (-mg.rand(*x.shape).log()).log()) / tau, dim=-1))"),
    ("nn.utils", "rnn", "", "(pad sequences to one length, and stack them)"),
    ("nn data", "SyncBatchNorm DataParallel parallel DistributedSampler", "",
     "(for processes of an MPI job see minigrad.distributed; in one process leave it out)"),
    ("optim.swa_utils", "update_bn", "",
     "(nn.recalibrate(averaged, batches) sets the statistics exactly)"),
    ("optim.swa_utils", "get_ema_avg_fn get_ema_multi_avg_fn", "",
     "(AveragedModel(net, decay=0.999) takes the exponential average)"),
    ("optim.swa_utils", "get_swa_avg_fn get_swa_multi_avg_fn", "",
     "(AveragedModel(net) takes the mean; leave it out)"),
    ("mg", "utils", "torch.utils.data.DataLoader", "mg.data.DataLoader",
     "checkpoint is mg.autograd.checkpoint; there is no TensorBoard writer"),
    ("nn", "modules parameter", "", "(its classes are in nn: nn.BatchNorm2d, nn.Parameter)"),
    # -------------------------------------------------------------------------------- keywords
    ("keyword", "dim", "x.sum(dim=0)", "x.sum(axis=0)"),
    ("keyword", "dims", "x.flip(dims=(0,))", "x.flip(axis=(0,))"),
    ("keyword", "dims", "torch.permute(x, dims=(1, 0))", "mg.permute_dims(x, axes=(1, 0))"),
    ("keyword", "keepdim", "x.mean(1, keepdim=True)", "x.mean(1, keepdims=True)"),
    ("keyword", "unbiased", "x.std(unbiased=True)", "x.std(correction=1)",
     "unbiased=False: correction=0, the default"),
    ("keyword", "ddof", "np.std(a, ddof=1)", "x.std(correction=1)"),
    ("keyword", "input", "torch.exp(input=x)", "mg.exp(x=x)"),
    ("keyword", "other", "torch.maximum(x, other=y)", "mg.maximum(x, y=y)"),
    ("keyword", "p", "x.norm(p=1)", "x.norm(ord=1)"),
    ("keyword", "steps", "torch.linspace(0, 1, steps=3)", "mg.linspace(0, 1, num=3)"),
    ("keyword", "end", "torch.arange(0, end=4)", "mg.arange(0, stop=4)"),
    ("keyword", "size", "torch.full(size=(2,), fill_value=7.0)",
     "mg.full(shape=(2,), fill_value=7.0)"),
    ("keyword", "dim0", "torch.swapdims(x, dim0=0, dim1=1)", "x.swapaxes(axis1=0, axis2=1)"),
    ("keyword", "dim1", "torch.swapdims(x, dim0=0, dim1=1)", "x.swapaxes(axis1=0, axis2=1)"),
    ("keyword", "dim1", "x.diagonal(dim1=0, dim2=1)", "x.diagonal(axis1=0, axis2=1)"),
    ("keyword", "dim2", "x.diagonal(dim1=0, dim2=1)", "x.diagonal(axis1=0, axis2=1)"),
    ("keyword", "start_dim", "b.flatten(start_dim=1)", "b.flatten(start_axis=1)"),
    ("keyword", "end_dim", "b.flatten(end_dim=1)", "b.flatten(end_axis=1)"),
    ("keyword", "split_size_or_sections", "torch.split(x, split_size_or_sections=2)",
     "mg.split(x, sizes=2)"),
    ("keyword", "indices_or_sections", "np.split(a, indices_or_sections=2)",
     "mg.split(x, sizes=1)"),
    ("keyword", "tensors", "torch.stack(tensors=[x, y])", "mg.stack(arrays=[x, y])"),
    ("keyword", "diagonal", "torch.tril(s, diagonal=1)", "mg.tril(s, k=1)"),
    ("keyword", "shifts", "torch.roll(v, shifts=1)", "mg.roll(v, shift=1)"),
    ("keyword", "reps", "np.tile(a, reps=2)", "mg.tile(x, repetitions=2)"),
    ("keyword", "src", "torch.scatter_add(x, 1, i, src=y)", "mg.scatter_add(x, 1, i, source=y)"),
    ("keyword", "index", "torch.scatter_add(x, 1, index=i, src=y)",
     "mg.scatter_add(x, 1, indices=i, source=y)"),
    ("keyword", "a_min", "np.clip(a, a_min=0, a_max=1)", "mg.clip(x, min=0, max=1)"),
    ("keyword", "a_max", "np.clip(a, 0, a_max=1)", "mg.clip(x, 0, max=1)"),
    ("keyword", "learning_rate", "optim.SGD(net.parameters(), lr=0.1).defaults['lr']",
     "optim.SGD(net.parameters(), lr=0.1).defaults['lr']"),
    ("keyword", "device pin_memory non_blocking", "", CPU),
    ("keyword", "map_location weights_only", "",
     "(load reads values into the memory of the CPU, and runs no code; leave it out)"),
    ("keyword", "only_inputs", "", "(gradients go to the inputs only; leave it out)"),
    ("keyword", "layout memory_format", "", "(minigrad keeps NumPy arrays; leave it out)"),
    ("keyword", "out", "", "(minigrad returns a new tensor; y.copy_(...) keeps the memory of y)"),
    # ------------------------------------------ the same name, another meaning (no error to catch)
    ("differs", "repeat", "x.repeat(2, 1)", "x.tile((2, 1))"),
    ("differs", "std", "x.std()", "x.std(correction=1)"),
    ("differs", "var", "x.var(1)", "x.var(1, correction=1)"),
    ("differs", "equal", "torch.equal(x, y)", "bool((x == y).all())"),
    ("differs", "max", "tuple(x.max(1))", "(x.max(1), x.argmax(1))"),
    ("differs", "min", "tuple(x.min(1))", "(x.min(1), x.argmin(1))"),
    ("differs", "max of two", "torch.max(x, y)", "mg.maximum(x, y)"),
    ("differs", "sort", "tuple(x.sort(1))", "(x.sort(1), x.argsort(1))"),
    ("differs", "size", "x.size(0)", "x.shape[0]"),
    ("differs", "nonzero", "m.nonzero()", "mg.stack(m.nonzero(), axis=1)"),
    ("differs", "where of one", "torch.where(m)", "mg.nonzero(m)"),
    ("differs", "meshgrid", "torch.meshgrid(v, u)", "mg.meshgrid(v, u, indexing='ij')"),
    ("differs", "take", "x.take(k)", "x.flatten().take(k)"),
    ("differs", "round", "x.round(decimals=1)", "x.round(1)"),
    ("differs", "norm", "x.norm(1)", "x.norm(ord=1)"),
]  # fmt: skip

# What PyTorch has and minigrad has not, where no line composes it: no near miss is offered.
ABSENT = """
Conv3d ConvTranspose3d MaxPool3d AvgPool3d AdaptiveMaxPool1d AdaptiveAvgPool3d AdaptiveMaxPool3d
BatchNorm3d InstanceNorm3d LPPool1d LPPool2d LPPool3d FractionalMaxPool2d FractionalMaxPool3d
MaxUnpool1d MaxUnpool2d MaxUnpool3d Dropout3d FeatureAlphaDropout EmbeddingBag Fold Unfold Bilinear
CTCLoss AdaptiveLogSoftmaxWithLoss CrossMapLRN2d LocalResponseNorm PixelShuffle PixelUnshuffle
Transformer HingeEmbeddingLoss RReLU MultiLabelMarginLoss MultiMarginLoss LinearCrossEntropyLoss
ASGD Adamax Rprop SparseAdam conv3d conv_transpose3d max_pool3d avg_pool3d adaptive_max_pool1d
adaptive_avg_pool3d lp_pool1d lp_pool2d max_unpool1d max_unpool2d max_unpool3d dropout3d fold unfold
bilinear grid_sample affine_grid rrelu rrelu_ ctc_loss embedding_bag local_response_norm
pixel_shuffle hinge_embedding_loss multi_margin_loss multilabel_margin_loss linear_cross_entropy fft
stft istft sparse distributed quantization hub isneginf isposinf fmax fmin frexp ldexp xlogy renorm
gradient signal logcumsumexp cumulative_trapezoid addmv addr
"""


class Elsewhere:
    """A name of another library among the members of a class: reading it raises AttributeError
    with what to write here, so `hasattr` is False.

    >>> hasattr(mg.Tensor, "view"), "view" in dir(mg.ones(2))
    (False, False)
    """

    __slots__ = ("name", "place")

    def __init__(self, place: str, name: str) -> None:
        self.place, self.name = place, name

    def __get__(self, instance: Any, owner: type) -> Any:
        message = f"{owner.__name__} has no attribute {self.name!r}"
        raise AttributeError(f"{message}{advice(self.place, self.name)}", name=self.name)

    def __repr__(self) -> str:
        return f"<PyTorch's or NumPy's {self.name}: not here>"


def refuse_names_of_others(tensor: type, module: type) -> None:
    """Put an `Elsewhere` for each name of the table into the two classes, where `dir` of an object
    does not show it.

    >>> mg.nn.Linear(2, 1).cuda()
    Traceback (most recent call last):
    AttributeError: Linear has no attribute 'cuda'; minigrad computes on the CPU; leave it out
    """
    for place, kind in (("Tensor", tensor), ("Module", module)):
        members: dict[str, Any] = {
            name: Elsewhere(place, name)
            for where, names, *_ in TABLE
            if place in where.split()
            for name in names.split()
        }
        members["__dir__"] = _shown
        if kind is tensor:
            attach_methods(members, [*members])
        for name in members.keys() - vars(kind).keys():
            setattr(kind, name, members[name])


def _shown(instance: Any) -> list[str]:
    """What `dir` shows of an object whose class refuses names."""
    refused = {name for c in type(instance).__mro__ for name, member in vars(c).items()
               if isinstance(member, Elsewhere)}  # fmt: skip
    names = object.__dir__(instance)
    return [name for name in names if name not in refused or hasattr(instance, name)]


def rows() -> Iterator[Spelling]:
    """The table, one name to a row.

    >>> next(mg.spellings.rows()).name
    'view'
    """
    for where, names, there, *here in TABLE:
        single = where == "differs" or there
        for name in [names] if single else names.split():
            yield Spelling(where, name, there, *here)


def _found() -> dict[tuple[str, str], list[Spelling]]:
    found: dict[tuple[str, str], list[Spelling]] = {}
    for row in rows():
        for place in row.where.split():
            found.setdefault((place, row.name), []).append(row)
    return found


def find(place: str, name: str) -> Spelling | None:
    """The row of a name in one place, or None.

    >>> mg.spellings.find("mg", "cat").here
    'mg.concat([x, y], axis=1)'
    """
    listed = _found().get((place, name))
    return listed[0] if listed else None


def advice(place: str, name: str) -> str:
    """What an error says after a semicolon about a name that `place` has not, or "".

    >>> mg.spellings.advice("nn", "Liner")
    '; did you mean nn.Linear?'
    """
    if row := find(place, name):
        return f"; {row.advice}"
    if name.startswith("_") or place in ("Tensor", "Module") or name in ABSENT.split():
        return ""
    spaces = _namespaces()
    homes = [home for home, names in spaces.items() if name in names]
    if homes:
        return f"; it is {_dotted(homes[0], name)}"
    if row := next((rows[0] for (where, other), rows in _found().items()
                    if other == name and where not in ("keyword", "differs")), None):  # fmt: skip
        return f"; {row.advice}"
    if near := closest(name, spaces.get(place, ()), 0.75):
        return f"; did you mean {_dotted(place, near)}?"
    return ""


def closest(name: str, names: Any, cutoff: float = 0.6) -> str | None:
    """The nearest of some names, if one is near; a difference of digits alone is another thing.

    >>> mg.spellings.closest("biass", ["in_features", "bias"])
    'bias'
    """
    from difflib import get_close_matches  # 5 ms, and only needed here

    lower: dict[str, str] = {other.lower(): other for other in sorted(names) if other[:1] != "_"}
    near = lower.keys() & {name.lower()} or get_close_matches(name.lower(), lower, 1, cutoff)
    for found in near:
        if found == name.lower() or re.sub(r"\d", "", found) != re.sub(r"\d", "", name.lower()):
            return lower[found]
    return None


def _namespaces() -> dict[str, list[str]]:
    """The public names of each namespace, by the way it is written: "mg", "nn", "nn.functional"."""
    found: dict[str, list[str]] = {}

    def walk(module: ModuleType) -> None:
        found[_space(module.__name__)] = list(module.__all__)
        for name in module.__all__:
            if isinstance(member := getattr(module, name), ModuleType):
                walk(member)

    walk(sys.modules["minigrad"])
    return found


def _space(module: str) -> str:
    return module.partition(".")[2] or "mg"


def _dotted(place: str, name: str) -> str:
    """A name as it is written, with the namespace before it."""
    return f"{place}.{name}" if place in ("mg", "nn", "optim") else f"mg.{place}.{name}"


def twin(name: str, module: str = "numpy") -> str | None:
    """How a function of NumPy is written here, or None.

    >>> mg.spellings.twin("concatenate"), mg.spellings.twin("sin"), mg.spellings.twin("convolve")
    ('mg.concat([x, x], axis=1)', 'mg.sin', None)
    """
    if module == "numpy.linalg" and name in _namespaces()["linalg"]:
        return f"mg.linalg.{name}"
    row = find("mg", name)
    if row is not None and row.remark is None:
        return row.here
    return f"mg.{name}" if name in _namespaces()["mg"] else None


# ---------------------------------------------------------------------------------------- keywords
# Patterns, compiled when an error is made.
UNEXPECTED = r"(?:\w+\.)*(\w+)(?:\(\)|:) got an unexpected keyword argument '(\w+)'"
COUNTED = r"(?:\w+\.)*(\w+)\(\) (takes .*positional argument|got multiple values)"


def lead_on(error: TypeError, function: Any) -> None:
    """Add to a TypeError that the arguments of a call raised what to write instead. `function` is
    the function, or its dotted name; the text that was there stays.

    >>> error = TypeError("sum() got an unexpected keyword argument 'dim'")
    >>> mg.spellings.lead_on(error, mg.sum); str(error).partition("; ")[2]
    'dim is called axis here: x.sum(axis=0)'
    """
    text = str(error)
    if match := re.match(UNEXPECTED, text):
        said = keyword_advice(match[1], match[2], _keywords(function))
        if "Did you mean" not in text or "did you mean" not in said:  # as Python 3.13 says
            error.args = (f"{text}{said}",)
    elif re.match(COUNTED, text):
        signature = _signature(function)
        error.args = (f"{text}; its arguments are {signature}" if signature else text,)


def keyword_advice(function: str, keyword: str, known: Any) -> str:
    """What an error says after a semicolon about a keyword that a function has not, or "". `known`
    are the keywords that it has.

    >>> mg.spellings.keyword_advice("Linear", "biass", ["in_features", "out_features", "bias"])
    '; did you mean bias?'
    """
    known = list(known)
    listed = _found().get(("keyword", keyword), ())
    for row in sorted(listed, key=lambda row: f".{function}(" not in row.here):
        if row.remark:
            return f"; {row.remark}"
        name = row.renamed
        if name in known:
            call = row.here if f".{function}(" in row.here else f"{function}(..., {name}=...)"
            note = f" ({row.note})" if row.note else ""
            return f"; {keyword} is called {name} here: {call}{note}"
    if near := closest(keyword, known):
        return f"; did you mean {near}?"
    others = [name for name in known if name != "x"]
    return f"; the keywords are {', '.join(others)}" if others else ""


def _resolved(function: Any) -> Any:
    """The function of a dotted name such as minigrad._core.ops.sum, or None."""
    if not isinstance(function, str):
        return function
    parts = function.split(".")
    for split in range(len(parts) - 1, 0, -1):
        member: Any = sys.modules.get(".".join(parts[:split]))
        if member is not None:
            for part in parts[split:]:
                member = getattr(member, part, None)
            return member
    return None


def _signature(function: Any) -> str:
    import inspect

    resolved = _resolved(function)
    try:
        bare = [p.replace(annotation=p.empty) for p in
                inspect.signature(resolved).parameters.values()]  # fmt: skip
    except (TypeError, ValueError):
        return ""
    return f"{getattr(resolved, '__name__', '')}{inspect.Signature(bare)}"


def _keywords(function: Any) -> list[str]:
    import inspect

    try:
        parameters = inspect.signature(_resolved(function)).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and p.name != "self"]  # fmt: skip
