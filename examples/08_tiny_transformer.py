"""Lesson 8: a tiny transformer learns to sort.

An LSTM must carry everything it may need later through its state. *Attention* looks it up
instead. Each position asks a question (its query q), and offers a label (its key k) and content
(its value v), all linear maps of its vector. The position receives a weighted mean of the
contents,

    attention(q, k, v) = softmax( q kᵀ / √d ) v,

with large weights where question and label match (Vaswani et al. 2017, section 3.2; √d keeps
the logits from growing with the dimension). All positions do this at once, in several *heads*,
which can look for different things. A *block* adds the result of attention to its input, and
then the output of a small network applied to each position separately; LayerNorm (Ba et al.
2016) before each keeps magnitudes in range. Since attention itself does not know positions, an
embedding of the position is added at the start.

The task: after eight digits and a `>` come the same digits, sorted.

    5 1 7 1 0 9 3 3 > 0 1 1 3 3 5 7 9

The network is a language model as in lesson 7: at each position it predicts the next token. It
must not look ahead at the answer, so a position may attend only to itself and earlier positions
(a *causal mask*): this lets one forward pass train all eight answers at once. The given digits
are random, and only what follows the `>` counts. Afterwards the network gets sequences that it
has never seen (there are 10⁸) and writes the answer by itself, with each digit fed back in; an
answer is right if all eight digits are.

How does it sort? The picture shows where each position of the answer looks, for one sequence.
Nobody told it to, but in some head a position that is about to write a 3 looks at the 3s among
the given digits, and if a digit occurs twice it must count, by also looking at what it has
already written.

Exercise: attention that cannot look ahead. `make exercise N=8` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import ORANGE, progress, read_options, save
from matplotlib.figure import Figure

import minigrad as mg
from minigrad import nn, optim

GIVEN, ARROW = 8, 10  # how many digits; the token `>`
WIDTH, HEADS, BLOCKS, BATCH = 48, 4, 2, 64


class Block(nn.Module):
    """Attention to earlier positions and a small network, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.network = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.weights: mg.Tensor | None = None  # of the last call with keep=True

    def forward(self, x: mg.Tensor, keep: bool = False) -> mg.Tensor:
        y = self.norm1(x)
        mask = np.triu(np.ones((x.shape[1], x.shape[1]), bool), k=1)  # True: masked
        found, weights = self.attention(
            y, y, y, attn_mask=mg.tensor(mask), need_weights=keep, average_attn_weights=False
        )
        self.weights = weights
        x = x + found
        return x + self.network(self.norm2(x))


class Sorter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(11, WIDTH), nn.Embedding(2 * GIVEN, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, tokens: mg.Tensor, keep: bool = False) -> mg.Tensor:
        """Logits of the next digit at each position, of shape (N, L, 10), for tokens (N, L)."""
        x = self.token(tokens) + self.place(mg.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, keep)
        return self.head(self.norm(x))


def make_sequences(count: int, random: np.random.Generator) -> np.ndarray:
    """Digits, `>`, sorted digits: int64 of shape (count, 17)."""
    digits = random.integers(0, 10, (count, GIVEN))
    return np.concatenate([digits, np.full((count, 1), ARROW), np.sort(digits, axis=1)], axis=1)


@mg.no_grad()
def answer(model: Sorter, questions: np.ndarray) -> np.ndarray:
    """What the model writes after the `>`, one digit at a time: (N, 9) gives (N, 8)."""
    tokens = questions
    for _ in range(GIVEN):
        following = model(mg.tensor(tokens)).numpy()[:, -1].argmax(axis=1)
        tokens = np.concatenate([tokens, following[:, None]], axis=1)
    return tokens[:, -GIVEN:]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    mg.manual_seed(0)
    random, model = np.random.default_rng(0), Sorter()
    steps = 40 if options.fast else 2000
    optimizer, losses = optim.Adam(model.parameters(), lr=3e-3), []
    for step in (bar := progress(steps, "sorting")):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        sequences = make_sequences(BATCH, random)
        logits = model(mg.tensor(sequences[:, :-1]))[:, GIVEN:]
        targets = mg.tensor(sequences[:, GIVEN + 1 :].reshape(-1))
        loss = nn.functional.cross_entropy(logits.reshape(-1, 10), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    test = make_sequences(200 if options.fast else 1000, np.random.default_rng(1))
    answers = answer(model, test[:, : GIVEN + 1])
    digits = float((answers == test[:, -GIVEN:]).mean())
    right = float((answers == test[:, -GIVEN:]).all(axis=1).mean())
    print(f"of {len(test):,} new sequences {right:.1%} sorted right; {digits:.2%} of the digits")
    shown = np.array([[5, 1, 7, 1, 0, 9, 3, 3, ARROW, 0, 1, 1, 3, 3, 5, 7, 9]])
    written = answer(model, shown[:, : GIVEN + 1])[0].tolist()
    print("5 1 7 1 0 9 3 3 >", *written)

    with mg.no_grad():
        model(mg.tensor(shown[:, :-1]), keep=True)
    maps = [block.weights.numpy()[0, :, GIVEN:] for block in model.blocks]  # (heads, 8, 16)
    seen = [">" if token == ARROW else str(token) for token in shown[0]]
    figure = Figure(figsize=(2.9 * HEADS, 2.3 * BLOCKS), layout="constrained")
    grid = figure.subplots(BLOCKS, HEADS, sharex=True, sharey=True)
    for (block, head), axis in np.ndenumerate(grid):
        image = axis.imshow(maps[block][head], "Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_title(f"block {block + 1}, head {head + 1}", fontsize=10)
        axis.axvline(GIVEN + 0.5, color=ORANGE, lw=0.8)  # its own output is to the right
    grid[0, 0].set(xticks=range(2 * GIVEN), yticks=range(GIVEN))
    grid[0, 0].set(xticklabels=seen[:-1], yticklabels=written)
    figure.supxlabel("looks at (right of the line: at its own answer)", fontsize=10)
    figure.supylabel("is about to write", fontsize=10)
    figure.colorbar(image, ax=grid, label="attention weight", shrink=0.7)
    save(figure, __file__)
    return {"right": right, "digits": digits, "losses": losses, "maps": maps}


if __name__ == "__main__":
    main()
