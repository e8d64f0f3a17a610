"""Read the messages of inference libraries: out of memory or threads, and a missing cuDNN."""

from typing import Final

__all__ = ["NO_THREADS", "is_out_of_memory", "is_out_of_threads", "lacks_cudnn", "one_line"]

# Messages of ONNX Runtime, OpenVINO, CUDA, cuDNN and the C++ library for a failed allocation.
_OUT_OF_MEMORY: Final = (
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "available memory of",
)

# Messages of Python, the C++ library and ONNX Runtime (microsoft/onnxruntime#15146).
_OUT_OF_THREADS: Final = (
    "can't start new thread",
    "resource temporarily unavailable",
    "pthread_create",
)

NO_THREADS: Final = (
    "the system allows no more threads; give fewer threads, or raise the limit (ulimit -u)"
)
"""Message for a system that makes no more threads."""

# A library that cannot be loaded; and since cuDNN became optional in ONNX Runtime's CUDA
# provider (microsoft/onnxruntime#29252), convolutions without a kernel.
_NO_CUDNN: Final = ("libcudnn", "cudnn64", "cudnn is not available", "cudnn not found")
_NO_KERNEL: Final = ("not_implemented", "could not find an implementation")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of a library says that memory is exhausted."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _OUT_OF_MEMORY)


def is_out_of_threads(error: BaseException) -> bool:
    """Return whether an error says that the system makes no more threads."""
    words = str(error).lower()
    return any(sign in words for sign in _OUT_OF_THREADS)


def lacks_cudnn(error: BaseException) -> bool:
    """Return whether an error of the CUDA provider comes from a missing cuDNN."""
    words = str(error).lower()
    no_convolution = any(sign in words for sign in _NO_KERNEL) and "conv" in words
    return no_convolution or any(sign in words for sign in _NO_CUDNN)


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
