"""Reading and writing model files: released checkpoints and our own safetensors."""

__all__ = [
    "Checkpoint",
    "embedded_checkpoint",
    "load_checkpoint",
    "save_weights",
    "system_of",
]

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from flowsr_lp.linf.architecture import model_spec_from_tensors, prior_spec_from_tensors
from flowsr_lp.linf.model import LINF, LinfLP, linf_from_spec
from flowsr_lp.linf.prior import Prior, prior_from_spec
from flowsr_lp.srflow.architecture import (
    is_srflow,
    is_srflow_prior,
    srflow_prior_spec,
    srflow_spec,
    unwrapped,
)
from flowsr_lp.srflow.model import SRFlow, SrflowLP, srflow_from_spec
from flowsr_lp.srflow.prior import SrflowPrior, srflow_prior_from_spec
from flowsr_runtime.errors import CheckpointError, OutputError

Kind = Literal["model", "prior", "trunk"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)
METADATA_KEY = "flowsr_lp"
EMBEDDED = Path(__file__).parent / "weights" / "default"
# Parameters of the released files that inference never reads.
UNUSED_PREFIXES = (
    "encoder.sub_mean.",
    "encoder.add_mean.",
    "encoder.tail.",
    "encoder.upconv",
    "encoder.HRconv.",
    "encoder.conv_last.",
    "RRDB.upconv",
    "RRDB.HRconv.",
    "RRDB.conv_last.",
    "flowUpsamplerNet.f.",
)
UNUSED_SUFFIXES = (".attn.relative_position_index", ".attn_mask")


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode and where it came from.

    Attributes:
        network: The model, with its prior if there is one.
        config: `{"model": spec, "prior": spec or None}`, enough to build it again.
        model_sha256: SHA-256 of the model's file.
        prior_sha256: SHA-256 of the prior's file, None without one.
    """

    network: LinfLP | SrflowLP
    config: dict[str, Any]
    model_sha256: str
    prior_sha256: str | None

    @property
    def family(self) -> str:
        """Name of the system, "linf-lp" or "srflow-lp"."""
        return "linf-lp" if isinstance(self.network, LinfLP) else "srflow-lp"


def load_checkpoint(
    model: str | Path,
    prior: str | Path | None = None,
    blocks: Sequence[int] | None = None,
) -> Checkpoint:
    """Load a flow and, if given, the latent module trained for it.

    Args:
        model: Released LINF or SRFlow file (.pth) or our safetensors.
        prior: Released LP file or our safetensors.
        blocks: Indices from 0 of the trunk's blocks that an SRFlow network reads; needed
            where it is neither one of ours nor of the sizes that were released.

    Returns:
        The network in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: If a file is missing, damaged, holds code, is of another kind, or the
            two do not belong together.
    """
    flow, spec, model_sha256 = _load_model(Path(model), blocks)
    if prior is None:
        config = {"model": spec, "prior": None}
        return Checkpoint(_joined(flow, None), config, model_sha256, None)
    module, prior_spec, prior_sha256 = _load_prior(Path(prior))
    if isinstance(flow, SRFlow) != isinstance(module, SrflowPrior):
        names = ("SRFlow", "LINF") if isinstance(flow, SRFlow) else ("LINF", "SRFlow")
        raise CheckpointError(
            f"prior {prior} is one of {names[1]}-LP, the model {model} is {names[0]}"
        )
    width, expected = _widths(module), _widths(flow)
    if width != expected:
        raise CheckpointError(
            f"prior {prior} is for latents {width} wide, the model {model} has {expected}"
        )
    config = {"model": spec, "prior": prior_spec}
    return Checkpoint(_joined(flow, module), config, model_sha256, prior_sha256)


def system_of(model: Path) -> Literal["linf", "srflow"]:
    """Tell the system of a flow from its file.

    Args:
        model: As for `load_checkpoint`.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    return "srflow" if is_srflow(unwrapped(_read(model, "model").tensors)) else "linf"


def embedded_checkpoint() -> tuple[Path, Path]:
    """Paths of the flow and the prior that ship with the package."""
    return EMBEDDED / "model.safetensors", EMBEDDED / "prior.safetensors"


