"""Which encoders obey regions of interest, and with which options: python benchmarks/encoder_regions.py [--json].

Each codec of `sal360.encoding.codecs` that starts on this machine is tried with its presets and modes of adaptive
quantisation, with and without the options that `sal360 encode` chooses. The table says what `sal360.encoding.probe`
found: which presets obey, and by how many decibels the error inside the regions shrank against that outside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from sal360.encoding.codecs import CODECS, Codec, EncoderSettings, is_available
from sal360.encoding.probe import probe
from sal360.errors import ParameterError, clean_end, one_line_errors

_CHOSEN = "as `sal360 encode` sets it"
_MODES: dict[str, list[dict[str, str]]] = {
    "libx264": [{"aq-mode": mode} for mode in "0123"],
    "libx265": [{"x265-params": f"aq-mode={mode}"} for mode in "01234"],
    "libvpx-vp9": [{"deadline": "good"}, {"deadline": "realtime"}, {"deadline": "realtime", "aq-mode": "3"}],
    "libvpx": [{"deadline": "good"}, {"deadline": "realtime"}],
    "libsvtav1": [{"svtav1-params": f"aq-mode={mode}"} for mode in "012"],
}
"""Options that are tried besides the encoder's defaults."""
_SLOW = ("placebo", "veryslow", "slower")
"""Presets that are left out unless --all asks for them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", choices=tuple(CODECS), default=list(CODECS), help="default: all")
    parser.add_argument("--all", action="store_true", help="the slowest presets of x264 and x265, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    arguments = parser.parse_args()
    if not arguments.json:
        print("| codec | options | presets that obey | presets that ignore regions | inside against outside |")
        print("|---|---|---|---|---|", flush=True)
    for codec in (CODECS[name] for name in arguments.codecs):
        for options, results in _rows(codec, every=arguments.all):
            if arguments.json:
                print(json.dumps({"codec": codec.name, "options": options, "presets": results}), flush=True)
            else:
                print(_line(codec, options, results), flush=True)


def _rows(codec: Codec, *, every: bool) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Options in words, and what each preset did."""
    presets = [each for each in codec.presets if every or each not in _SLOW]
    if not is_available(codec):
        yield "", {presets[0]: {"error": "not in this FFmpeg"}}
        return
    as_found = replace(codec, obeys_with={})
    first = _tried(EncoderSettings(codec, codec.preset))
    if "error" in first:
        yield _CHOSEN, {codec.preset: first}
        return
    yield _CHOSEN, {each: _tried(EncoderSettings(codec, each)) for each in presets}
    yield "its defaults", {each: _tried(EncoderSettings(as_found, each)) for each in presets}
    for options in _MODES.get(codec.name, []):
        shown = " ".join(f"{name}={value}" for name, value in options.items())
        yield f"`{shown}`", {each: _tried(EncoderSettings(as_found, each, extra=options)) for each in presets}


def _tried(settings: EncoderSettings) -> dict[str, Any]:
    try:
        found = probe(settings)
    except ParameterError as error:
        return {"error": str(error).partition("; ")[0]}
    return {**asdict(found), "difference_db": found.difference_db, "obeys": found.obeys}


def _line(codec: Codec, options: str, results: dict[str, dict[str, Any]]) -> str:
    """A row of the table."""
    errors = {each["error"] for each in results.values() if "error" in each}
    if errors:
        return f"| {codec.name} | {options} | – | – | {'; '.join(errors)} |"
    obeying, ignoring = (
        [name for name, each in results.items() if each["obeys"] is wanted] for wanted in (True, False)
    )

    def shown(names: list[str]) -> str:
        return "all" if len(names) == len(results) else ", ".join(names) or "none"

    found = [each["difference_db"] for each in results.values() if each["obeys"]] or [0.0]
    return (
        f"| {codec.name} | {options} | {shown(obeying)} | {shown(ignoring)} | {min(found):.0f} to {max(found):.0f} dB |"
        if obeying
        else f"| {codec.name} | {options} | none | all | 0 dB |"
    )


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
