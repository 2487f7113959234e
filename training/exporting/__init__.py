"""From a checkpoint to files that runtimes execute: graphs, precisions, calibration, engines, and what they cost."""