def save_weights(
    path: Path, kind: Kind, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a safetensors file that `load_checkpoint` reads, under its name only when whole.

    Args:
        path: File to write; an existing one is replaced.
        kind: Whether the file holds a flow, a prior or the trunk that an SRFlow begins with.
        spec: `{"name": ..., "args": {...}}`.
        tensors: The module's state dict.

    Raises:
        OutputError: If it cannot be written.
    """
    metadata = {METADATA_KEY: json.dumps({"kind": kind, "spec": spec}, sort_keys=True)}
    temporary = path.with_name(path.name + ".part")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(contiguous, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _load_model(
    path: Path, blocks: Sequence[int] | None
) -> tuple[LINF | SRFlow, dict[str, Any], str]:
    """Read a flow: the module, its spec and the file's hash."""
    file = _read(path, "model")
    tensors = unwrapped(file.tensors)
    flow: LINF | SRFlow
    if is_srflow(tensors):
        spec = srflow_spec(tensors, file.spec, blocks, path)
        flow = _built(srflow_from_spec, spec, tensors, path)
    else:
        if blocks is not None:
            raise CheckpointError(f"{path} is not an SRFlow model: blocks are not for it")
        spec = model_spec_from_tensors(tensors, file.spec, path)
        if file.spec and file.spec.get("guard"):
            spec = {**spec, "guard": True}
        flow = _built(linf_from_spec, spec, tensors, path)
    _fill(flow, tensors, path)
    return flow, spec, file.sha256


def _load_prior(path: Path) -> tuple[Prior | SrflowPrior, dict[str, Any], str]:
    """Read a latent module: the module, its spec and the file's hash."""
    file = _read(path, "prior")
    tensors = unwrapped(file.tensors)
    prior: Prior | SrflowPrior
    if is_srflow_prior(tensors):
        spec = srflow_prior_spec(tensors, file.spec, path)
        prior = _built(srflow_prior_from_spec, spec, tensors, path)
    else:
        spec = prior_spec_from_tensors(tensors, file.spec, path)
        prior = _built(prior_from_spec, spec, tensors, path)
    _fill(prior, tensors, path)
    return prior, spec, file.sha256


def _joined(flow: LINF | SRFlow, prior: Prior | SrflowPrior | None) -> LinfLP | SrflowLP:
    if isinstance(flow, SRFlow):
        assert prior is None or isinstance(prior, SrflowPrior)
        return SrflowLP(flow, prior).eval()
    assert not isinstance(prior, SrflowPrior)
    return LinfLP(flow, prior).eval()


def _widths(module: LINF | SRFlow | Prior | SrflowPrior) -> str:
    """Channels of the latents, as messages say it."""
    if isinstance(module, SRFlow):
        return ", ".join(str(latent.channels) for latent in module.latents)
    if isinstance(module, SrflowPrior):
        return ", ".join(map(str, module.in_chans))
    return str(module.width)


@dataclass(frozen=True)
class _File:
    spec: dict[str, Any] | None
    tensors: dict[str, Tensor]
    sha256: str


def _read(path: Path, kind: Kind) -> _File:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{kind} {path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {kind} {path}: {error.strerror}") from error
    if not data:
        raise CheckpointError(f"{kind} {path} is empty (0 bytes)")
    sha256 = hashlib.sha256(data).hexdigest()
    if path.suffix == ".safetensors":
        file = _read_safetensors(path, kind, sha256)
    else:
        _check_archive(path, len(data), kind)
        file = _read_torch(path, kind, sha256)
    for name, tensor in file.tensors.items():
        _check_tensor(name, tensor, len(data), path)
    return file


def _read_safetensors(path: Path, kind: Kind, sha256: str) -> _File:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{kind} {path} is not a safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        return _File(None, tensors, sha256)
    try:
        header = json.loads(metadata[METADATA_KEY])
        held, spec = header["kind"], _checked_spec(header["spec"], path)
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{kind} {path} has damaged metadata: {error}") from error
    if held != kind:
        raise CheckpointError(f"{path} holds a {held}, not a {kind}")
    return _File(spec, tensors, sha256)


def _read_torch(path: Path, kind: Kind, sha256: str) -> _File:
    try:
        with warnings.catch_warnings():  # PyTorch's, about the pickle protocol
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in a file of another kind
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(
                f"{kind} {path} is refused: it holds more than tensors and could run code"
            ) from error
        raise CheckpointError(f"{kind} {path} is not a PyTorch checkpoint") from error
    key = "model" if kind == "model" else "prior_model"
    other = "prior_model" if kind == "model" else "model"
    entry = content.get(key) if isinstance(content, dict) else None
    if isinstance(entry, dict) and _is_state_dict(entry.get("sd")):
        return _File(_checked_spec(entry, path), entry["sd"], sha256)
    if isinstance(content, dict) and other in content:
        raise CheckpointError(f"{path} holds a {other.removesuffix('_model')}, not a {kind}")
    if _is_state_dict(content):
        return _File(None, content, sha256)
    raise CheckpointError(f"{kind} {path} holds neither {key!r} nor a state dict")


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) for name in content)
        and all(map(torch.is_tensor, content.values()))
    )


