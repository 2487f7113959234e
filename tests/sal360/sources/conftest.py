"""The fixtures that write bags, for these tests."""

from tests.bag_writer import any_bag, mcap_bag, ros1_bag, sqlite_bag

__all__ = ["any_bag", "mcap_bag", "ros1_bag", "sqlite_bag"]
