"""Look at graphs, models and training runs: as pictures, as tables, and in notebooks.

Pictures of graphs need Graphviz, those of a training run Matplotlib; DOT text and tables need only
Python. Nothing here is imported by the rest of minigrad before it is used.
"""

from .graphs import Graph as Graph, graph as graph, record as record
from .summaries import Row as Row, Summary as Summary, summary as summary
from .training import Histogram as Histogram, Step as Step, histograms as histograms

__all__ = [
    "Graph", "Histogram", "Row", "Step", "Summary", "graph", "histograms", "record", "summary",
]  # fmt: skip
__dir__ = __all__.copy
