"""The bundle that gets an engine: there already, copied, or made of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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

QUANTISED = ("int8", "fp8")
LICENCE = "see the checkpoint's source"
OWN_LICENCE = "Apache-2.0"  # of the built-in weights


@dataclass(frozen=True)
class TargetBundle:
    """Where the graph of an engine comes from, and which bundle gets it.

    Attributes:
        bundle: A bundle; None with a checkpoint, or for the built-in one.
        output: The bundle that gets the engine; None for `bundle` itself.
        model: Checkpoint: of the bundle, or without one what a bundle is made of.
        prior: Its latent module.
        blocks: Stacked blocks of an SRFlow network that its file does not tell.
        fixed_scale: The one scale of a graph whose only input is the picture.
        io: Type of the pictures of a graph that is exported now; None for the bundle's.
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
        """Refuse, before slow work, what does not go together or cannot be written.

        Raises:
            UsageError: If options exclude each other, or a place for the engine is missing.
            OutputError: If the output cannot be written.
        """
        if self.prior is not None and self.model is None:
            raise UsageError("--prior needs --model")
        if self.bundle is not None and not (self.fixed_scale is None and self.io is None):
            raise UsageError(
                "--fixed-scale and --io are for a graph that is exported now; the bundle has "
                "its own"
            )
        if self.output is None:
            if self.bundle is None:
                raise UsageError(
                    "give the bundle that gets the engine with -o: without BUNDLE there is none"
                )
        elif self._kept() is None:
            check_replaceable(self.output, self.force)

    def manifest(self, precision: Precision) -> Manifest:
        """Return the manifest of the bundle as it is or would be; nothing is made.

        Args:
            precision: Of the engine.
        """
        there = self.opened()
        return self._draft(precision) if there is None else there.manifest

    def opened(self) -> Bundle | None:
        """Return the bundle that the engine's graph is in now, None if it is to be made."""
        return self._kept() or (None if self._is_made else self._opened())

    def is_ready(self, precision: Precision) -> bool:
        """Return whether the bundle is there with a graph of a precision."""
        bundle = self.opened()
        return bundle is not None and has_graph(bundle, precision)

    def prepare(
        self, precision: Precision, report: Callable[[str], None] = lambda step: None
    ) -> Bundle:
        """Return the bundle that gets the engine, with a graph of a precision.

        Args:
            precision: Of the engine; its graph is exported if it is not there.
            report: Called with each step of an export when it begins.

        Raises:
            UsageError: If a checkpoint is needed and is not the bundle's.
            LintError: If an exported graph breaks a rule.
            ParityError: If it differs from PyTorch.
            OutputError: If the bundle cannot be written.
        """
        bundle = self._kept()
        if bundle is None:
            bundle = self._made(precision, report) if self._is_made else self._copied()
        if has_graph(bundle, precision):
            return bundle
        if precision in QUANTISED:
            raise BundleError(
                f"{bundle.path} holds no {precision} model; make one of pictures with "
                f"flowsr-export calibrate --precision {precision}"
            )
        from flowsr_export.export_onnx.bundle import add_precision
        from flowsr_export.parity.reference import reference_of

        checkpoint = reference_of(bundle, self.model, self.prior)
        return add_precision(bundle, checkpoint, precision, report)

    @property
    def _is_made(self) -> bool:
        """Whether a bundle is made of checkpoints, given or built in."""
        return self.bundle is None and (self.model is not None or self.fixed_scale is not None)

    def _opened(self) -> Bundle:
        return Bundle.open(embedded_bundle() if self.bundle is None else self.bundle)

    def _kept(self) -> Bundle | None:
        """The output if it is a bundle of the same network and kind of graph."""
        if self.output is None:
            return self._opened()
        if self.force or not (self.output / "bundle.json").is_file():
            return None
        there = Bundle.open(self.output)
        wanted = self._draft("fp32") if self._is_made else self._opened().manifest
        if _identity(there.manifest) != _identity(wanted):
            raise OutputError(
                f"bundle {self.output} holds another model; replace it with --force, or name "
                "another place with -o"
            )
        return there

    def _copied(self) -> Bundle:
        source = self._opened()
        assert self.output is not None
        files = {name: source.read(name) for name in source.manifest.files}
        return write_bundle(self.output, source.manifest.raw, files, force=self.force)

    def _made(self, precision: Precision, report: Callable[[str], None]) -> Bundle:
        from flowsr_export.export_onnx.bundle import build_bundle

        assert self.output is not None
        checkpoint, request = self._checkpoint, self._request(precision)
        bundle, _ = build_bundle(checkpoint, self.output, request, self.force, report)
        return bundle

    def _draft(self, precision: Precision) -> Manifest:
        from flowsr_export.export_onnx.manifest import draft_manifest

        return draft_manifest(self._checkpoint, self._request(precision))

    def _request(self, precision: Precision) -> Request:
        from flowsr_export.export_onnx.manifest import Request

        licence = OWN_LICENCE if self.model is None else LICENCE
        return Request(precision, self.fixed_scale, licence=licence, io=self.io or "float32")

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        from flowsr_lp import embedded_checkpoint, load_checkpoint

        if self.model is None:
            return load_checkpoint(*embedded_checkpoint())
        return load_checkpoint(self.model, self.prior, self.blocks)


def _identity(manifest: Manifest) -> tuple[object, ...]:
    """What two bundles share whose engines can lie in one store."""
    model = manifest.raw.get("model")
    named = model if isinstance(model, dict) else {}
    digests = (named.get("model_sha256"), named.get("prior_sha256"))
    return (*digests, manifest.scale, manifest.geometry, manifest.io)
