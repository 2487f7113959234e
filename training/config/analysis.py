"""Settings of the analyses of trained models."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.config.panoramas import PanoramaConfig
from training.config.ranges import require, require_at_least, require_between
from training.config.saliency import PriorConfig
from training.config.views import ViewConfig


@dataclass(frozen=True)
class CorrelationConfig:
    """Inter-map correlation of the latents (supplementary, Table 2)."""

    checkpoints: tuple[str, ...]
    """Contrastive checkpoints, one an encoder: run or checkpoint folders, or .safetensors files."""
    data: PanoramaConfig
    """Panoramas whose latents are measured; they are read at least as large as the encoders take them."""
    output: str
    """Folder for correlation.csv and correlation.png."""

    def __post_init__(self) -> None:
        require("checkpoints", "empty", len(self.checkpoints) > 0, "at least one checkpoint")


@dataclass(frozen=True)
class ChangeConfig:
    """Distance of two checkpoints of a run, layer by layer (supplementary, Figure 4)."""

    before: tuple[str, ...]
    """Earlier checkpoints, one an encoder."""
    after: tuple[str, ...]
    """Later checkpoints of the same encoders, in the same order."""
    output: str
    """Folder for change.csv and change.png."""

    def __post_init__(self) -> None:
        require("before", "empty", len(self.before) > 0, "at least one checkpoint")
        equal = len(self.before) == len(self.after)
        require("after", f"{len(self.after)} checkpoints", equal, f"as many as before, {len(self.before)}")


@dataclass(frozen=True)
class EmbeddingConfig:
    """Pictures of the embeddings by t-SNE (supplementary, Figure 5)."""

    checkpoints: tuple[str, ...]
    """Contrastive checkpoints, one an encoder: run or checkpoint folders, or .safetensors files."""
    data: PanoramaConfig
    """Panoramas that are embedded; they are read at least as large as the encoders take them."""
    output: str
    """Folder for embedding.csv and embedding.png."""
    turned_views: int = 4
    """Turned views of each panorama that are embedded beside the plain one."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How they are drawn, at each encoder's own height."""
    perplexity: float = 0.0
    """Of t-SNE, about how many neighbours count; 0: a third of the points, at most 30."""
    seed: int = 0
    """Of the views and of t-SNE."""

    def __post_init__(self) -> None:
        require("checkpoints", "empty", len(self.checkpoints) > 0, "at least one checkpoint")
        require_at_least("turned_views", self.turned_views, 0)
        require_at_least("perplexity", self.perplexity, 0)
        require_at_least("seed", self.seed, 0)


@dataclass(frozen=True)
class EquatorConfig:
    """Distance of predictions to the equator prior (supplementary, Table 3)."""

    models: tuple[str, ...]
    """Model files (.onnx and engines) or saliency checkpoints; the name `bundled` is the bundled model."""
    data: PanoramaConfig
    """Panoramas that are predicted; they are read at least as large as the models take them."""
    output: str
    """Folder for equator.csv and equator.png."""
    prior_strength: float = 1.0
    """Power of the models' own equator prior in their predictions; 0 asks what they say without it."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The equator prior that predictions are compared with."""

    def __post_init__(self) -> None:
        require("models", "empty", len(self.models) > 0, "at least one model")
        require_between("prior_strength", self.prior_strength, 0, 4)


@dataclass(frozen=True)
class ViewCoverageConfig:
    """The views and what of the sphere they show (supplementary, Figure 7)."""

    data: PanoramaConfig
    """Panoramas; the first `panoramas` of them are drawn."""
    output: str
    """Folder for views.csv and views.png."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How the turned views are drawn."""
    panoramas: int = 4
    """Rows of the figure."""
    seed: int = 0
    """Of the views."""

    def __post_init__(self) -> None:
        require_at_least("panoramas", self.panoramas, 1)
        require_at_least("seed", self.seed, 0)
