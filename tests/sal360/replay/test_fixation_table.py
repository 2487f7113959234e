from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sal360.errors import DataError
from sal360.replay.fixation_table import read_fixation_table

CELLS = st.sampled_from(["x", "y", "z", "observer", "1", "-0.5", "0,5", "nan", "", "1e999", '"', "#", "é", "\0"])
LINES = st.lists(st.lists(CELLS, max_size=6), max_size=6)


@given(LINES, st.sampled_from([",", ";", "\t", " "]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin1"]))
def test_any_table_is_read_or_refused_with_a_line(rows: list[list[str]], separator: str, encoding: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.csv"
        path.write_bytes("\n".join(separator.join(row) for row in rows).encode(encoding))
        found = ""
        try:
            vectors, observers, lost = read_fixation_table(path)
        except DataError as error:
            found = error.found
    if found:
        assert f"of {path} is not a row of fixations" in found
    else:
        assert vectors.shape == (len(observers), 3)
        assert lost >= 0
