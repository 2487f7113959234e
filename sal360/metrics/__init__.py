"""The metrics of saliency prediction on the sphere, and the two protocols that combine them; see `measures`."""

from sal360.metrics.measures import *  # noqa: F403  # those that `measures.__all__` names
