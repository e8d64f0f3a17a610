"""Read the messages of inference libraries: out of memory, and a missing cuDNN."""

from typing import Final

__all__ = ["is_out_of_memory", "lacks_cudnn", "one_line"]

# Messages of ONNX Runtime, OpenVINO, CUDA, cuDNN and the C++ library for a failed allocation.
_OUT_OF_MEMORY: Final = (
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "available memory of",
)

# A library that cannot be loaded; and since cuDNN became optional in ONNX Runtime's CUDA
# provider (microsoft/onnxruntime#29252), convolutions without a kernel.
_NO_CUDNN: Final = ("libcudnn", "cudnn64", "cudnn is not available", "cudnn not found")
_NO_KERNEL: Final = ("not_implemented", "could not find an implementation")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of a library says that memory is exhausted."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _OUT_OF_MEMORY)


def lacks_cudnn(error: BaseException) -> bool:
    """Return whether an error of the CUDA provider comes from a missing cuDNN."""
    words = str(error).lower()
    no_convolution = any(sign in words for sign in _NO_KERNEL) and "conv" in words
    return no_convolution or any(sign in words for sign in _NO_CUDNN)


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
