"""The fixtures of a recorded scene, for these tests."""

from tests.replayed_scene import any_bag, mcap_bag, ros1_bag, run_evaluate, sqlite_bag, turning_scene

__all__ = ["any_bag", "mcap_bag", "ros1_bag", "run_evaluate", "sqlite_bag", "turning_scene"]
