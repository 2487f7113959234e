"""The standard messages of bags, decoded and encoded by the rosbags library.

Only standard messages are read here, whose definitions have not changed since ROS 2 Foxy; so the definitions inside a
bag are not needed, and a bag with unknown custom messages on other topics is no obstacle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=2)
def message_types(*, ros1: bool = False) -> Any:
    """The rosbags typestore of the standard messages."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.LATEST)


def decode_message(data: bytes, message_type: str, *, ros1: bool) -> Any:
    """The message's fields as attributes; raises what the library raises."""
    store = message_types(ros1=ros1)
    return store.deserialize_ros1(data, message_type) if ros1 else store.deserialize_cdr(data, message_type)


def ros2_bytes(message: Any, message_type: str) -> bytes:
    """A decoded ROS 1 message with a header, serialised for ROS 2: its header has lost the field `seq`."""
    types = message_types().types
    stamp = types["builtin_interfaces/msg/Time"](sec=message.header.stamp.sec, nanosec=message.header.stamp.nanosec)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=message.header.frame_id)
    fields = {name: value for name, value in vars(message).items() if name not in ("header", "__msgtype__")}
    return bytes(message_types().serialize_cdr(types[message_type](header=header, **fields), message_type))
