"""Exercise 7: what an LSTM remembers.

An LSTM cell computes, from the input and its last output, three gates between 0 and 1: i (how much
to write), f (how much to keep) and o (how much to show), and a candidate a, which may be any
number. Write the new memory c, from the old one and these (lesson 7; the candidate is written
through a tanh). The step is compared with that of `nn.LSTMCell`.
"""

import minigrad as mg
from minigrad import nn

from .judge import compare, leaves


def step(x, h, c, W, U, b):
    """The output and the memory after a step, both (N, hidden), for the input x (N, features)."""
    i, f, a, o = mg.split(x @ W.T + h @ U.T + b, h.shape[1], axis=1)
    i, f, o = mg.sigmoid(i), mg.sigmoid(f), mg.sigmoid(o)
    c = ...
    return o * mg.tanh(c), c


def judge():
    mg.manual_seed(0)
    cell = nn.LSTMCell(3, 5).double()
    x, h, c = leaves((4, 3), (4, 5), (4, 5))
    W, U, b = cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh
    output, memory = cell(x, (h, c))
    i, f, a, _ = mg.split(x @ W.T + h @ U.T + b, h.shape[1], axis=1)
    i, f = mg.sigmoid(i), mg.sigmoid(f)
    wrong = {
        "i writes and f keeps; they are exchanged": i * c + f * mg.tanh(a),
        "the candidate is written through a tanh": f * c + i * a,
        "nothing is written": f * c,
        "the old memory is kept whole; f decides how much": c + i * mg.tanh(a),
    }
    yours = step(x, h, c, W, U, b)
    compare("The memory", yours[1], memory, wrong)
    compare("The output", yours[0], output)
    return "It is the step of nn.LSTMCell."
