"""Analyse trained models: the tables and figures of the paper's supplementary, and scores on photographs.

    python -m training.analyse equator      Table 3: distance of predictions to the equator prior
    python -m training.analyse correlation  Table 2: correlation between the channels of the latents
    python -m training.analyse change       Figure 4: distance of two checkpoints, layer by layer
    python -m training.analyse embedding    Figure 5: t-SNE of the embeddings of several encoders
    python -m training.analyse views        Figure 7: the views, and the share of each that lay near the poles
    python -m training.analyse photographs  NSS, CC and KLD on the photographs of one data set, placed on panoramas
    python -m training.analyse sets         Model card: all metrics on plain photographs of several data sets
    python -m training.analyse bias         Where people look in headsets regardless of the picture, beside the priors

Each subcommand writes a figure (PNG) and its numbers (CSV) to --output; `python -m training.analyse NAME --help` lists
its options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from sal360.errors import ParameterError, one_line_errors, require_modules
from sal360.files import check_folder_is_writable
from training.analysis.change import ChangeConfig, analyse_change
from training.analysis.correlation import CorrelationConfig, analyse_correlation
from training.analysis.embedding import EmbeddingConfig, analyse_embedding
from training.analysis.equator import EquatorConfig, analyse_equator
from training.analysis.photograph_scores import PhotographScoresConfig, analyse_photographs
from training.analysis.set_scores import SetScoresConfig, analyse_sets
from training.analysis.view_coverage import ViewCoverageConfig, analyse_views
from training.analysis.viewing_bias import ViewingBiasConfig, analyse_bias
from training.config import read_config

ANALYSES: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "equator": (EquatorConfig, analyse_equator),
    "correlation": (CorrelationConfig, analyse_correlation),
    "change": (ChangeConfig, analyse_change),
    "embedding": (EmbeddingConfig, analyse_embedding),
    "views": (ViewCoverageConfig, analyse_views),
    "photographs": (PhotographScoresConfig, analyse_photographs),
    "sets": (SetScoresConfig, analyse_sets),
    "bias": (ViewingBiasConfig, analyse_bias),
}
"""Subcommand → its settings, and the function that runs it."""


def main() -> None:
    """The command `python -m training.analyse`."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in ANALYSES:
        raise ParameterError(f"there is no analysis {name!r}", f"choose one of {', '.join(ANALYSES)}")
    kind, analyse = ANALYSES[name]
    config = read_config(kind, kind.__doc__ or "", options, subcommand=name)
    check_folder_is_writable(config.output)
    require_modules("matplotlib")  # which draws the figure at the end
    analyse(config)


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
