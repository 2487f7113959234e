"""The steps of `training.export`: write graphs, quantise them, check their parity; and the cost of a graph."""
