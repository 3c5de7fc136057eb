"""Reproducible seeds: in other processes, with other numbers of threads and each matrix product
kernel, a seed gives bitwise the same results; different seeds give different ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import minigrad as mg
from minigrad import nn, optim
from minigrad.data import DataLoader, TensorDataset
from torture import Result, Share


def digest(tensors: Any) -> str:
    joined = hashlib.sha256()
    for x in tensors:
        joined.update(x.numpy().tobytes())
    return joined.hexdigest()[:16]


def drawn(seed: int) -> str:
    """A digest of everything random: numbers, initial weights, dropout, the order of batches."""
    mg.manual_seed(seed)
    tensors = [
        mg.rand(100),
        mg.randn(3, 50),
        mg.randint(0, 1000, (50,)),
        mg.randperm(50),
        mg.randn(9, dtype=mg.float64),
    ]
    nets = nn.Linear(9, 8), nn.Conv2d(2, 3, 3), nn.LSTM(4, 5), nn.GRU(3, 3), nn.Embedding(9, 4)
    for net in (*nets, nn.MultiheadAttention(8, 2), nn.ConvTranspose1d(2, 2, 3)):
        tensors += net.parameters()
    for name in ("kaiming_normal_", "xavier_uniform_", "orthogonal_", "trunc_normal_"):
        tensors.append(getattr(nn.init, name)(mg.zeros(6, 6)))
    tensors += [nn.functional.dropout(mg.ones(100)), nn.functional.dropout2d(mg.ones(4, 9, 2, 2))]
    loader = DataLoader(TensorDataset(mg.arange(30)), batch_size=7, shuffle=True)
    tensors += [batch for _ in range(2) for (batch,) in loader]
    return digest(tensors)


def trained(seed: int) -> str:
    """A digest of a net after 20 steps, large enough to use threads."""
    mg.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 13 * 13, 64), nn.LayerNorm(64), nn.Dropout(0.3), nn.GELU(), nn.Linear(64, 10),
    )  # fmt: skip
    lstm = nn.LSTM(16, 32)
    optimizer = optim.AdamW([*net.parameters(), *lstm.parameters()], 1e-3)
    x, labels = mg.randn(256, 1, 28, 28), mg.randint(0, 10, (256,))
    for _ in range(3):
        optimizer.zero_grad()
        out, _ = lstm(x[:, 0, :, :16])
        (nn.functional.cross_entropy(net(x), labels) + out.square().mean()).backward()
        optimizer.step()
    return digest([*net.parameters(), *net.buffers(), *lstm.parameters()])


def elsewhere(function: str, seed: int, **environment: str) -> str:
    """The digest from another process; empty if the processor does not support the kernel."""
    code = f"from torture.seeds import {function}; print({function}({seed}))"
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    child = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if "if the processor has it" in child.stderr:
        return ""
    if child.returncode:
        raise RuntimeError(child.stderr[-2000:])
    return child.stdout.split()[-1]


def torment(share: Share) -> Result:
    result, seeds = Result("repeated seeds"), range(1 if share.quick else 5)
    kernels = ("avx512", "avx2", "blas")
    threads = ("1", "2", "4")
    for seed in share.progress(seeds):
        here = drawn(seed)
        for kernel in kernels:
            if not elsewhere("drawn", 0, MINIGRAD_MATMUL=kernel):
                continue
            expected = ""
            for n in threads:
                environment = {
                    "MINIGRAD_MATMUL": kernel,
                    "MINIGRAD_NUM_THREADS": n,
                    "PYTHONHASHSEED": str(seed) + n,
                }
                where = f"seed {seed}, {kernel}, {n} threads"
                result.check(
                    elsewhere("drawn", seed, **environment) == here, f"{where}: other numbers"
                )
                found = elsewhere("trained", seed, **environment)
                expected = expected or found
                result.check(found == expected, f"{where}: trained to other weights")
    different = {drawn(seed) for seed in range(1000)}
    result.check(len(different) == 1000, f"1,000 seeds gave {len(different)} different draws")
    result.note("different seeds, all with different draws", len(different))
    return result