def _checked_spec(entry: object, path: Path) -> dict[str, Any]:
    """Take `{"name": ..., "args": {...}}` out of an entry that anyone may have written."""
    spec = _named(entry)
    if spec is None or _named(spec["args"].get("encoder_spec") or {}) is None:
        raise CheckpointError(f"{path} describes its network in a form that is not known")
    return spec


def _named(entry: object) -> dict[str, Any] | None:
    """Return a spec's name and arguments, None if it has another form."""
    if not isinstance(entry, dict):
        return None
    name, args = entry.get("name"), entry.get("args") or {}
    if not (isinstance(name, (str, type(None))) and isinstance(args, dict)):
        return None
    guard = {"guard": True} if entry.get("guard") is True else {}
    return {"name": name, "args": args, **guard}


def _check_archive(path: Path, size: int, kind: Kind) -> None:
    """Refuse a zip whose parts expand: PyTorch stores them as they are."""
    with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as archive:
        expanded = sum(part.file_size for part in archive.infolist())
        if expanded > size:
            raise CheckpointError(
                f"{kind} {path} has {size} bytes that expand to {expanded}; save it again "
                "without compression"
            )


def _check_tensor(name: str, tensor: Tensor, size: int, path: Path) -> None:
    """Refuse a tensor that is not stored value by value, or claims more than the file holds."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized
    if not plain or tensor.device.type != "cpu":
        form = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
        raise CheckpointError(f"{path}: tensor {name} must be dense, got {form}")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise CheckpointError(
            f"{path}: tensor {name} must be of real numbers, got {tensor.dtype}"
        )
    if tensor.numel() * tensor.element_size() > size:
        shape = tuple(tensor.shape)
        raise CheckpointError(f"{path}: tensor {name} of {shape} is larger than the file")


def _built(
    build: Callable[[dict[str, Any]], ModuleT],
    spec: dict[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
) -> ModuleT:
    """Build a network of a size that its tensors can have, without memory at first."""
    most = max(len(tensors), *(max(tensor.shape, default=1) for tensor in tensors.values()))
    largest = max(_numbers(spec), default=0)
    if largest > most:
        raise CheckpointError(
            f"{path} describes a network with {largest} channels or layers; its tensors have "
            f"at most {most}"
        )
    try:
        with torch.device("meta"):
            _check_shapes(build(spec), tensors, path)
        return build(spec)
    except CheckpointError:
        raise
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} describes no network of ours: {reason}") from error


def _numbers(entry: object) -> Iterator[int]:
    """Iterate over the whole numbers in a spec."""
    if isinstance(entry, Mapping):
        entry = list(entry.values())
    if isinstance(entry, (list, tuple)):
        for value in entry:
            yield from _numbers(value)
    elif type(entry) is int:
        yield entry


def _check_shapes(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compare the names and shapes of parameters with the tensors of a file."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    extra = [
        name
        for name in tensors
        if name not in expected
        and not name.startswith(UNUSED_PREFIXES)
        and not name.endswith(UNUSED_SUFFIXES)
    ]
    if missing or extra:
        name, verb = (missing[0], "lacks") if missing else (extra[0], "has an unknown")
        raise CheckpointError(f"{path} {verb} tensor {name}")
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{path}: tensor {name} must be {tuple(tensor.shape)} for the architecture it "
                f"names, got {tuple(tensors[name].shape)}"
            )


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load every parameter; only tensors that inference never reads may be extra."""
    expected = module.state_dict()
    values = {name: tensors[name].to(expected[name].dtype) for name in expected}
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: tensor {name} must be finite, got NaN or infinity")
    module.load_state_dict(values)
