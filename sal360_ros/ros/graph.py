"""What is wrong on the graph around a node, for its log and its diagnostics."""

from __future__ import annotations

from rclpy.node import Node


def same_name_trouble(node: Node) -> str:
    """What to say when another node has this one's name; "" when none has."""
    own = node.get_name(), node.get_namespace()
    count = node.get_node_names_and_namespaces().count(own)
    if count < 2:
        return ""
    return (
        f"{count} nodes are named {node.get_fully_qualified_name()}; expected one, since parameters and transitions "
        "reach any of them; stop the others, or start this one with -r __node:=another_name"
    )


def silence_trouble(node: Node, topic: str) -> str:
    """Why no frames may be coming on `topic` (raw, or the one ending in /compressed), as far as the graph tells."""
    if node.count_publishers(topic):
        return f"no frames on {topic}, though it has a publisher; expected frames; look for lost large messages"
    base = topic.removesuffix("/compressed")
    other, transport = (base, "raw") if topic != base else (f"{base}/compressed", "compressed")
    if node.count_publishers(other):
        return f"nobody publishes {topic}, but somebody {other}; expected frames; set image_transport to {transport}"
    return f"nobody publishes {topic}; expected frames; start the camera, or remap image to its topic"
