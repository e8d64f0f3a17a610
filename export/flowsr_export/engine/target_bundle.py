"""Bundle that receives an engine: an existing one, a copy, or one made from checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.engine.build import has_graph
from flowsr_runtime import Bundle, embedded_bundle, write_bundle
from flowsr_runtime.bundle.directory import check_replaceable
from flowsr_runtime.bundle.manifest import Io, Manifest
from flowsr_runtime.errors import BundleError, OutputError, UsageError

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Precision
    from flowsr_export.export_onnx.manifest import Request
    from flowsr_lp import Checkpoint

__all__ = ["TargetBundle"]

QUANTIZED = ("int8", "fp8")
OWN_LICENSE = "Apache-2.0"  # the built-in weights


@dataclass(frozen=True)
class TargetBundle:
    """Source of an engine's graph, and the bundle that receives the engine.

    Attributes:
        bundle: Existing bundle; None with a checkpoint, or for the built-in one.
        output: Bundle that receives the engine; None for `bundle` itself.
        model: Checkpoint of the bundle, or without a bundle the checkpoint to make it from.
        prior: Checkpoint of the learned prior.
        blocks: Stacked blocks of an SRFlow checkpoint that does not state them.
        fixed_scale: Scale of a graph whose only input is the image.
        io: Image type of an exported graph; None for the bundle's own.
        force: Replace an output that holds another model.
    """

    bundle: Path | None = None
    output: Path | None = None
    model: Path | None = None
    prior: Path | None = None
    blocks: tuple[int, ...] | None = None
    fixed_scale: Fraction | None = None
    io: Io | None = None
    force: bool = False

    def check(self) -> None:
        """Check the arguments and the output before slow work.

        Raises:
            UsageError: If arguments exclude each other, or the output is missing.
            OutputError: If the output cannot be written.
        """
        if self.prior is not None and self.model is None:
            raise UsageError("prior needs model", option="prior")
        if self.bundle is not None and not (self.fixed_scale is None and self.io is None):
            name = "io" if self.fixed_scale is None else "fixed_scale"
            raise UsageError(f"{name} is for a new graph; the bundle has its own", option=name)
        if self.output is None:
            if self.bundle is None:
                raise UsageError("output must be given without a bundle", option="output")
        elif self._kept is None:
            check_replaceable(self.output, self.force)

    def manifest(self, precision: Precision) -> Manifest:
        """Return the manifest of the bundle, existing or drafted; nothing is written.

        Args:
            precision: Precision of the engine.
        """
        bundle = self.existing
        return self._draft(precision) if bundle is None else bundle.manifest

    @property
    def existing(self) -> Bundle | None:
        """Bundle that holds the engine's graph now, None if it has to be made."""
        return self._kept or (None if self._is_made else self._source)

    def prepare(
        self, precision: Precision, report: Callable[[str], None] = lambda step: None
    ) -> Bundle:
        """Return the bundle that receives the engine, with the graph of a precision.

        Args:
            precision: Precision of the engine; a missing graph is exported.
            report: Called with each step of an export when it begins.

        Raises:
            UsageError: If a needed checkpoint is not the bundle's.
            BundleError: If a graph of eight bits is missing.
            LintError: If an exported graph breaks a rule.
            ParityError: If an exported graph differs from PyTorch.
            OutputError: If the bundle cannot be written.
        """
        bundle = self._kept
        if bundle is None:
            assert self.output is not None
            bundle = self._made(self.output, precision, report)
        if has_graph(bundle, precision):
            return bundle
        if precision in QUANTIZED:
            message = f"{bundle.path} holds no {precision} graph; calibrate the bundle first"
            raise BundleError(message, option="precision")
        from flowsr_export.export_onnx.bundle import add_precision
        from flowsr_export.parity.reference import reference_of

        checkpoint = reference_of(bundle, self.model, self.prior)
        return add_precision(bundle, checkpoint, precision, report)[0]

    def checkpoint(self, bundle: Bundle) -> Checkpoint:
        """Return the checkpoint of a bundle, which a compiler of PyTorch modules needs.

        Args:
            bundle: Result of `prepare`.

        Raises:
            UsageError: If the checkpoint is not the bundle's.
        """
        from flowsr_export.parity.reference import reference_of

        return reference_of(bundle, self.model, self.prior)

    @property
    def _is_made(self) -> bool:
        """Whether the bundle is made from checkpoints, given or built in."""
        return self.bundle is None and (self.model is not None or self.fixed_scale is not None)

    @cached_property
    def _source(self) -> Bundle:
        return Bundle.open(embedded_bundle() if self.bundle is None else self.bundle)

    @cached_property
    def _kept(self) -> Bundle | None:
        """The output bundle if it holds the same network and kind of graph."""
        if self.output is None:
            return self._source
        if self.force or not (self.output / "bundle.json").is_file():
            return None
        output = Bundle.open(self.output)
        expected = self._draft("fp32") if self._is_made else self._source.manifest
        if _identity(output.manifest) != _identity(expected):
            message = f"bundle {self.output} holds another model; force=True replaces it"
            raise OutputError(message, option="force")
        return output

    def _made(
        self, output: Path, precision: Precision, report: Callable[[str], None]
    ) -> Bundle:
        """Copy the source, or make a bundle from the checkpoints."""
        if self._is_made:
            from flowsr_export.export_onnx.bundle import build_bundle

            request = self._request(precision)
            return build_bundle(self._checkpoint, output, request, self.force, report)[0]
        source = self._source
        files = {name: source.read(name) for name in source.manifest.files}
        return write_bundle(output, source.manifest.raw, files, force=self.force)

    def _draft(self, precision: Precision) -> Manifest:
        from flowsr_export.export_onnx.manifest import draft_manifest

        return draft_manifest(self._checkpoint, self._request(precision))

    def _request(self, precision: Precision) -> Request:
        from flowsr_export.export_onnx.manifest import Request

        license_text = FAMILIES[self._checkpoint.family].license
        licence = OWN_LICENSE if self.model is None else license_text
        return Request(precision, self.fixed_scale, licence=licence, io=self.io or "float32")

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        from flowsr_lp import embedded_checkpoint, load_checkpoint

        if self.model is None:
            return load_checkpoint(*embedded_checkpoint())
        return load_checkpoint(self.model, self.prior, self.blocks)


def _identity(manifest: Manifest) -> tuple[object, ...]:
    """Return the fields shared by bundles whose engines can lie in one store."""
    model = manifest.raw.get("model")
    named = model if isinstance(model, dict) else {}
    digests = (named.get("model_sha256"), named.get("prior_sha256"))
    return (*digests, manifest.scale, manifest.geometry, manifest.io)
