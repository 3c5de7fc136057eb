"""Lesson 7: a recurrent network writes, letter by letter.

The task is to continue a text: given all characters so far, how likely is each character to be
the next? A *recurrent network* reads them one by one and keeps what matters in a state. The
plain one, h ← tanh(W x + U h + b), forgets: going back through t steps, its gradient is
multiplied by U t times and shrinks or explodes exponentially (Bengio, Simard & Frasconi 1994).
The LSTM has a second state c, which is not multiplied by a matrix but changed by *gates*,
numbers between 0 and 1 computed from the input (Hochreiter & Schmidhuber 1997; the forget gate
f is from Gers et al. 2000):

    c ← f ⊙ c + i ⊙ tanh(...)       forget some, write some
    h ← o ⊙ tanh(c)                 show some

Where f is 1, the gradient goes back through c undiminished, so long-range dependencies can be
learnt.

The network is trained on many short pieces of the text at once, on each position of each piece:
the loss is the cross-entropy of the next character. Divided by log 2 it is the number of *bits*
per character if the model is used for compression (Shannon 1948). This makes models comparable:
a table of character frequencies, a table of pairs (the best guess given one character), and the
network. All are evaluated on the last tenth of the text, which they have not seen.

The text consists of docstrings of Python's standard library: every machine has them, and a
model that has seen them should write something that looks like documentation from a distance.
Samples are drawn character by character, and each character drawn is fed back. The logits are
first divided by a *temperature*: at 0.5 the model writes only what it is sure of, at 1 its text
is as varied as what it read. The gradient is clipped by norm (Pascanu, Mikolov & Bengio 2013),
because a single odd piece can throw an LSTM far off.

Exercise: what an LSTM remembers. `make exercise N=7` judges your answer.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap

import numpy as np
from lesson import BLUE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad import nn, optim

SOURCES = """string textwrap random statistics fractions decimal collections functools itertools
heapq pathlib shutil argparse logging datetime calendar unittest json csv threading subprocess"""
LENGTH, BATCH, HIDDEN, RATE = 32, 32, 128, 5e-3


def read_docstrings() -> str:
    """The docstrings of the modules in SOURCES, their public classes, methods and functions."""
    found = {}  # a dict keeps the order and drops duplicates
    for module in map(importlib.import_module, SOURCES.split()):
        public = [vars(module)[name] for name in sorted(vars(module)) if name[0] != "_"]
        classes = [item for item in public if inspect.isclass(item)]
        routines = [item for item in public if inspect.isroutine(item)]
        methods = [m for item in classes for m in vars(item).values() if inspect.isroutine(m)]
        for item in (module, *classes, *routines, *methods):
            found[inspect.cleandoc(item.__doc__ or "")] = None
    return "\n\n".join(found).encode("ascii", "ignore").decode()


class Writer(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, characters)

    def forward(self, codes: mg.Tensor, state=None):
        """Logits of the next character, (N, L, characters), and the state after the last one."""
        hidden, state = self.lstm(self.embedding(codes), state)
        return self.head(hidden), state


def loss_of(model: Writer, pieces: np.ndarray) -> mg.Tensor:
    """Cross-entropy of characters 1, 2, ... of each piece, in nats: pieces has shape (N, L + 1)."""
    logits, _ = model(mg.tensor(pieces[:, :-1]))
    targets = mg.tensor(pieces[:, 1:].reshape(-1))
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)


@mg.no_grad()
def write(model: Writer, alphabet: str, count: int, temperature: float, seed: int) -> str:
    random, state, text = np.random.default_rng(seed), None, "Return"
    codes = np.array([[alphabet.index(c) for c in text]])
    for _ in range(count):
        logits, state = model(mg.tensor(codes), state)
        p = mg.softmax(logits[0, -1].astype(mg.float64) / temperature).numpy()
        codes = np.array([[random.choice(len(alphabet), p=p)]])
        text += alphabet[codes.item()]
    return text


def table_bits(train: np.ndarray, test: np.ndarray, characters: int) -> tuple[float, float]:
    """Bits per character of two tables of counts: of single characters, and of pairs."""
    pairs = np.full((characters, characters), 0.1)  # nothing is impossible
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    single = pairs.sum(axis=0) / pairs.sum()
    given_one = pairs / pairs.sum(axis=1, keepdims=True)
    last, following = test[:-1], test[1:]
    return -np.log2(single[following]).mean(), -np.log2(given_one[last, following]).mean()


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    text = read_docstrings()
    alphabet = "".join(sorted(set(text)))
    codes = np.array([alphabet.index(c) for c in text])
    cut = len(codes) * 9 // 10
    learnt_from, test = codes[:cut], codes[cut:]
    pieces = np.lib.stride_tricks.sliding_window_view(learnt_from, LENGTH + 1)
    unseen = test[: len(test) // 101 * 101].reshape(-1, 101)[: 40 if options.fast else 200]
    single, given_one = table_bits(learnt_from, test, len(alphabet))
    print(f"{len(codes):,} characters, {len(alphabet)} different ones")

    mg.manual_seed(0)
    random, model = np.random.default_rng(0), Writer(len(alphabet))
    optimizer, steps = optim.Adam(model.parameters(), lr=RATE), 40 if options.fast else 1500
    curve, judged = [], []
    for step in (bar := progress(steps, "reading")):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss = loss_of(model, pieces[random.integers(len(pieces), size=BATCH)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curve.append(loss.item() / np.log(2))
        if (step + 1) % (steps // 20) == 0:
            with mg.no_grad():
                judged.append((step + 1, loss_of(model, unseen).item() / np.log(2)))
            bar.set_postfix(bits=f"{judged[-1][1]:.2f}", refresh=False)
    rows = {"single characters": single, "pairs": given_one, "LSTM": judged[-1][1]}
    for name, bits in rows.items():
        print(f"{name:<18} {bits:.2f} bits per unseen character")
    samples = {
        t: write(model, alphabet, 80 if options.fast else 320, t, seed=1) for t in (0.5, 1.0)
    }
    for temperature, sample in samples.items():
        print(f"\n--- temperature {temperature} ---\n{sample}")

    figure, (left, right) = panels(2, width=5.4, height=4.4)
    left.plot(np.arange(1, steps + 1), curve, color=BLUE, lw=0.5, alpha=0.5, label="LSTM, step")
    left.plot(*zip(*judged, strict=True), "o-", color=ORANGE, label="LSTM, unseen text")
    for (name, bits), style in zip(list(rows.items())[:2], (":", "--"), strict=True):
        left.axhline(bits, color=GREY, ls=style, label=f"table of {name}, unseen text")
    left.set(xlabel="step", ylabel="bits per character", title="What a character costs")
    left.legend(fontsize=9)
    right.axis("off")
    whole = {t: sample[:250].rpartition(" ")[0].rstrip() for t, sample in samples.items()}  # words
    shown = [f"[temperature {t}]\n{text} ...\n" for t, text in whole.items()]
    lines = [textwrap.fill(line, 56) for line in "\n".join(shown).split("\n")]
    right.text(0, 1, "\n".join(lines), family="monospace", fontsize=9, va="top", parse_math=False)
    right.set_title("What it writes", loc="left")
    save(figure, __file__)
    return {"bits": rows, "curve": curve, "samples": samples}


if __name__ == "__main__":
    main()
