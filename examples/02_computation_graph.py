"""Lesson 2: what the machine remembers: a computation graph, drawn.

In lesson 1 the machine walked back over its notes. Here are the notes. While a program
computes, minigrad records each operation whose result may need a gradient: a *Node* with the
name of the operation, edges to the Nodes (or leaves: parameters, inputs) that its inputs came
from, and those arrays, and only those, that its gradient rule will ask for. Together they are a
directed graph without cycles, built anew by each forward pass ("define by run"), so that loops
and conditions of Python need no special treatment: what did not happen is not in the graph.

`loss.backward()` goes over the Nodes from the newest to the oldest. Since every operation is
newer than what it reads, a Node's turn comes only when all that used its result have had
theirs: its *cotangent* d loss / d output is then complete. Its rule turns that into one for
each input,

    d loss / d input = (d output / d input)ᵀ · d loss / d output,

and where a result was used twice, what arrives is added up: the chain rule for several
variables. No matrix d output / d input is ever formed; the rule of `multiply`, for instance, is
g * y.

The network below has two layers and a BatchNorm between them. Follow its input through the
picture: it goes two ways, to the mean and to the subtraction, and the difference two ways
again, to the variance and to the product; at each fork the gradients that come back are added.
Nobody wrote a gradient for BatchNorm; this picture is it, read upwards. The norms in the boxes
are those of d loss / d (that box). The one of the first layer's bias is zero but for rounding:
BatchNorm subtracts the mean, so what a bias adds is taken away again, and a bias before a
BatchNorm is useless (Ioffe & Szegedy 2015, section 3.2). Pictures of graphs find such things.

`mg.viz.record` notes which module made which Node, for the frames, and has BatchNorm run primitive
by primitive; in a training loop its formula runs as one Node, `normalise`, whose gradient was
derived by the rules that you see at work here. The picture needs Graphviz; where that is missing,
DOT text is written, which https://dreampuf.github.io/GraphvizOnline shows.
"""

from __future__ import annotations

from lesson import picture_path, read_options, report

import minigrad as mg
from minigrad import nn


def walk_back(loss: mg.Tensor) -> list[str]:
    """The names of the operations in the order in which backward runs them."""
    found, waiting = {loss.grad_fn}, [loss.grad_fn]
    while waiting:  # no recursion: graphs of recurrent networks are thousands of operations deep
        for below in waiting.pop().next_functions:
            if below is not None and not isinstance(below, mg.Tensor) and below not in found:
                found.add(below)
                waiting.append(below)
    return [node.name for node in sorted(found, key=lambda node: -node.number)]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    read_options(__file__, __doc__, arguments)
    mg.manual_seed(0)
    x, target = mg.randn(32, 4), mg.randint(0, 3, (32,))
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with mg.viz.record(network) as recorded:
        loss = nn.functional.cross_entropy(network(x), target)

    order = walk_back(loss)
    print(f"backward runs {len(order)} rules: {', '.join(order)}")
    picture = mg.viz.graph(loss, recorded, {"loss": loss}, gradients=True)
    loss.backward()
    useless = mg.norm(network[0].bias.grad).item()
    print(f"‖d loss / d bias‖ of the layer before BatchNorm: {useless:.1e}")
    print(f"‖d loss / d bias‖ of the last layer:             {network[3].bias.grad.norm():.1e}")
    print(f"\n{mg.viz.summary(network, x)}\n")
    try:
        path = picture.save(picture_path(__file__))
    except (ImportError, RuntimeError) as error:
        print(error)
        path = picture.save(picture_path(__file__, ".dot"))
    report(path)
    return {"order": order, "useless": useless, "path": path}


if __name__ == "__main__":
    main()
