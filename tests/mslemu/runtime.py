"""The C++ runtime from Python: built at first use, then called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mslemu.compiler import cached_library, compile_cpp

HERE = Path(__file__).parent
_FINDINGS_CAPACITY = 1 << 16


class Launch(ctypes.Structure):
    """`struct Launch` of runtime/emulator.h."""

    _fields_ = (
        ("kernel", ctypes.c_void_p),
        ("buffers", ctypes.c_void_p),
        ("buffer_count", ctypes.c_uint32),
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("checked", ctypes.c_uint32),
        ("schedule", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("strict", ctypes.c_uint32),
        ("workers", ctypes.c_uint32),
        ("seed", ctypes.c_uint32),
        ("time_limit", ctypes.c_uint32),
        ("stack_size", ctypes.c_uint64),
        ("library", ctypes.c_char_p),
        ("threadgroup_bytes", ctypes.c_uint64),
        ("collectives", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
        ("accesses", ctypes.c_uint64),
    )


class Buffer:
    """Memory of one kernel argument between inaccessible gaps; to be used in a `with`."""

    def __init__(self, name: str, content: bytes, is_output: bool = False, is_initialised: bool = False) -> None:
        self._size = len(content)
        self.handle = runtime().msl_allocate(self._size, name.encode(), is_output, is_initialised)
        if not self.handle:
            raise MemoryError(f"kernel argument {name}: no memory for {self._size} bytes")
        ctypes.memmove(self._address, content, self._size)

    @property
    def _address(self) -> int:
        return runtime().msl_bytes(self.handle)

    def read(self) -> bytes:
        """What it holds now."""
        return ctypes.string_at(self._address, self._size)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *exception: object) -> None:
        runtime().msl_free(self.handle)


def launch(settings: Launch, buffers: Sequence[Buffer]) -> str:
    """Runs a kernel with these arguments; returns the findings as the runtime writes them (runtime/report.cpp)."""
    handles = (ctypes.c_void_p * len(buffers))(*[b.handle for b in buffers])
    settings.buffers, settings.buffer_count = ctypes.addressof(handles), len(buffers)
    findings = ctypes.create_string_buffer(_FINDINGS_CAPACITY)
    runtime().msl_launch(ctypes.byref(settings), findings, len(findings))
    return findings.value.decode(errors="replace")


@cache
def runtime() -> ctypes.CDLL:
    """The runtime, built if need be. Its symbols are global: compiled kernels call them."""
    sources = sorted((HERE / "runtime").glob("*.cpp"))
    content = "\n".join(
        p.read_text() for p in [*sources, *sorted((HERE / "runtime").glob("*.h")), HERE / "include/abi.h"]
    )

    def build(scratch: Path) -> Path:
        library = scratch / "runtime.so"
        flags = ["-O2", "-std=c++17", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
        compile_cpp(*flags, *sources, "-o", library, "-ldl")
        return library

    loaded = ctypes.CDLL(str(cached_library("runtime", content, build)), mode=ctypes.RTLD_GLOBAL)
    loaded.msl_allocate.restype = ctypes.c_void_p
    loaded.msl_allocate.argtypes = [ctypes.c_uint64, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    loaded.msl_bytes.restype = ctypes.c_void_p
    loaded.msl_bytes.argtypes = [ctypes.c_void_p]
    loaded.msl_free.argtypes = [ctypes.c_void_p]
    loaded.msl_launch.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64]
    return loaded
