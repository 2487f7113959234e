"""The five metrics of saliency prediction on the sphere, and the two protocols that combine them."""

from sal360.metrics.measures import (
    METRICS,
    PAPER_METRICS,
    PAPER_SIZE,
    Metric,
    auc_judd,
    cc,
    kld,
    nss,
    paper_protocol,
    sim,
    standard_protocol,
)

__all__ = [
    "METRICS",
    "PAPER_METRICS",
    "PAPER_SIZE",
    "Metric",
    "auc_judd",
    "cc",
    "kld",
    "nss",
    "paper_protocol",
    "sim",
    "standard_protocol",
]
