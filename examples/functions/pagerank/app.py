"""Ranks the nodes of a random graph (SeBS's pagerank, with igraph)."""

import random
import zlib

import igraph
import numpy  # noqa: F401: igraph imports it when it first ranks, if it is there


def handler(event, context):
    random.seed(int(event["seed"]))
    graph = igraph.Graph.Barabasi(int(event["nodes"]), 10)
    ranks = graph.pagerank()
    # Ranks are shares of one whole, and in such a graph the earliest nodes have the most neighbours.
    if abs(sum(ranks) - 1) > 1e-6 or max(range(len(ranks)), key=ranks.__getitem__) > len(ranks) // 10:
        raise AssertionError("these are no ranks of this graph")
    # The degrees are the graph; ranks are rounded, since sums of floats differ in their last bits by machine.
    told = repr(graph.degree()) + ",".join(f"{rank:.9f}" for rank in ranks[:1000])
    return {"checksum": f"{zlib.crc32(told.encode()):08x}", "edges": graph.ecount()}
