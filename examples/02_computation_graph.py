"""Lesson 2: what the machine records: a computation graph, drawn.

In lesson 1 the machine walked back over its record. Here is the record. While a program runs,
minigrad records each operation whose result may need a gradient as a *Node*, with the name of
the operation, edges to the Nodes (or leaves: parameters, inputs) its inputs came from, and only
those arrays that its gradient rule needs. The Nodes form a directed acyclic graph, rebuilt by
each forward pass ("define by run"). Python loops and conditions need no special treatment: an
operation that did not run is not in the graph.

`loss.backward()` visits the Nodes from the newest to the oldest. Every operation is newer than
its inputs, so a Node's turn comes only after all Nodes that used its result: its *cotangent*
d loss / d output is then complete. Its rule turns the cotangent into one for each input,

    d loss / d input = (d output / d input)ᵀ · d loss / d output,

and if a result was used twice, its two cotangents are added: the chain rule for several
variables. No matrix d output / d input is ever formed; the rule of `multiply`, for instance, is
g * y.

The network below has two layers and a BatchNorm between them. Follow its input through the
picture: it goes two ways, to the mean and to the subtraction, and the difference two ways
again, to the variance and to the product; at each fork the returning gradients are added.
Nobody wrote a gradient for BatchNorm; it is this picture, read upwards. The norms in the boxes
are those of d loss / d (that box). For the bias of the first layer it is zero up to rounding:
BatchNorm subtracts the mean, which removes any bias again, so a bias before a BatchNorm is
useless (Ioffe & Szegedy 2015, section 3.2). Pictures of graphs reveal such things.

`mg.viz.record` records which module made which Node, for the frames, and makes BatchNorm run
primitive by primitive; in a training loop its formula runs as one Node, `normalise`, whose gradient
was derived by the rules that you see at work here. Graphviz draws the picture; if its program `dot`
is not installed, matplotlib draws the same graph in a simpler layout, without the frames.

Exercise: the rule of an operation that broadcasts. `make exercise N=2` judges your answer.
"""

from __future__ import annotations

from lesson import draw_dot, picture_path, read_options, report, save

import minigrad as mg
from minigrad import nn


def walk_back(loss: mg.Tensor) -> list[str]:
    """The names of the operations, in the order in which backward runs them."""
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
        path = report(picture.save(picture_path(__file__)))
    except (ImportError, RuntimeError) as error:
        print(f"{error}\nmatplotlib draws it instead")
        path = save(draw_dot(picture.dot), __file__)
    return {"order": order, "useless": useless, "path": path}


if __name__ == "__main__":
    main()
