"""What one rank of a job does: `mpiexec -n 2 python ranks.py NAME`; see test_distributed.py."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import minigrad as mg
from minigrad import distributed, nn, optim

rank, size = distributed.rank(), distributed.size()
rng = np.random.default_rng(0)


class Share(mg.autograd.Function):
    """A tensor that all ranks hold alike, given to each: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        return x.detach()

    @staticmethod
    def backward(ctx, g):
        return Gather.apply(g)


class Gather(mg.autograd.Function):
    """The sum of the ranks' tensors, which all ranks hold alike."""

    @staticmethod
    def forward(ctx, x):
        return distributed.allreduce(x).detach()

    @staticmethod
    def backward(ctx, g):
        return Share.apply(g)


def gradcheck():
    """SyncBatchNorm as a function of the whole batch, against finite differences and BatchNorm."""
    for shape in ((4 * size + 1, 3), (2 * size, 2, 3, 2)):
        layer = distributed.SyncBatchNorm(shape[1], dtype=mg.float64)
        whole = nn.BatchNorm1d(shape[1], dtype=mg.float64)
        whole._layouts = {2: "", 4: ""}
        mine = np.arange(shape[0]) % size == rank
        place = np.zeros((shape[0], mine.sum()))
        place[np.flatnonzero(mine), np.arange(mine.sum())] = 1

        def function(x, weight, bias, layer=layer, place=place, mine=mine):
            shared = [Share.apply(t) for t in (x, weight, bias)]
            state = {"weight": shared[1], "bias": shared[2]}
            y = mg.func.functional_call(layer, state, (shared[0][mine],))
            return Gather.apply(mg.tensordot(mg.tensor(place), y, 1))

        x, weight, bias = (
            mg.tensor(rng.normal(size=s), requires_grad=True) for s in (shape, shape[1], shape[1])
        )
        assert mg.autograd.gradcheck(function, (x, weight, bias))
        assert mg.autograd.gradgradcheck(function, (x, weight, bias))
        for each in (layer, whole):
            each.reset_running_stats()
            each.weight.detach().copy_(weight.detach())
            each.bias.detach().copy_(bias.detach())
        y = function(x, layer.weight, layer.bias)
        np.testing.assert_allclose(y.numpy(), whole(x).detach().numpy(), 1e-10, 1e-12)
        for name, value in whole.state_dict().items():
            np.testing.assert_allclose(layer.state_dict()[name].numpy(), value.numpy(), 1e-10)
        before = layer.eval()(x[mine]).detach().numpy()
        np.testing.assert_allclose(before, whole.eval()(x[mine]).detach().numpy(), 1e-10, 1e-12)


def make_net():
    hidden = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)
    return nn.Sequential(*hidden, nn.Tanh(), nn.Linear(16, 3))


