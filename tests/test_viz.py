"""mg.viz: the DOT text, parsed and compared with the graph; rendering if Graphviz is installed."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core.engine.graph import observe

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|->|[{}\[\];=,]|[\w.#]+')


class Parsed:
    """DOT text parsed by its grammar: nodes with their attributes and clusters, and edges."""

    def __init__(self, text):
        assert not TOKEN.sub("", text).strip(), "something that is no token of DOT"
        self.tokens = TOKEN.findall(text)
        self.nodes, self.edges, self.cluster, self.labels = {}, [], {}, {}
        assert [self.take(), self.take(), self.take()] == ["digraph", "minigrad", "{"]
        self.statements(())
        assert not self.tokens

    def take(self):
        return self.tokens.pop(0)

    def statements(self, where):
        while (token := self.take()) != "}":
            if token == "subgraph":
                name = self.take()
                assert name not in self.labels and self.take() == "{"
                self.statements((*where, name))
                continue
            if self.tokens[0] == "=":
                self.take()
                self.labels[where[-1]] = plain(self.take())
            elif self.tokens[0] == "->":
                self.take()
                self.edges.append((token, self.take()))
            else:
                attributes = self.attributes() if self.tokens[0] == "[" else {}
                if token not in ("graph", "node", "edge"):
                    assert token not in self.nodes
                    self.nodes[token], self.cluster[token] = attributes, where
            assert self.take() == ";"

    def attributes(self):
        found = {}
        assert self.take() == "["
        while True:
            key, equals, value = self.take(), self.take(), self.take()
            assert equals == "=" and key not in found
            found[key] = value
            if (end := self.take()) == "]":
                return found
            assert end == ","

    def lines(self, node):
        return [plain(line) for line in re.split(r"(?<!\\)\\n", self.nodes[node]["label"])]

    def heads(self):
        return Counter(self.lines(node)[0] for node in self.nodes)

    def named(self, head):
        (node,) = (node for node in self.nodes if self.lines(node)[0] == head)
        return node

    def drawn_edges(self):
        return Counter((self.lines(a)[0], self.lines(b)[0]) for a, b in self.edges)

    def path(self, node):
        return tuple(self.labels[cluster] for cluster in self.cluster[node])


def plain(text):
    text = text.strip('"') if text.startswith('"') or text.endswith('"') else text
    return re.sub(r"\\(.)", r"\1", text).replace("&amp;", "&")


def draw(*arguments, **options):
    return Parsed(str(mg.viz.graph(*arguments, **options)))


def leaf(*shape):
    return mg.ones(*shape, requires_grad=True)


def network():
    mg.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Sequential(nn.Linear(8, 3), nn.Tanh())
    )


# ---------------------------------------------------------------------------------- what is drawn
def test_operations_shapes_names_and_both_arrows_of_a_square():
    w, b = leaf(3), leaf(2, 3)
    y = w * w
    picture = draw(mg.exp(y + b).sum(), params={"w": w, "b": b, "square": y})
    assert picture.heads() == Counter(["w", "b", "square", "add", "exp", "sum"])
    assert picture.lines(picture.named("w")) == ["w", "(3,)"]
    assert picture.lines(picture.named("square")) == ["square", "multiply", "(3,)"]
    assert picture.lines(picture.named("add")) == ["add", "(2, 3)"]
    assert picture.lines(picture.named("sum")) == ["sum", "()"]
    assert picture.drawn_edges() == {
        ("w", "square"): 2,
        ("square", "add"): 1,
        ("b", "add"): 1,
        ("add", "exp"): 1,
        ("exp", "sum"): 1,
    }


def test_only_what_requires_a_gradient_is_drawn():
    w = leaf(3)
    picture = draw(w * mg.ones(3) + 2.0)
    assert picture.heads() == Counter(["leaf", "multiply", "add"])
    assert draw(w).edges == [] and draw(w).heads() == Counter(["leaf"])


def test_parameters_have_the_names_of_the_model():
    net = network()
    net[0].weight.requires_grad = False
    picture = draw(net(mg.randn(5, 4)), net)
    names = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name in picture.heads() if "weight" in name or "bias" in name} == names
    assert picture.labels == {}, "which module made which operation is known to record alone"
    assert "parameter" in draw(net(mg.randn(5, 4))).heads()
    y = net(mg.randn(5, 4))
    both = draw(y, net, {"0.bias": y, "first": net[0].bias}).heads()
    assert both["0.bias"] == both["first"] == both["1.bias"] == 1, "names given come before others"


def test_more_than_eight_dimensions_have_no_shape():
    x = leaf(*[1] * 9)
    picture = draw((x * 2).sum())
    assert picture.lines(picture.named("multiply")) == ["multiply"]
    assert (leaf(*range(1, 9)) * 2).grad_fn.output_shape == tuple(range(1, 9))


def test_gradient_norms_are_those_of_backward():
    net, x = network(), mg.randn(6, 4)
    hidden = net[0](x)
    loss = mg.square(net[1:](hidden)).sum()
    picture = draw(loss, net, {"hidden": hidden}, gradients=True)
    assert all(p.grad is None for p in net.parameters())
    hidden.retain_grad()
    loss.backward()  # the picture left the graph intact, and no hooks
    for name, tensor in [*net.named_parameters(), ("hidden", hidden)]:
        symbol, norm = picture.lines(picture.named(name))[-1].split()
        assert symbol == "‖grad‖"
        assert float(norm) == pytest.approx(mg.norm(tensor.grad).item(), rel=1e-2, abs=1e-6)
    assert sum(line[-1].startswith("‖grad‖") for line in map(picture.lines, picture.nodes)) == len(
        picture.nodes
    )


def test_gradient_norms_need_one_element():
    with pytest.raises(RuntimeError, match=r"shape \(3,\)"):
        mg.viz.graph(leaf(3) * 2, gradients=True)
    assert draw(leaf(3) * 2).heads()["multiply"] == 1


def test_a_hook_on_a_node_sees_and_replaces_the_gradient():
    x, seen = leaf(2), []
    y = x * 3
    handle = y.grad_fn.register_hook(lambda g: seen.append(g.tolist()))
    y.grad_fn.register_hook(lambda g: g * 10)
    node = y.grad_fn
    loss = (y * 2).sum()
    del y
    loss.backward(retain_graph=True)
    assert seen == [[2.0, 2.0]] and x.grad.tolist() == [60.0, 60.0]
    handle.remove()
    loss.backward()
    assert len(seen) == 1
    with pytest.raises(TypeError, match="expected a function"):
        node.register_hook(3)


@pytest.mark.parametrize(
    "name", ['a "quoted" name', "back\\slash\\n", "a&lt;b", "<b>", "{a|b}", "tab\tnewline\n", "Ω→µ"]
)
def test_names_are_escaped(name):
    w = leaf(3)
    picture = draw(w.sum(), params={name: w})
    expected = name.replace("\t", "U+0009").replace("\n", "U+000A")
    assert expected in picture.heads()


# --------------------------------------------------------------------------------------- clusters
def test_modules_are_clusters_within_clusters():
    net = network()
    with mg.viz.record(net) as recorded:
        loss = mg.square(net(mg.randn(6, 4))).sum()
    picture = draw(loss, recorded, {"loss": loss})
    outer = "Sequential"
    assert picture.path(picture.named("0.weight")) == (outer, "0 (Linear)")
    assert picture.path(picture.named("relu")) == (outer, "2 (ReLU)")
    assert picture.path(picture.named("tanh")) == (outer, "3 (Sequential)", "3.1 (Tanh)")
    assert picture.path(picture.named("3.0.bias"))[-1] == "3.0 (Linear)"
    assert picture.path(picture.named("square")) == picture.path(picture.named("loss")) == ()
    inside = {picture.lines(n)[0] for n in picture.nodes if "1 (BatchNorm1d)" in picture.path(n)}
    assert {"mean", "var", "1.weight", "1.bias"} <= inside
    assert set(picture.edges) == set(draw(loss).edges), "a recording changes no arrow"


def test_an_operation_belongs_to_the_innermost_module_that_runs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            with contextlib.suppress(ValueError):
                self.inner(mg.ones(1, 3))
            return mg.exp(self.inner(mg.sin(self.inner(x))))

    net = Net()
    with mg.viz.record(net) as recorded:
        y = net(mg.ones(1, 2))
        z = y.sum()
    paths = [(node.name, path) for node, path in recorded.paths.items()]
    assert paths == [("linear", "inner"), ("sin", ""), ("linear", "inner"), ("exp", "")]
    picture = draw(z, recorded)
    assert set(picture.labels.values()) == {"Net", "inner (Linear)"}
    assert picture.path(picture.named("sum")) == ()


def test_record_leaves_nothing_behind_and_hands_on_what_it_observes():
    net, seen = network(), []
    observe(lambda name, *_: seen.append(name))
    try:
        with mg.viz.record(net), mg.viz.record(net[3]) as inner:
            net(mg.ones(2, 4))
    finally:
        previous = observe(None)
    assert previous is not None and seen[-1] == "tanh"
    assert list(inner.paths.values()) == ["0", "1"]
    assert all("forward" not in vars(module) for module in net.modules())
    with pytest.raises(ZeroDivisionError), mg.viz.record(net):
        raise ZeroDivisionError
    assert observe(None) is None and "forward" not in vars(net)
    replaced = net[2].__dict__["forward"] = lambda x: x * 2
    with mg.viz.record(net) as recorded:
        net(mg.ones(2, 4))
    assert vars(net[2])["forward"] is replaced
    assert "2" in recorded.paths.values()


def test_threads_do_not_mix_their_modules():
    net, start = network().eval(), threading.Barrier(4)

    def run():
        start.wait()
        for _ in range(50):
            net(mg.ones(2, 4))

    with mg.viz.record(net) as recorded:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        run()  # only this thread is recorded
        for thread in threads:
            thread.join()
    places = {(node.name, path) for node, path in recorded.paths.items()}
    assert ("relu", "2") in places and ("tanh", "3.1") in places
    assert {path for name, path in places if name == "linear"} == {"0", "3.0"}
    assert {path for name, path in places if name in ("relu", "tanh")} == {"2", "3.1"}


# ----------------------------------------------------------------------------------------- folding
def acyclic(picture):
    waiting = Counter(b for _, b in picture.edges)
    ready, done = [n for n in picture.nodes if not waiting[n]], 0
    while ready:
        node, done = ready.pop(), done + 1
        for a, b in picture.edges:
            if a == node:
                waiting[b] -= 1
                if not waiting[b]:
                    ready.append(b)
    return done == len(picture.nodes)


def layers(count, shared=False):
    weights = [leaf(2) for _ in range(1 if shared else count)]
    x = leaf(2)
    for k in range(count):
        x = mg.tanh(x * weights[k % len(weights)] + 1)
    return x.sum()


def test_repeated_layers_are_folded():
    picture = draw(layers(96))
    expected = ["multiply", "add", "tanh"] * 2 + ["... 282 more ...", "leaf", "leaf", "leaf", "sum"]
    assert picture.heads() == Counter(expected)
    fold = picture.named("... 282 more ...")
    assert picture.lines(fold)[1] == "with 94 leaves"
    assert [edge for edge in picture.edges if fold in edge] == [("n2", fold), (fold, "n4")]
    assert acyclic(picture)


def test_a_leaf_that_a_fold_shares_with_others_stays_in_sight():
    picture = draw(layers(96, shared=True))
    fold = picture.named("... 282 more ...")
    assert picture.heads()["leaf"] == 2 and picture.lines(fold) == ["... 282 more ..."]
    assert Counter(picture.edges).most_common(1)[0][1] == 1
    assert len([edge for edge in picture.edges if edge[1] == fold]) == 2


def test_a_short_graph_is_not_folded_and_a_graph_without_repeats_in_the_middle():
    assert len(draw(layers(33)).nodes) == 100 + 34
    functions = [mg.sin, mg.cos, mg.tanh, mg.exp, mg.sigmoid, mg.square]
    x, random = leaf(3), np.random.default_rng(0)
    for k in random.integers(len(functions), size=300):
        x = functions[k](x)
    for most in (3, 10, 11):
        picture = draw(x, max_nodes=most)
        assert acyclic(picture)
        assert len(picture.nodes) == most + 1
        assert sum("more" in head for head in picture.heads()) >= 1
        colours = [attributes.get("fillcolor") for attributes in picture.nodes.values()]
        assert colours.count('"#fff2cc"') == 1, "the output stays in sight"


def test_every_operation_is_drawn_or_counted_and_folding_makes_no_cycle():
    random = np.random.default_rng(1)
    pool = [leaf(2), leaf(2)]
    for _ in range(400):
        a, b = (pool[max(0, len(pool) - 1 - int(k))] for k in random.geometric(0.2, 2))
        pool.append(a * b if random.random() < 0.5 else a + b)
    total = mg.stack(pool).sum()
    whole = len([n for n in draw(total, max_nodes=10_000).nodes if n.startswith("n")])
    for most in (5, 50, 200):
        picture = draw(total, max_nodes=most)
        operations = [n for n in picture.nodes if n.startswith("n")]
        folded = [n for n in operations if "more" in picture.lines(n)[0]]
        hidden = sum(int(picture.lines(n)[0].split()[1].replace(",", "")) for n in folded)
        assert hidden + len(operations) - len(folded) == whole
        assert len(operations) <= most
        assert acyclic(picture)


def test_folded_modules_leave_their_common_cluster():
    net = nn.Sequential(nn.Sequential(*[nn.Linear(2, 2) for _ in range(150)]), nn.Tanh())
    with mg.viz.record(net) as recorded:
        y = net(mg.ones(1, 2))
    picture = draw(y, recorded)
    fold = picture.named("... 148 more ...")
    assert picture.path(fold) == ("Sequential", "0 (Sequential)")
    assert picture.path("n0") == ("Sequential", "0 (Sequential)", "0.0 (Linear)")
    assert set(picture.heads()) >= {"0.0.weight", "0.149.bias", "tanh"}


def test_pictures_are_repeatable():
    assert str(mg.viz.graph(layers(96))) == str(mg.viz.graph(layers(96)))


def test_a_chain_of_100000_operations_needs_no_recursion():
    x = leaf(1)
    for _ in range(50_000):
        x = mg.negative(mg.sin(x))
    start = time.perf_counter()
    picture = draw(x, gradients=True)
    assert picture.heads() == Counter(
        ["leaf", "sin", "sin", "negative", "negative", "... 99,996 more ..."]
    )
    assert time.perf_counter() - start < 30


# -------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3,), {}, TypeError, "expected a Tensor, got int"),
        (
            (nn.Linear(1, 1),),
            {},
            TypeError,
            r"got Linear; draw its output: graph\(model\(x\)",
        ),
        ((mg.ones(2),), {}, RuntimeError, "has no graph"),
        ((leaf(2).sum(), 3), {}, TypeError, "expected a Module as the model, got int"),
        ((leaf(2).sum(), None, {"w": 3}), {}, TypeError, "'w' must be a Tensor, got int"),
        ((leaf(2).sum(),), {"max_nodes": 2}, ValueError, "max_nodes must be at least 3, got 2"),
        ((leaf(2).sum(),), {"max_nodes": 5.0}, TypeError, "max_nodes must be an int"),
    ],
)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        mg.viz.graph(*arguments, **options)


def test_a_freed_graph_cannot_be_drawn():
    loss = (leaf(2) * 2).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"the graph of sum was freed.*retain_graph=True"):
        mg.viz.graph(loss)


# ----------------------------------------------------------------------------------------- saving
def test_save_as_text(tmp_path):
    picture = mg.viz.graph(leaf(2).sum(), params={})
    for suffix in (".dot", ".gv"):
        path = picture.save(tmp_path / f"graph{suffix}")
        assert path.read_text(encoding="utf-8") == picture.dot == str(picture)
    with pytest.raises(ValueError, match=r"cannot save 'graph.jpg'.*\.svg"):
        picture.save(str(tmp_path / "graph.jpg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.dot", "graph.gv"]


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    picture = mg.viz.graph(leaf(2).sum())
    with pytest.raises(ImportError, match=r"pip install graphviz.*apt install.*\.dot"):
        picture.save(tmp_path / "graph.svg")
    assert picture._repr_svg_() is None and list(tmp_path.iterdir()) == []


def test_without_the_program_the_error_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", str(tmp_path))
    picture = mg.viz.graph(leaf(2).sum())
    with pytest.raises(RuntimeError, match=r"dot was not found.*apt install.*\.dot"):
        picture.save(tmp_path / "graph.png")
    assert picture._repr_svg_() is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")]
)
def test_rendering(tmp_path, suffix, start):
    pytest.importorskip("graphviz")
    if shutil.which("dot") is None:
        pytest.skip("the program dot is not there")
    net = network()
    with mg.viz.record(net) as recorded:
        loss = net(mg.ones(2, 4)).sum()
    picture = mg.viz.graph(loss, recorded, {'a "name" & <b>\x00': loss}, gradients=True)
    assert picture.save(tmp_path / f"graph{suffix}").read_bytes().startswith(start)
    if suffix == ".svg":
        import xml.etree.ElementTree as ElementTree

        texts = [
            text.text for text in ElementTree.fromstring(picture._repr_svg_()).iter() if text.text
        ]
        assert {"0.weight", 'a "name" & <b>U+0000', "3.1 (Tanh)", "(2, 8)"} <= set(texts)


def test_importing_minigrad_imports_neither_graphviz_nor_matplotlib():
    program = (
        "import sys, minigrad; sys.exit(any(m in sys.modules for m in ('graphviz', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ---------------------------------------------------------------------------------------- summary
def test_summary_lists_modules_shapes_and_parameters():
    net = network()
    net[0].bias.requires_grad = False
    table = mg.viz.summary(net, mg.randn(6, 4))
    rows = [tuple(row[:6]) for row in table.rows]
    assert rows == [
        ("", "Sequential", "(6, 3)", 0, 0, 1),
        ("0", "Linear", "(6, 8)", 32, 8, 1),
        ("1", "BatchNorm1d", "(6, 8)", 16, 0, 1),
        ("2", "ReLU", "(6, 8)", 0, 0, 1),
        ("3", "Sequential", "(6, 3)", 0, 0, 1),
        ("3.0", "Linear", "(6, 3)", 27, 0, 1),
        ("3.1", "Tanh", "(6, 3)", 0, 0, 1),
    ]
    lines = str(table).splitlines()
    assert len(lines) == 1 + 1 + 7 + 1 + 1
    assert lines[-1].split()[:3] == ["sum", "75", "8"] and lines[-1].endswith(" ms")
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[2:9]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert lines[7].startswith("  0") and lines[3].startswith("0 ")
    assert table._repr_html_().count("<tr>") == 9


def test_summary_changes_nothing():
    net = network()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    before = {name: value.tolist() for name, value in net.state_dict().items()}
    mg.viz.summary(net, mg.randn(6, 4))
    assert [module.training for module in net.modules()] == modes
    assert {name: value.tolist() for name, value in net.state_dict().items()} == before
    assert all(p.grad is None for p in net.parameters())
    assert all("forward" not in vars(module) for module in net.modules())
    with pytest.raises(ValueError, match="linear"):
        mg.viz.summary(net, mg.randn(6, 5))
    assert [module.training for module in net.modules()] == modes
    assert all("forward" not in vars(module) for module in net.modules())


def test_what_is_shared_counts_once_and_calls_are_counted():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.again = self.first
            self.idle = nn.Linear(5, 1)

        def forward(self, x, *, scale):
            return {"out": self.second(self.first(self.first(x))) * scale, "rest": (x, 3)}

    net = Tied()
    table = mg.viz.summary(Wrapped(net), mg.ones(2, 3))
    rows = {row.path: row for row in table.rows}
    assert list(rows) == ["", "net", "net.first", "net.second", "net.idle"]
    assert rows["net.first"].trainable == 12 and rows["net.second"].trainable == 3
    assert rows["net.first"].calls == 2 and "(2, 3) x2" in str(table)
    assert rows["net"].shape == "(2, 3), (2, 3), int"
    assert rows["net.idle"][2:6] == ("", 6, 0, 0) and rows["net.idle"].seconds == 0
    assert "21" in str(table).splitlines()[-1]


class Wrapped(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x, scale=2.0)


def test_time_is_booked_on_the_module_that_takes_it():
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    table = mg.viz.summary(nn.Sequential(nn.Sequential(Slow()), nn.Tanh()), mg.ones(2))
    seconds = {row.path: row.seconds for row in table.rows}
    assert seconds["0.0"] >= 0.02
    assert all(value < 0.01 for path, value in seconds.items() if path != "0.0")


def test_summary_wants_a_module_and_its_inputs():
    with pytest.raises(TypeError, match="expected a Module as the model, got int"):
        mg.viz.summary(3, mg.ones(2))
    with pytest.raises(TypeError, match="pass the inputs of ReLU"):
        mg.viz.summary(nn.ReLU())


def test_what_the_prompt_shows():
    w = mg.ones(2, requires_grad=True)
    assert repr(mg.viz.graph((w * w).sum())) == (
        "<Graph: 3 nodes, 3 arrows; print it, or save('graph.svg')>"
    )
    table = mg.viz.summary(nn.Linear(2, 1), mg.ones(3, 2))
    assert repr(table) == str(table)
    with mg.profile() as seen:
        w * w
    assert repr(seen) == str(seen)
