"""What notebooks show: well-formed HTML, escaped, short, without scripts or colours."""

from __future__ import annotations

import re
import shutil
import sys
from html.parser import HTMLParser

import pytest

import minigrad as mg
from minigrad import nn

VOID = {"br", "hr", "img", "meta", "link", "input"}
HOSTILE = "\"><script>alert(1)</script><b onclick='x'>&amp;"


class Parsed(HTMLParser):
    """Parses HTML; raises AssertionError for what is not well-formed or could run."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.styles, self.text = [], [], "", ""
        self.feed(text)
        self.close()
        assert self.open == [], "not closed"

    def handle_starttag(self, tag, attributes):
        assert tag not in VOID, "nothing here needs one"
        self.check(tag, attributes)
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.check(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text += data

    def check(self, tag, attributes):
        assert tag not in ("script", "style", "iframe", "object")
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and "javascript:" not in (value or "")
            self.styles += f"{value};" if name == "style" else ""


def show(value):
    page = Parsed(value._repr_html_())
    if "svg" not in page.tags:  # a colour of its own would vanish on some background
        assert not re.search(r"color|background", page.styles)
    return page


def test_the_parser_notices():
    for broken in (
        "<div><b></div></b>",
        "<div>",
        "</p>",
        "<b onclick='x'>a</b>",
        "<script></script>",
    ):
        with pytest.raises(AssertionError):
            Parsed(broken)


# --------------------------------------------------------------------------------------- tensors
def test_a_tensor_shows_values_dtype_shape_and_origin():
    x = mg.tensor([[1.0, 2.0], [3.0, 4.5]], requires_grad=True)
    page = show(x)
    assert "[3. , 4.5]" in page.text
    assert "Tensor shape (2, 2), float32, requires grad" in page.text
    y = (x * x).sum()
    y.backward()
    assert "shape (), float32, made by sum" in show(y).text and "15" not in show(y).text
    assert "has .grad" in show(x).text
    assert "Parameter shape (3,)" in show(nn.Linear(1, 3).bias).text
    assert "[ True, False]" in show(mg.tensor([True, False])).text


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1000, 1000), (10,) * 6, (1,) * 20, (2,) * 20])
def test_any_tensor_is_short(shape):
    text = mg.zeros(*shape)._repr_html_()
    Parsed(text)
    assert len(text) < 6000 and f"shape {shape}" in text


def test_a_hostile_function_is_escaped():
    evil = type(HOSTILE, (mg.autograd.Function,), {
        "forward": staticmethod(lambda ctx, x: x * 2), "backward": staticmethod(lambda ctx, g: g)
    })  # fmt: skip
    page = show(evil.apply(mg.ones(2, requires_grad=True)))
    assert HOSTILE in page.text


# --------------------------------------------------------------------------------------- modules
def test_a_module_is_a_tree_that_folds():
    block = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Sequential(nn.Sequential(nn.Tanh())))
    net = nn.Sequential(block, nn.ReLU(), nn.Linear(3, 1000))
    net[2].bias.requires_grad_(False)
    page = show(net)
    assert page.tags.count("details") == page.tags.count("summary") == 4
    assert net._repr_html_().count("<details open>") == 2, "deeper levels start folded"
    assert "Sequential() 4,012 parameters" in page.text
    assert "(0): Sequential() 12 parameters" in page.text
    assert "(0): Linear(in_features=4, out_features=3, bias=False) 12 parameters" in page.text
    assert "weight (3, 4)" in page.text
    assert "4,000 parameters; weight (1000, 3); bias (1000,), frozen" in page.text
    assert "(1): ReLU()" in page.text and "0 parameters;" not in page.text.replace("00 p", "")
    assert sum(p.size for p in net.parameters()) == 4012


def test_what_is_shared_counts_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    page = show(net)
    assert "Sequential() 8 parameters" in page.text
    assert "2 parameters; weight (2, 2), shared; bias (2,)" in page.text


def test_hostile_names_are_escaped():
    class Net(nn.Module):
        def extra_repr(self):
            return HOSTILE

    Net.__name__ = HOSTILE
    net = Net()
    net.add_module(HOSTILE + "2", nn.ReLU())
    net.register_parameter(HOSTILE, nn.Parameter([1.0]))
    page = show(net)
    assert page.text.count(HOSTILE) == 4
    assert "<script" not in net._repr_html_()


# ---------------------------------------------------------------------------------------- graphs
def graph_of_hostile_names():
    w = mg.ones(2, requires_grad=True)
    return mg.viz.graph((w * w).sum(), params={HOSTILE: w})


def test_a_graph_is_a_picture():
    pytest.importorskip("graphviz")
    if shutil.which("dot") is None:
        pytest.skip("the program dot is not there")
    picture = graph_of_hostile_names()
    text = picture._repr_html_()
    assert text.startswith("<div") and "<svg" in text and "<?xml" not in text
    page = show(picture)
    assert "multiply" in page.text and HOSTILE in page.text
    assert 'fill="white"' in text, "its black text needs a background"


def test_without_graphviz_a_graph_is_its_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    page = show(graph_of_hostile_names())
    assert page.tags == ["details", "summary", "pre"]
    assert "Graph: 3 nodes, 3 arrows" in page.text and "digraph minigrad {" in page.text


def test_a_recording_has_a_picture_and_no_html():
    assert not hasattr(mg.viz.histograms(nn.ReLU()), "_repr_html_")
