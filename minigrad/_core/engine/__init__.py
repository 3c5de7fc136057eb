"""The engine to read: the table of primitives, the graph, and reverse mode."""
