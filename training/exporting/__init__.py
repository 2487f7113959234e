"""The steps of `training.export`: write graphs, quantise them, check their parity; and what a graph costs."""