def curve():
    """Print the loss of the whole batch, step by step; and the parameters' sum at the end."""
    mg.manual_seed(100 + rank)  # rank 0's net counts
    x, y = rng.normal(size=(96, 6)).astype(np.float32), rng.integers(0, 3, 96)
    net = distributed.DataParallel(distributed.convert_sync_batchnorm(make_net()), bucket_bytes=256)
    optimizer, criterion = optim.SGD(net.parameters(), lr=0.1, momentum=0.9), nn.CrossEntropyLoss()
    sampler = distributed.DistributedSampler(range(96), seed=5)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), 24 // size):
            batch = order[start : start + 24 // size]
            optimizer.zero_grad()
            loss = criterion(net(mg.tensor(x[batch])), mg.tensor(y[batch]))
            loss.backward()
            optimizer.step()
            mean = distributed.allreduce(loss.detach(), "mean").item()
            if rank == 0:
                print(f"{mean:.7f}")
    norms = [float(np.abs(p.numpy()).sum()) for p in net.parameters()]
    assert all(other == norms for other in distributed.WORLD.allgather(norms))


def gradients():
    """Gradients of the whole batch: tied, accumulated, and of what only rank 0 uses."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.unused = nn.Linear(1, 1)

        def forward(self, x, extra):
            y = mg.tanh(self.a(mg.tanh(self.a(x)))) + self.b(x)
            return self.c(y) if extra else y

    for limit in (1, 100, 1 << 20):
        mg.manual_seed(3)
        plain = Net()
        net = distributed.DataParallel(Net(), limit)
        net.module.load_state_dict(plain.state_dict())
        x = mg.tensor(rng.normal(size=(size, 5, 4)).astype(np.float32))
        for _ in range(2):  # accumulates
            net(x[rank], rank == 0).sum().backward()
            (sum(plain(x[r], r == 0).sum() for r in range(size)) / size).backward()
        for (name, p), q in zip(net.module.named_parameters(), plain.parameters(), strict=True):
            if q.grad is None:
                assert p.grad is None, name
            else:
                np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-5, 1e-5, err_msg=name)


class Uses(nn.Module):
    """Parameters used where their layer does not see it, by way of `how`."""

    def __init__(self, how):
        super().__init__()
        self.how, self.a, self.b = how, nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(mg.zeros(4))
        if how == "weight norm":
            nn.utils.weight_norm(self.a)

    def forward(self, x):
        if self.how == "read before":
            x = x @ self.a.weight
        elif self.how == "replaced":
            twice = {name: 2 * p for name, p in self.a.named_parameters()}
            return self.b(mg.func.functional_call(self.a, twice, (x,)))
        elif self.how == "checkpoint":
            return self.b(mg.autograd.checkpoint(self.a, x))
        y = self.b(x) if self.how == "read alone" else self.b(mg.tanh(self.a(x)))
        return y @ self.a.weight if self.how in ("read alone", "read after") else y

    def loss(self, net, x):
        if self.how == "checkpoint of all":
            return sum(mg.square(mg.autograd.checkpoint(net, k * x)).mean() for k in (1, 2))
        loss = mg.square(net(x)).mean(0)
        if self.how == "in the loss":
            return (loss * mg.exp(self.scale)).mean()
        if self.how == "penalty before":
            sum(mg.square(p).sum() for p in self.parameters()).backward()
        elif self.how == "penalty apart":
            loss.mean().backward()
            return sum(mg.square(p).sum() for p in self.parameters())
        elif self.how == "none":
            return loss.mean() * 0.0
        return loss.mean()


def uses():
    x = mg.tensor(rng.normal(size=(4 * size, 4)).astype(np.float32))
    for how in (
        "its layer", "read alone", "read before", "read after", "replaced", "checkpoint",
        "checkpoint of all", "in the loss", "penalty before", "penalty apart", "weight norm",
        "none",
    ):  # fmt: skip
        for limit in (1, 1 << 20):
            nets = []
            for _ in range(2):
                mg.manual_seed(0)
                nets.append(Uses(how))
            plain, copy = nets
            net = distributed.DataParallel(copy, limit)
            for _ in range(2):  # the second pass adds to the first
                plain.loss(plain, x).backward()
                copy.loss(net, x[rank::size]).backward()
            for (name, p), q in zip(plain.named_parameters(), copy.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None), (how, name)
                if p.grad is not None:
                    np.testing.assert_allclose(
                        q.grad.numpy(), p.grad.numpy(), 1e-4, 1e-6, err_msg=f"{how}: {name}"
                    )
            inputs = list(copy.parameters())
            mine = mg.autograd.grad(copy.loss(net, x[rank::size]), inputs, allow_unused=True)
            if how not in ("penalty before", "penalty apart"):
                twice = [p.grad for p in plain.parameters()]
                for g, both in zip(mine, twice, strict=True):
                    if both is not None:
                        np.testing.assert_allclose(2 * g.numpy(), both.numpy(), 1e-4, 1e-6)


def interrupted():
    """The program catches an exception of backward. Whether the next forward is refused, if
    backward failed before and after it delivered the first gradient."""

    def fail(g):
        raise ZeroDivisionError

    def fails(module, inputs, out):
        out.register_hook(fail)

    net = distributed.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 16)
    said = None
    for layer, refused in ((1, False), (0, True)):
        hook = net.module[layer].register_forward_hook(fails)
        try:
            net(mg.ones(2, 4)).sum().backward()
        except ZeroDivisionError:
            hook.remove()
        else:
            raise AssertionError("backward has not failed")
        try:
            net(mg.ones(2, 4))
        except RuntimeError as error:
            assert refused
            said = str(error)
        else:
            assert not refused
    every = distributed.WORLD.gather(said)  # ranks that print at once mix their lines
    if rank == 0:
        print(*every, sep="\n")


def conversions():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    distributed.DataParallel(net)
    for given in (net, net[1]):
        try:
            distributed.convert_sync_batchnorm(given)
        except RuntimeError as error:
            assert "before DataParallel" in str(error)
        else:
            raise AssertionError(given)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).freeze())
    net = distributed.convert_sync_batchnorm(net).train()
    assert not net[1].training and net[1].unfreeze().training
    net[1].freeze()
    parallel = distributed.DataParallel(net)
    parallel(mg.ones(2, 4))
    net[1].unfreeze()
    try:
        parallel(mg.ones(2, 4))
    except RuntimeError as error:
        assert "DataParallel: 1.weight was frozen" in str(error)
    else:
        raise AssertionError


def no_file():
    """Every rank hears what went wrong on rank 0."""
    try:
        distributed.save(
            {"x": mg.ones(1)}, Path(tempfile.gettempdir()) / "no such folder" / "x.npz"
        )
    except (OSError, RuntimeError) as error:
        said = distributed.WORLD.gather(f"{type(error).__name__}: {error}")
    if rank == 0:
        print(*said, sep="\n")


def small():
    """Gradients, and parameters after a few steps, of small nets in one bucket: nothing but the
    end of backward completes it. One has a penalty on its parameters."""
    x = rng.normal(size=(8 * size, 4)).astype(np.float32)
    for depth, penalty in ((1, 0.0), (2, 0.0), (2, 0.1)):
        mg.manual_seed(3)
        plain = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))
        copy = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))
        copy.load_state_dict(plain.state_dict())
        net = distributed.DataParallel(copy)
        nets = (plain, mg.tensor(x)), (net, mg.tensor(x[rank::size]))
        optimizers = [optim.SGD(each.parameters(), lr=0.1) for each, _ in nets]
        for _ in range(3):
            for (each, inputs), optimizer in zip(nets, optimizers, strict=True):
                optimizer.zero_grad()
                loss = mg.square(each(inputs)).mean()
                if penalty:
                    loss = loss + penalty * sum(mg.square(p).sum() for p in each.parameters())
                loss.backward()
                optimizer.step()
            for (name, p), q in zip(plain.named_parameters(), copy.parameters(), strict=True):
                for mine, other in ((q.grad, p.grad), (q.detach(), p.detach())):
                    np.testing.assert_allclose(
                        mine.numpy(), other.numpy(), 1e-5, 1e-6, err_msg=name
                    )
        mine = [p.tolist() for p in copy.parameters()]
        assert all(other == mine for other in distributed.WORLD.allgather(mine))


def differ():
    """Other shapes, frozen parameters or buffers are refused on every rank; equal nets are not."""
    frozen, tracks = nn.Linear(2, 3), nn.BatchNorm1d(2, track_running_stats=rank != 3)
    frozen.bias.requires_grad_(rank != 2)
    distributed.DataParallel(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), 8)
    for net, limit in (
        (nn.Linear(2, 3 + (rank == 1)), 8),
        (frozen, 8),
        (tracks, 8),
        (nn.ReLU(), 8 + rank),
    ):
        try:
            distributed.DataParallel(net, limit)
        except RuntimeError as error:
            print(error)


def mismatch():
    """Tensors of other shapes or dtypes are refused on every rank, and the next ones are summed."""
    one, three = mg.ones(1), mg.ones(3)
    for mine in (
        mg.ones(2 + (rank == 1)),
        mg.ones((2, 3) if rank else (3, 2)),
        mg.ones(20_000 if rank else 30_000),
        mg.ones(2, dtype=mg.float64 if rank == size - 1 else mg.float32),
        one if rank else three,  # of shapes that have been summed before
        mg.ones(2, dtype=mg.int64 if rank else mg.float64),
    ):
        try:
            distributed.allreduce(mine)
        except RuntimeError as error:
            said = distributed.WORLD.gather(str(error))
        else:
            raise AssertionError(mine.shape)
        if rank == 0:
            assert len(set(said)) == 1
            print(said[0])
        for same in (one, three):
            assert distributed.allreduce(same).tolist() == [size] * same.size
    try:
        distributed.SyncBatchNorm(2 + rank)(mg.randn(4, 2 + rank))
    except RuntimeError as error:
        assert "rank 0 has (3,) float32, rank 1 has (4,) float32" in str(error)
    else:
        raise AssertionError


def files():
    path = Path(tempfile.gettempdir()) / f"minigrad-ranks-{os.environ['JOB']}.npz"
    distributed.save({"rank": mg.tensor(rank)}, path)
    assert mg.load(path)["rank"].item() == 0
    distributed.barrier()
    if rank == 0:
        path.unlink()


def raises():
    """One rank fails while the others wait for it."""
    if rank == 1:
        raise ValueError("a bad batch")
    distributed.allreduce(mg.ones(3))


def dies(how, moment):
    """Rank 1 is gone without a word, while the others wait for it or compute."""
    ends = {
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "crashed": lambda: ctypes.string_at(0),
        "left": lambda: os._exit(7),
        "left with 0": lambda: os._exit(0),
        "aborted": os.abort,
        "exited with 0": lambda: sys.exit(0),
        "exited with 3": lambda: sys.exit(3),
    }
    if rank == 1 and moment == "with a child" and os.fork() == 0:
        folder, deadline = Path(tempfile.gettempdir()), time.monotonic() + 10
        while not any(file.stat().st_size for file in folder.glob("minigrad-*")):
            if time.monotonic() > deadline:
                os._exit(1)
        (folder / "reported while a child lives").touch()
        os._exit(0)
    net = distributed.DataParallel(make_net(), bucket_bytes=64) if moment != "at once" else None
    for step in range(4):
        if rank == 1 and step == 2 * (moment != "at once"):
            if moment == "in backward":
                first = next(iter(net.parameters()))
                first.register_hook(lambda g: ends[how]())
            else:
                ends[how]()
        if moment == "at once":
            distributed.allreduce(mg.ones(3))
        elif moment == "in a loop of the others" and rank != 1:
            while step == 2:
                mg.ones(10).sum()
        net(mg.randn(4, 6)).sum().backward()


def exits(code):
    """Rank 1 leaves when the work is done, the others later, and by the end of the program."""
    thread = threading.Thread(target=sys.exit, args=(5,))  # ends the thread
    thread.start()
    thread.join()
    distributed.DataParallel(make_net())(mg.randn(4, 6)).sum().backward()
    if rank == 1:
        sys.exit(int(code))
    time.sleep(0.5 * rank)


def forks():
    """A child that ends by itself, or is killed, is no rank."""
    for code in (0, 3):
        child = os.fork()
        if child == 0:
            atexit._run_exitfuncs()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    distributed.barrier()


def leaves_a_process():
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(20)"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


globals()[sys.argv[1]](*sys.argv[2:])
