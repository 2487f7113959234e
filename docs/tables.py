"""Tables and files that follow from the code: `python -m docs.tables` rewrites them, `--check` only compares.

In a page, the table NAME stands between `<!-- table: NAME -->` and `<!-- end -->`. A new table is one line of `TABLES`.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from sal360.cameras.presets import PRESETS
from sal360.cameras.settings import LENS_KEYS, CameraSettings
from sal360.errors import FRAME_REJECTIONS, ParameterError
from sal360.files import write_text
from sal360.metrics import METRICS
from sal360.replay.figures import MEANINGS, figure_names
from sal360.runtimes.selection import BACKENDS
from sal360.settings import Rule, Settings, Value, flatten
from sal360.weights import Weights
from sal360_ros.parameters import CameraParameters, SaliencyParameters, ViewerParameters
from sal360_ros.topics import DIAGNOSTICS, INPUTS, OUTPUTS, VIEWER_OUTPUTS, Topic

ROOT = Path(__file__).resolve().parents[1]
README_PARAMETERS = (
    "image_transport",
    "encoding",
    "full_scale",
    "backend",
    "device",
    "precision",
    "threads",
    "prior_strength",
    "front_strength",
    "smoothing.time_constant_s",
    "orientation",
    "frame_convention",
    "yaw_offset_rad",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite what differs from the code, or name it with `--check`; 1 when that finds anything."""
    parser = argparse.ArgumentParser(prog="python -m docs.tables", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file differs")
    is_check = parser.parse_args(arguments).check
    differing = [path for path in [*pages(), *(ROOT / name for name in FILES)] if _text(path) != generated(path)]
    for path in differing:
        name = path.relative_to(ROOT)
        if is_check:
            print(f"{name} differs from the code; run python -m docs.tables", file=sys.stderr)
            continue
        write_text(path, generated(path))
        print(f"{name} rewritten")
    return 1 if is_check and differing else 0


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sal360/weights/*.md")])


def generated(path: Path) -> str:
    """What a file should hold.

    Raises:
        ParameterError: a page names a table that does not exist.
    """
    name = path.relative_to(ROOT).as_posix()
    if name in FILES:
        return FILES[name]()
    return re.sub(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", partial(_region, name), _text(path), flags=re.DOTALL)


def _region(page: str, match: re.Match[str]) -> str:
    begin, table, end = match.groups()
    if table not in TABLES:
        raise ParameterError(f"{page} has a table {table!r}", f"choose one of {', '.join(TABLES)}, or add it there")
    text = TABLES[table]()
    if page.startswith("docs/"):  # tables write their links as seen from the README
        text = text.replace("](docs/", "](")
    return f"{begin}\n{text}\n{end}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = f"|{'---|' * len(heading)}\n"
    head, *body = [f"| {' | '.join(cells)} |\n" for cells in (heading, *rows)]
    return "".join([head, rule, *body])


# --- parameters ---


def parameters(settings: Settings, names: Sequence[str] = (), group: str = "") -> str:
    """Parameters with default, values and meaning: all, those of these names in this order, or those of a group."""
    found = {name: (value, rule) for name, value, rule in flatten(settings)}
    chosen = names or [name for name in found if name.startswith(group)]
    rows = [(f"`{name}`", *_cells(*found[name])) for name in chosen]
    return markdown(("parameter", "default", "values", "meaning"), rows)


def _cells(default: Value, rule: Rule) -> tuple[str, str, str]:
    shown = default if isinstance(default, str) and default else _yaml(default)
    return f"`{shown}`", _values(default, rule), rule.description


def _values(default: Value, rule: Rule) -> str:
    if rule.choices:
        unit = f" {rule.unit}" if rule.unit else ""
        return ", ".join(f"`{each}`" for each in rule.choices) + unit
    return rule.allowed or ("`true`, `false`" if isinstance(default, bool) else "text")


def _groups(settings: Settings) -> list[str]:
    """The groups of parameters, each of which has a table of its name."""
    return list(dict.fromkeys(name.partition(".")[0] for name, _, _ in flatten(settings) if "." in name))


def parameters_yaml(settings: Settings) -> str:
    """`config/saliency.yaml`: every parameter of the node with its default.

    Parameters outside groups come first: in YAML, a line after a group would belong to the group.
    """
    lines_of: dict[str, list[str]] = {"": []}
    for name, default, rule in flatten(settings):
        group, _, own = name.rpartition(".")
        lines = lines_of.setdefault(group, [f"    {group}:"])
        indent = "      " if group else "    "
        is_said = rule.choices and all(f"{choice}:" in rule.description for choice in rule.choices)
        values = f" ({rule.allowed})" if rule.allowed and not is_said else ""
        lines += [f"{indent}# {rule.description}{values}", f"{indent}{own}: {_yaml(default)}"]
    heading = [
        "# Every parameter of saliency_node with its default, written by `python -m docs.tables`. To change some:",
        "# ros2 launch sal360_ros saliency.launch.py params_file:=a_copy_of_this.yaml",
        "/**:",
        "  ros__parameters:",
    ]
    return "\n".join([*heading, *(line for lines in lines_of.values() for line in lines)]) + "\n"


def _yaml(value: Value) -> str:
    return json.dumps(value)


def fixed_parameters() -> str:
    """When the parameters of the node can be changed, as a paragraph."""
    names: dict[str, list[str]] = {}
    for name, _, rule in flatten(SaliencyParameters()):
        names.setdefault(rule.changes, []).append(f"`{name}`")
    unconfigured, start = (", ".join(names[when]) for when in ("unconfigured", "start"))
    text = (
        f"These can be changed only while the node is unconfigured: {unconfigured}. Only when it starts: {start}. All "
        "others take effect with the next frame."
    )
    return textwrap.fill(text, 125, break_long_words=False, break_on_hyphens=False) + "\n"


# --- the launch file, topics, rejections, figures, runtimes ---


def launch_arguments() -> str:
    """Arguments of the launch file, which can only be imported where the launch system is installed."""
    tree = ast.parse(_text(ROOT / "launch" / "saliency.launch.py"))
    assignments = (each for each in tree.body if isinstance(each, ast.Assign))
    (table,) = (each.value for each in assignments if ast.unparse(each.targets[0]) == "ARGUMENTS")
    assert isinstance(table, ast.Dict)
    rows = []
    for name, row in zip(table.keys, table.values, strict=True):
        assert isinstance(row, ast.Tuple)
        default, meaning = row.elts
        if isinstance(default, ast.Constant):
            shown = f"`{default.value!s}`" if default.value else ""
        else:
            shown = "the installed `config/saliency.yaml`"
        rows.append((f"`{ast.literal_eval(name) if name else ''}`", shown, str(ast.literal_eval(meaning))))
    return markdown(("launch argument", "default", "meaning"), rows)


def topics(rows: Iterable[Topic]) -> str:
    """Topics with their types and what they mean."""
    cells = [
        (
            f"[`{row.name}`](docs/{row.page})",
            f"`{row.type_name}`" + (f", {_code(row.form)}" if row.form else ""),
            row.meaning,
        )
        for row in rows
    ]
    return markdown(("topic", "type", "meaning"), cells)


def _code(words: str) -> str:
    """Names as code, the words between them as text."""
    return re.sub(r"\b(?!or\b)\w+", r"`\g<0>`", words)


def rejections() -> str:
    """Reasons for which a frame is rejected."""
    return markdown(
        ("reason", "what was rejected"), [(f"`{reason}`", what) for reason, what in FRAME_REJECTIONS.items()]
    )


def figures() -> str:
    """The figures of `sal360 evaluate`, and the modes that have them."""
    live, offline = (figure_names(live=each, protocols=["standard"]) for each in (True, False))
    rows = []
    for name, meaning in MEANINGS.items():
        is_percentile = name not in live | offline
        example = f"p50_{name}" if is_percentile else name
        mode = "both" if example in live & offline else "live" if example in live else "offline"
        rows.append((f"`…_{name}`" if is_percentile else f"`{name}`", mode, meaning))
    each = ", ".join(f"`{name}`" for name in METRICS)
    rows.append(("`standard_…`, `paper_…`", "both", f"means over the frames with ground truth, by protocol: {each}"))
    return markdown(("figure", "mode", "meaning"), rows)


def metrics() -> str:
    """The metrics of the standard protocol."""
    rows = [
        (each.label, each.against, each.value_range, each.chance, "higher" if each.larger_is_better else "lower")
        for each in METRICS.values()
    ]
    return markdown(("metric", "against", "values", "chance", "better is"), rows)


def backends() -> str:
    """Runtimes, in the order in which `auto` takes them."""
    rows = [
        (
            f"`{row.name}`",
            ", ".join(f"`{suffix}`" for suffix in row.suffixes),
            ", ".join(f"`{precision}`" for precision in row.precisions),
            "<br>".join(
                f"{device}: " + (f"`pip install {packages}`" if packages else "no pip package")
                for device, packages in row.install.items()
            ),
        )
        for row in BACKENDS
    ]
    return markdown(("backend", "model files", "precisions", "install"), rows)


def camera_presets() -> str:
    """Cameras with a preset."""
    rows = [
        (f"`{name}`", row.camera, f"{row.aspect[0]}:{row.aspect[1]}", f"{row.fov_deg:g}°", row.source)
        for name, row in PRESETS.items()
    ]
    return markdown(("preset", "camera", "frames", "field of view", "where the numbers come from"), rows)


def lens_keys() -> str:
    """Keys of a lens in a calibration file."""
    return markdown(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in LENS_KEYS.items()])


def encoders() -> str:
    """Encoders that can be trained."""
    from training.models.encoders import ENCODERS  # torch, which the other tables do not need

    rows = [
        (f"`{name}`", kind.summary, {"package": "with the package", "file": "from a file"}.get(kind.imagenet, "none"))
        for name, kind in ENCODERS.items()
    ]
    return markdown(("encoder", "network", "ImageNet weights"), rows)


def gaze_datasets() -> str:
    """Data sets of human gaze."""
    from training.data.gaze.datasets import DATASETS  # torch, which the other tables do not need

    rows = [
        (
            f"`{name}`",
            row.content,
            row.split,
            f"{row.source}; licence: {row.licence}",
            f"`python -m training.data.check {name} ROOT`",
        )
        for name, row in DATASETS.items()
    ]
    return markdown(("`--data.dataset`", "what it holds", "split", "source", "check a copy"), rows)


def gaze_in_weights(recipe: Weights) -> str:
    """The data sets of gaze of a recipe of `training.make_weights`, with what is known of their licences."""
    from training.data.gaze.datasets import DATASETS  # torch, which the other tables do not need
    from training.make_weights import sets_of

    rows = [
        (DATASETS[name].title, DATASETS[name].content, DATASETS[name].source, DATASETS[name].licence)
        for name in sets_of(recipe)
    ]
    return markdown(("gaze", "what it holds", "source", "licence"), rows)


# --- access control ---

_NODE_TOPICS = ("/rosout", "/parameter_events")  # of every node
_PARAMETER_SERVICES = (
    "describe_parameters",
    "get_parameters",
    "get_parameter_types",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)
_LIFECYCLE_SERVICES = (
    "change_state",
    "get_state",
    "get_available_states",
    "get_available_transitions",
    "get_transition_graph",
)


def sros2_policy() -> str:
    """`config/sros2_policy.xml`: what the nodes may publish, subscribe to, serve and request."""
    frames = [topic.name for topic in INPUTS if topic.name.startswith("image")]
    saliency_node = _enclave(
        "saliency_node",
        publish=[*(topic.name for topic in (*OUTPUTS, DIAGNOSTICS)), *_NODE_TOPICS, "~/transition_event"],
        subscribe=[*(topic.name for topic in INPUTS), "/clock"],
        services=[*_LIFECYCLE_SERVICES, *_PARAMETER_SERVICES],
        requests=["~/change_state"],  # its own, with --autostart
    )
    camera = _enclave(
        "panorama_camera", publish=[*frames, *_NODE_TOPICS], subscribe=["/clock"], services=_PARAMETER_SERVICES
    )
    viewer = _enclave(
        "saliency_viewer",
        publish=[*(topic.name for topic in VIEWER_OUTPUTS), *_NODE_TOPICS],
        subscribe=[*frames, OUTPUTS[0].name, "/clock"],
        services=_PARAMETER_SERVICES,
        requests=["saliency_node/get_parameters"],  # how the maps and grids are made
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- Access control for SROS2, written by `python -m docs.tables`; see docs/security.md. If topics are remapped or the
     nodes run in a namespace, change the names and ns in a copy. -->
<policy version="0.2.0">
  <enclaves>
{saliency_node}{camera}{viewer}  </enclaves>
</policy>
"""


def _enclave(
    node: str, publish: Iterable[str], subscribe: Iterable[str], services: Iterable[str], requests: Iterable[str] = ()
) -> str:
    def names(element: str, values: Iterable[str]) -> str:
        return "".join(f"            <{element}>{value}</{element}>\n" for value in values)

    asked = names("service", requests)
    asked = f'          <services request="ALLOW">\n{asked}          </services>\n' if asked else ""
    return f"""    <enclave path="/{node}">
      <profiles>
        <profile ns="/" node="{node}">
          <topics publish="ALLOW">
{names("topic", publish)}          </topics>
          <topics subscribe="ALLOW">
{names("topic", subscribe)}          </topics>
          <services reply="ALLOW">
{names("service", (f"~/{service}" for service in services))}          </services>
{asked}        </profile>
      </profiles>
    </enclave>
"""


TABLES: dict[str, Callable[[], str]] = {
    "main parameters": lambda: parameters(SaliencyParameters(), names=README_PARAMETERS),
    "parameters": lambda: parameters(SaliencyParameters()),
    "shared memory": lambda: parameters(SaliencyParameters(), names=("shm", "shm_readers")),
    "camera parameters": lambda: parameters(CameraParameters()),
    "viewer parameters": lambda: parameters(
        ViewerParameters(),
        [name for name, _, _ in flatten(ViewerParameters()) if not name.startswith(("camera.", "saliency."))],
    ),
    "launch arguments": launch_arguments,
    "topics": lambda: topics([*OUTPUTS, DIAGNOSTICS]),
    "viewer topics": lambda: topics(VIEWER_OUTPUTS),
    "inputs": lambda: topics(INPUTS),
    "rejections": rejections,
    "figures": figures,
    "fixed parameters": fixed_parameters,
    "metrics": metrics,
    "backends": backends,
    "camera presets": camera_presets,
    "camera settings": lambda: parameters(CameraSettings()),
    "lens keys": lens_keys,
    "encoders": encoders,
    "gaze data sets": gaze_datasets,
    "gaze of the recipe permissive": partial(gaze_in_weights, "permissive"),
    "gaze of the recipe all": partial(gaze_in_weights, "all"),
    **{group: partial(parameters, SaliencyParameters(), group=f"{group}.") for group in _groups(SaliencyParameters())},
}
"""The tables of the pages, by the name in their marker."""

FILES: dict[str, Callable[[], str]] = {
    "config/saliency.yaml": lambda: parameters_yaml(SaliencyParameters()),
    "config/sros2_policy.xml": sros2_policy,
}
"""Files that are generated as a whole."""


if __name__ == "__main__":
    sys.exit(main())
