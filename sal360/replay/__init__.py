"""Evaluation of a recorded bag, offline or through the live node.

`recording`: its frames → `evaluation`: one pass over them, with `recorded_gaze`, `frame_table` and `recorders`
→ `figures` → `report` and `plots`.
"""
