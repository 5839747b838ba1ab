"""Which errors mean that memory ran out: most allocators raise a RuntimeError with their own words."""

from __future__ import annotations

import errno

from dlcli.wording import first_line

# What allocators say, in lower case: torch's on CPUs (Linux; Windows) and on devices, C++, mmap, oneDNN,
# whose error has no words for it but fails to build or to run a kernel, and CUDA's libraries. Creating a
# primitive descriptor fails in oneDNN also for an operation that it does not support, then at any size.
_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to allocate",
    "failed to allocate",
    "out of memory",
    "out_of_memory",
    "std::bad_alloc",
    "bad allocation",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cusparse_status_alloc_failed",
    "cufft_alloc_failed",
)
MEMORY_HINT = "use a smaller --batch-size, --img-size or model, or close other programs"


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an error of Python, of the system or of a library means that memory ran out."""
    if isinstance(exc, OSError):
        return exc.errno == errno.ENOMEM
    # By name: torch's class is not known without torch.
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(exc).lower() for words in _WORDS)


def out_of_memory_message(exc: BaseException) -> str | None:
    """Return the message for an error that `is_out_of_memory`, with the allocator's words, else None."""
    if not is_out_of_memory(exc):
        return None
    words = first_line(exc) if str(exc) else ""
    return f"out of memory: {words}" if words else "out of memory"
