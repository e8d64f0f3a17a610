"""The manifest of a bundle: bundle.json, schema 1."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, Final, Literal, get_args

from flowsr_runtime.errors import BundleError, ScaleError
from flowsr_runtime.geometry import MAX_SIDE, Halo, exact_scale, output_size

__all__ = [
    "SCHEMA",
    "FileEntry",
    "Io",
    "Latent",
    "LatentGraphs",
    "Manifest",
    "Memory",
    "SizeFixedGraph",
    "StageGraphs",
    "Tiling",
]

SCHEMA: Final = 1
"""Newest schema that this runtime reads."""

Io = Literal["float32", "uint8"]
"""Types of a graph's images."""

_MISSING: Final = object()

_LARGEST: Final = 1 << 24
"""Largest number of what is counted in pixels or channels."""

_ANY_BYTES: Final = (1 << 63) - 1
_SHOWN: Final = 60  # characters of a value in a message


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle.

    Attributes:
        sha256: Lower-case hexadecimal digest of the content.
        bytes: Size of the file.
        precision: "fp32", "fp16" or "int8" for a model, None for anything else.
    """

    sha256: str
    bytes: int
    precision: str | None


@dataclass(frozen=True)
class Latent:
    """A noise input of a graph.

    Attributes:
        name: Name of the input.
        channels: Channels D.
        patch: Output pixels along one side of a cell.
    """

    name: str
    channels: int
    patch: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the number of cells for an output.

        Args:
            size: Output size (H, W).

        Returns:
            Rows and columns; the last ones may reach beyond the output.
        """
        return -(-size[0] // self.patch), -(-size[1] // self.patch)


@dataclass(frozen=True)
class SizeFixedGraph:
    """A graph for whole images of one size; it has no input `geometry`.

    Attributes:
        file: Its ONNX file, by path in the bundle.
        precision: As of a file with any sizes.
        scale: Output pixels per LR pixel.
        lr: LR size (h, w).
        batch: Number of images.
    """

    file: str
    precision: str
    scale: Fraction
    lr: tuple[int, int]
    batch: int

    @property
    def size(self) -> tuple[int, int]:
        """Output size (H, W)."""
        return output_size(self.lr[0], self.scale), output_size(self.lr[1], self.scale)


@dataclass(frozen=True)
class StageGraphs:
    """The graph of any scale in two files, for several scales of one image.

    The outputs of the first one are inputs of the second one, by their names. Together they
    compute the same as the graph of their precision.

    Attributes:
        precision: As of that graph.
        features: ONNX file from `input` to what no scale changes, by path in the bundle.
        query: ONNX file from the features and the graph's inputs to `output`.
    """

    precision: str
    features: str
    query: str


@dataclass(frozen=True)
class LatentGraphs:
    """Graphs of latents in float32, beside the graph of any scale.

    Attributes:
        encode: ONNX file from `input`, `target`, which is the high-resolution image, and at any
            scale `geometry`, to the latents and `log_likelihood`.
        sample: ONNX file from `input`, `geometry`, the latents and `prior_weight` to `output`;
            None in a bundle without a learned prior, whose own graph takes the latents.
        latents: The latents in the order of their streams.
    """

    encode: str
    sample: str | None
    latents: tuple[Latent, ...]


@dataclass(frozen=True)
class Tiling:
    """Rules for the tiles of an image.

    Attributes:
        halo: Halo that keeps seams below one 8-bit step.
        exact: Halo that holds the whole receptive field.
        whole_only: Whether the graph only computes whole images.
        seam_steps: Measured seam of `halo` in 8-bit steps, None if not measured.
    """

    halo: Halo
    exact: Halo
    whole_only: bool
    seam_steps: float | None


@dataclass(frozen=True)
class Memory:
    """Peak activation memory of one run.

    Attributes:
        base_bytes: Bytes for any size.
        bytes_per_pixel: Bytes per LR pixel of the tile.
        bytes_per_patch: Bytes per output patch of the window.
        budget_bytes: Default memory budget of one run, large enough for tiles that are not
            mostly halo. None for the runtime's own default.
    """

    base_bytes: float
    bytes_per_pixel: float
    bytes_per_patch: float
    budget_bytes: int | None = None

    def estimate(self, pixels: int, patches: int) -> int:
        """Return the peak activation memory of one run.

        Args:
            pixels: LR pixels of the tile.
            patches: Output patches of the window.

        Returns:
            Bytes.
        """
        growth = pixels * self.bytes_per_pixel + patches * self.bytes_per_patch
        # More than 2^63 bytes are more than any machine has, and infinity is no whole number.
        return math.ceil(min(self.base_bytes + growth, float(_ANY_BYTES)))


@dataclass(frozen=True, repr=False)
class Manifest:
    """The content of bundle.json.

    Attributes:
        family: Model family, "linf-lp" or "srflow-lp".
        scale: The only scale of the graph, None for any.
        multiple: LR pixels that the sides of the graph's images are multiples of.
        io: Type of the graph's images: "float32" in units of full range, or "uint8", clamped
            and rounded in the graph.
        geometry: Whether the graph has the input `geometry`.
        guard: Whether the graph shrinks patches whose values leave [-0.1, 1.1].
        latents: Noise inputs in the order of their streams; none with a learned prior.
        tiling: Rules for tiles.
        memory: Peak activation memory.
        files: Files by relative path with forward slashes.
        graphs: Size-fixed graphs, if any, beside those of any size.
        stages: Graphs of any size in two stages, if any, beside them.
        latent_graphs: Graphs of latents beside them, None without any.
        raw: The whole manifest, unknown keys included.
    """

    family: str
    scale: Fraction | None
    multiple: int
    io: Io
    geometry: bool
    guard: bool
    latents: tuple[Latent, ...]
    tiling: Tiling
    memory: Memory
    files: Mapping[str, FileEntry]
    graphs: tuple[SizeFixedGraph, ...]
    stages: tuple[StageGraphs, ...]
    latent_graphs: LatentGraphs | None
    raw: Mapping[str, Any]

    def __repr__(self) -> str:
        scale = "any scale" if self.scale is None else f"scale {float(self.scale):g}"
        return f"<Manifest {self.family}, {scale}, {len(self.files)} files>"

    @classmethod
    def parse(cls, raw: object) -> "Manifest":
        """Check a decoded bundle.json.

        Args:
            raw: Result of `json.loads`.

        Returns:
            The manifest.

        Raises:
            BundleError: If the schema is newer, or a key is missing or wrong.
        """
        if not isinstance(raw, dict):
            raise BundleError("bundle.json must hold an object")
        schema = _whole(raw, "schema", least=1, most=_ANY_BYTES)
        if schema > SCHEMA:
            raise BundleError(
                f"bundle schema {schema} is newer than this runtime reads ({SCHEMA}); "
                "upgrade flowsr-lp"
            )
        manifest = cls(
            family=_text(raw, "family"),
            scale=_scale(raw),
            multiple=_whole(raw, "picture.multiple", least=1),
            io=_io(raw),
            geometry=_flag(raw, "graph.geometry"),
            guard="guard" in raw and _flag(raw, "guard"),
            latents=_latents(raw),
            tiling=_tiling(raw),
            memory=Memory(
                base_bytes=_real(raw, "memory.base_bytes"),
                bytes_per_pixel=_real(raw, "memory.bytes_per_pixel"),
                bytes_per_patch=_real(raw, "memory.bytes_per_patch"),
                budget_bytes=_budget(raw),
            ),
            files=_files(raw),
            graphs=_graphs(raw),
            stages=_stages(raw),
            latent_graphs=_latent_graphs(raw),
            raw=raw,
        )
        _check_agreement(manifest)
        return manifest

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the graph's inputs."""
        names = {"input", *(latent.name for latent in self.latents)}
        return frozenset(names | {"geometry"} if self.geometry else names)


def _check_agreement(manifest: Manifest) -> None:
    """Refuse keys that are valid by themselves but contradict each other."""
    halo, scale = manifest.tiling.halo, manifest.scale
    if scale is None and (halo.ratio is not None or manifest.multiple > 1):
        raise BundleError(
            "tiling.ratio and picture.multiple in bundle.json need a fixed scale, got any"
        )
    if halo.ratio not in (None, scale):
        raise _wrong("tiling.ratio", f"the scale {scale}", halo.ratio)
    if halo.ratio is None and not manifest.geometry and not manifest.tiling.whole_only:
        rule = "true for a graph that has neither geometry nor a ratio"
        raise _wrong("tiling.whole_only", rule, "false")
    if scale is None and not manifest.geometry:
        raise _wrong("graph.geometry", "true for any scale", "false")
    for latent in manifest.latents:
        if halo.align % latent.patch:
            rule = f"a multiple of the patch {latent.patch} of {latent.name}"
            raise _wrong("tiling.align", rule, halo.align)
    step = (halo.ratio or 1) * manifest.multiple
    if halo.align % step:
        rule = f"a multiple of {step}, the ratio times the picture's multiple"
        raise _wrong("tiling.align", rule, halo.align)
    _check_graphs(manifest)
    _check_stages(manifest)
    _check_latent_graphs(manifest)


def _check_graphs(manifest: Manifest) -> None:
    """Refuse size-fixed graphs that contradict the rest of the manifest or each other."""
    for i, graph in enumerate(manifest.graphs):
        _check_file(manifest, f"graphs.{i}.file", graph.file)
        if manifest.scale not in (None, graph.scale):
            raise _wrong(f"graphs.{i}.scale", f"the scale {manifest.scale}", graph.scale)
        if any(side % manifest.multiple for side in graph.lr):
            rule = f"multiples of {manifest.multiple}"
            raise _wrong(f"graphs.{i}.lr_size", rule, list(graph.lr))
        if max(graph.size) > MAX_SIDE:
            raise _wrong(f"graphs.{i}", f"an output of at most {MAX_SIDE} pixels a side", graph)
    alike = {(one.precision, one.scale, one.lr, one.batch) for one in manifest.graphs}
    if len(alike) < len(manifest.graphs):
        rule = "of different precision, scale, size or batch"
        raise _wrong("graphs", rule, [one.file for one in manifest.graphs])


def _check_stages(manifest: Manifest) -> None:
    """Refuse stage graphs that contradict the rest of the manifest or each other."""
    for i, pair in enumerate(manifest.stages):
        _check_file(manifest, f"stages.{i}.features", pair.features)
        _check_file(manifest, f"stages.{i}.query", pair.query)
    if manifest.stages and (not manifest.geometry or manifest.io != "float32"):
        rule = "absent without geometry or with uint8 images"
        raise _wrong("stages", rule, [pair.query for pair in manifest.stages])
    precisions = [pair.precision for pair in manifest.stages]
    if len(set(precisions)) < len(precisions):
        raise _wrong("stages", "of different precision", precisions)


def _check_latent_graphs(manifest: Manifest) -> None:
    """Refuse graphs of latents that contradict the rest of the manifest."""
    graphs = manifest.latent_graphs
    if graphs is None:
        return
    _check_file(manifest, "latent_graphs.encode", graphs.encode)
    if graphs.sample is not None:
        _check_file(manifest, "latent_graphs.sample", graphs.sample)
    if manifest.tiling.whole_only or manifest.io != "float32":
        rule = "absent from a graph of whole images or with uint8 images"
        raise _wrong("latent_graphs", rule, repr(graphs.encode))
    if (graphs.sample is None) != bool(manifest.latents):
        rule = "a file in a bundle with a learned prior, and null in any other"
        raise _wrong("latent_graphs.sample", rule, repr(graphs.sample))
    for latent in graphs.latents:
        if manifest.tiling.halo.align % latent.patch:
            rule = f"a divisor of the alignment {manifest.tiling.halo.align}"
            raise _wrong("latent_graphs.patch", rule, latent.patch)
    if manifest.latents and manifest.latents != graphs.latents:
        raise _wrong("latent_graphs", "of the latents of the graph", graphs.latents)


def _check_file(manifest: Manifest, key: str, name: str) -> None:
    """Refuse a file that is not listed, or is taken for the graph of any size."""
    entry = manifest.files.get(name)
    if entry is None or entry.precision is not None or not name.endswith(".onnx"):
        rule = "an ONNX file of files, which has no precision there"
        raise _wrong(key, rule, repr(name))


def _get(raw: Mapping[str, Any], key: str) -> Any:
    value: Any = raw
    for part in key.split("."):
        if isinstance(value, list) and part.isdigit():
            value = dict(enumerate(value)).get(int(part), _MISSING)
        else:
            value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING:
            raise BundleError(f"bundle.json lacks {key}")
    return value


def _checked(raw: Mapping[str, Any], key: str, rule: str, holds: Callable[[Any], bool]) -> Any:
    value = _get(raw, key)
    if not holds(value):
        raise _wrong(key, rule, _shown(value))
    return value


def _wrong(key: str, rule: str, value: object) -> BundleError:
    return BundleError(f"{key} in bundle.json must be {rule}, got {value}")


def _shown(value: object) -> str:
    """Return a value as a message shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _whole(raw: Mapping[str, Any], key: str, *, least: int, most: int = _LARGEST) -> int:
    rule = f"a whole number of at least {least}"
    value = _checked(raw, key, rule, lambda value: type(value) is int and value >= least)
    if value > most:
        raise _wrong(key, f"at most {most}", _shown(value))
    return int(value)


def _real(raw: Mapping[str, Any], key: str) -> float:
    def holds(value: Any) -> bool:
        if type(value) is int:  # one of 400 digits is no float
            return 0 <= value <= _ANY_BYTES
        return type(value) is float and math.isfinite(value) and value >= 0

    return float(_checked(raw, key, "a number of at least 0", holds))


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    return bool(_checked(raw, key, "true or false", lambda value: isinstance(value, bool)))


def _text(raw: Mapping[str, Any], key: str) -> str:
    return str(_checked(raw, key, "a string", lambda value: isinstance(value, str)))


def _scale(raw: Mapping[str, Any]) -> Fraction | None:
    kinds = ("any", "fixed")
    if _checked(raw, "scale.kind", "any or fixed", lambda value: value in kinds) == "any":
        return None
    return _exact(raw, "scale.value")


def _exact(raw: Mapping[str, Any], key: str) -> Fraction:
    try:
        return exact_scale(_text(raw, key))
    except ScaleError as error:
        raise BundleError(f"{key} in bundle.json: {error}") from error


def _io(raw: Mapping[str, Any]) -> Io:
    io = _get(raw, "picture").get("io", "float32")
    if io not in get_args(Io):
        raise BundleError(f"picture.io in bundle.json must be float32 or uint8, got {io!r}")
    return "uint8" if io == "uint8" else "float32"


def _budget(raw: Mapping[str, Any]) -> int | None:
    stated = "budget_bytes" in _get(raw, "memory")
    return _whole(raw, "memory.budget_bytes", least=1, most=_ANY_BYTES) if stated else None


def _latents(raw: Mapping[str, Any], key: str = "latents") -> tuple[Latent, ...]:
    listed = _checked(raw, key, "a list", lambda value: isinstance(value, list))
    latents = tuple(
        Latent(
            name=_text(raw, f"{key}.{i}.name"),
            channels=_whole(raw, f"{key}.{i}.channels", least=1),
            patch=_whole(raw, f"{key}.{i}.patch", least=1),
        )
        for i in range(len(listed))
    )
    names = ["input", "geometry", *(latent.name for latent in latents)]
    if len(set(names)) < len(names):
        raise BundleError(
            f"{key} in bundle.json must have names of their own, got {', '.join(names[2:])}"
        )
    return latents


def _tiling(raw: Mapping[str, Any]) -> Tiling:
    patch = _whole(raw, "tiling.patch", least=1)
    align = _whole(raw, "tiling.align", least=1)
    if align % patch:
        raise _wrong("tiling.align", f"a multiple of the patch {patch}", align)
    ratio = None
    if _get(raw, "tiling.ratio") is not None:
        ratio = _whole(raw, "tiling.ratio", least=1)

    def halo(kind: str) -> Halo:
        patches = _whole(raw, f"tiling.{kind}_patches", least=0)
        if ratio is not None and patches:
            raise _wrong(f"tiling.{kind}_patches", "0 with a ratio", patches)
        return Halo(
            patch=patch,
            align=align,
            lr_align=_whole(raw, "tiling.lr_align", least=1),
            patches=patches,
            pixels=_whole(raw, f"tiling.{kind}_pixels", least=0),
            ratio=ratio,
        )

    seam = _get(raw, "tiling.seam_steps")
    return Tiling(
        halo=halo("halo"),
        exact=halo("exact"),
        whole_only=_flag(raw, "tiling.whole_only"),
        seam_steps=None if seam is None else _real(raw, "tiling.seam_steps"),
    )


def _files(raw: Mapping[str, Any]) -> dict[str, FileEntry]:
    files = _get(raw, "files")
    if not isinstance(files, dict):
        raise BundleError("files in bundle.json must be an object")
    return {name: _entry(name, entry) for name, entry in files.items()}


def _graphs(raw: Mapping[str, Any]) -> tuple[SizeFixedGraph, ...]:
    if "graphs" not in raw:
        return ()
    listed = _checked(raw, "graphs", "a list", lambda value: isinstance(value, list))
    return tuple(
        SizeFixedGraph(
            file=_text(raw, f"graphs.{i}.file"),
            precision=_text(raw, f"graphs.{i}.precision"),
            scale=_exact(raw, f"graphs.{i}.scale"),
            lr=_size(raw, f"graphs.{i}.lr_size"),
            batch=_whole(raw, f"graphs.{i}.batch", least=1),
        )
        for i in range(len(listed))
    )


def _stages(raw: Mapping[str, Any]) -> tuple[StageGraphs, ...]:
    if "stages" not in raw:
        return ()
    listed = _checked(raw, "stages", "a list", lambda value: isinstance(value, list))
    names = ("precision", "features", "query")
    return tuple(
        StageGraphs(*(_text(raw, f"stages.{i}.{name}") for name in names))
        for i in range(len(listed))
    )


def _latent_graphs(raw: Mapping[str, Any]) -> LatentGraphs | None:
    if "latent_graphs" not in raw:
        return None
    key = "latent_graphs"
    sample = _get(raw, f"{key}.sample")
    return LatentGraphs(
        encode=_text(raw, f"{key}.encode"),
        sample=None if sample is None else _text(raw, f"{key}.sample"),
        latents=_coded_latents(raw, key),
    )


def _coded_latents(raw: Mapping[str, Any], key: str) -> tuple[Latent, ...]:
    """Read `latents`, or `channels` and `patch` of the one that is named `latent`."""
    if "latents" in raw[key]:
        latents = _latents(raw, f"{key}.latents")
        if not latents:
            raise _wrong(f"{key}.latents", "at least one", [])
        return latents
    channels, patch = (_whole(raw, f"{key}.{name}", least=1) for name in ("channels", "patch"))
    return (Latent("latent", channels, patch),)


def _size(raw: Mapping[str, Any], key: str) -> tuple[int, int]:
    def holds(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2

    _checked(raw, key, "a list of height and width", holds)
    height, width = (_whole(raw, f"{key}.{i}", least=1) for i in (0, 1))
    if max(height, width) > MAX_SIDE:
        raise _wrong(key, f"at most {MAX_SIDE} pixels a side", [height, width])
    return height, width


def _entry(name: str, entry: object) -> FileEntry:
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or str(path) != name
    ):
        raise BundleError(f"file name in bundle.json must lie inside the bundle, got {name!r}")
    if name in (".", "bundle.json"):
        raise BundleError(f"file name in bundle.json must not be {name!r}")
    if not isinstance(entry, dict):
        raise BundleError(f"file {name} in bundle.json must be an object, got {entry!r}")
    digest, precision = entry.get("sha256"), entry.get("precision")
    if not isinstance(digest, str) or len(digest) != 64:
        raise _wrong(f"sha256 of {name}", "64 digits", repr(digest))
    if precision is not None and not isinstance(precision, str):
        raise BundleError(f"precision of {name} must be a string, got {precision!r}")
    size = entry.get("bytes")
    if type(size) is not int or not 0 <= size <= _ANY_BYTES:
        raise _wrong(f"bytes of {name}", "a whole number", repr(size))
    return FileEntry(digest.lower(), size, precision)
