"""Playlists of segmented video: HLS (RFC 8216) and DASH (ISO/IEC 23009-1), with the places of tiles (SRD, annex H)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

from sal360.encoding.segments import Progress, Track


def hls_files(progress: Progress) -> dict[str, str]:
    """Name → text: a playlist for each track, and main.m3u8, which leads to them.

    Tiles are variants by themselves there: HLS cannot say where in the picture they lie.
    """
    files = {f"{name}.m3u8": _media_playlist(progress, track) for name, track in progress.tracks.items()}
    files["main.m3u8"] = _main_playlist(progress)
    return files


def _without_holes(progress: Progress, track: Track) -> list[float]:
    """How long each file of a track lasts for HLS, which knows no holes: until the next, and the first from zero."""
    spans = progress.spans_s(track)
    starts = [0.0, *(begin for begin, _ in spans[1:])]
    ends = [*starts[1:], *(end for _, end in spans[-1:])]
    return [end - start for start, end in zip(starts, ends, strict=True)]


def _media_playlist(progress: Progress, track: Track) -> str:
    longest_s = max((max(_without_holes(progress, each)) for each in progress.tracks.values()), default=1.0)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        f"#EXT-X-TARGETDURATION:{max(1, math.ceil(longest_s))}",
        "#EXT-X-MEDIA-SEQUENCE:0",
        f"#EXT-X-PLAYLIST-TYPE:{'VOD' if progress.is_complete else 'EVENT'}",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f'#EXT-X-MAP:URI="{track.name}/init.mp4"',
    ]
    for number, duration_s in enumerate(_without_holes(progress, track)):
        lines += [f"#EXTINF:{duration_s:.6f},", f"{track.name}/{number:05d}.m4s"]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if progress.is_complete else []), ""])


def _main_playlist(progress: Progress) -> str:
    lines = ["#EXTM3U", "#EXT-X-VERSION:7", "#EXT-X-INDEPENDENT-SEGMENTS"]
    audio = [each for each in progress.tracks.values() if each.kind == "audio"]
    for each in audio:
        lines.append(f'#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="audio",NAME="{each.name}",DEFAULT=YES,URI="{each.name}.m3u8"')
    for each in (track for track in progress.tracks.values() if track.kind == "video"):
        codecs = ",".join([each.codecs, *(other.codecs for other in audio)])
        bandwidth = max(_rates(progress, each), default=0) + sum(
            max(_rates(progress, other), default=0) for other in audio
        )
        average = sum(_mean_rate(progress, other) for other in (each, *audio))
        attributes = f"BANDWIDTH={bandwidth},AVERAGE-BANDWIDTH={average}"
        size = f"RESOLUTION={each.size[1]}x{each.size[0]}"
        group = ',AUDIO="audio"' if audio else ""
        lines += [f'#EXT-X-STREAM-INF:{attributes},{size},CODECS="{codecs}"{group}', f"{each.name}.m3u8"]
    return "\n".join([*lines, ""])


def mpd(progress: Progress) -> str:
    """A DASH presentation of what is there; representations of one tile are in one set, with its place."""
    sets: dict[tuple[str, int, int], list[Track]] = {}
    for track in progress.tracks.values():
        place = track.place
        sets.setdefault((track.kind, place.x if place else -1, place.y if place else -1), []).append(track)
    duration = f"PT{sum(progress.durations_s):.3f}S"
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static" '
        f'mediaPresentationDuration="{duration}" minBufferTime="PT{max(progress.durations_s, default=1):.3f}S">',
        f'<Period id="0" start="PT0S" duration="{duration}">',
    ]
    for number, tracks in enumerate(sets.values()):
        lines += _adaptation_set(number, tracks, progress)
    return "\n".join([*lines, "</Period>", "</MPD>", ""])


def _adaptation_set(number: int, tracks: list[Track], progress: Progress) -> Iterable[str]:
    kind = tracks[0].kind
    yield (
        f'<AdaptationSet id="{number}" contentType="{kind}" mimeType="{kind}/mp4" segmentAlignment="true" '
        'startWithSAP="1" subsegmentStartsWithSAP="1">'
    )
    place = tracks[0].place
    if place is not None:
        tiles = [each.place for each in progress.tracks.values() if each.place is not None]
        width, height = max(each.x + each.width for each in tiles), max(each.y + each.height for each in tiles)
        value = f"0,{place.x},{place.y},{place.width},{place.height},{width},{height}"
        yield f'<SupplementalProperty schemeIdUri="urn:mpeg:dash:srd:2014" value="{value}"/>'
    for track in tracks:
        size = f' width="{track.size[1]}" height="{track.size[0]}"' if kind == "video" else ""
        yield (
            f"<Representation id={quoteattr(track.name)} codecs={quoteattr(track.codecs)} "
            f'bandwidth="{max(_rates(progress, track), default=0)}"{size}>'
        )
        yield from _template(track, progress)
        yield "</Representation>"
    yield "</AdaptationSet>"


def _template(track: Track, progress: Progress) -> Iterable[str]:
    delay = progress.delay_s * track.timescale
    yield (
        f'<SegmentTemplate timescale="{track.timescale}" presentationTimeOffset="{delay}" '
        f'initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/$Number%05d$.m4s" startNumber="0">'
    )
    yield "<SegmentTimeline>"
    for span_s in progress.spans_s(track):
        # rounded at the ends, so that errors do not add up
        start, end = (round(each * track.timescale) for each in span_s)
        yield f'<S t="{start + delay}" d="{end - start}"/>'
    yield "</SegmentTimeline>"
    yield "</SegmentTemplate>"


def _rates(progress: Progress, track: Track) -> list[int]:
    """Bits per second of each segment."""
    pairs = zip(track.bytes, progress.spans_s(track), strict=True)
    return [math.ceil(8 * size / max(end_s - start_s, 1e-3)) for size, (start_s, end_s) in pairs]


def _mean_rate(progress: Progress, track: Track) -> int:
    return math.ceil(8 * sum(track.bytes) / max(sum(progress.durations_s), 1e-3))
