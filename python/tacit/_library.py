# SPDX-License-Identifier: Apache-2.0
"""libtacit by ctypes: the calls that the package makes, and their errors.

The library is found as the loader finds it, so LD_LIBRARY_PATH works; $TACIT_LIBRARY names another file.
"""

from __future__ import annotations

import ctypes
import enum
import os
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint64, c_void_p


class Status(enum.IntEnum):
    """What a call returns, as in tacit.h."""

    OK = 0
    PENDING = 1
    ERR_ARGUMENT = -1
    ERR_SPEC = -2
    ERR_MISMATCH = -3
    ERR_FRAME = -4
    ERR_VALUE = -5
    ERR_MEMORY = -6
    ERR_TIMEOUT = -7
    ERR_TRANSPORT = -8
    ERR_DEVICE = -9
    ERR_UNSUPPORTED = -10
    ERR_STATE = -11
    ERR_BROKEN = -12
    ERR_FILE = -13


class TacitError(RuntimeError):
    """A call failed. `status` tells programs why; the text tells people."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


class Config(ctypes.Structure):
    """tacit_config_t."""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("spec", c_char_p),
        ("timeout_ms", c_int64),
        ("chunk_bytes", c_size_t),
        ("seed", c_uint64),
        ("nonfinite", c_int),
        ("strict", c_int),
        ("progress", c_int),
    ]


class SlotConfig(ctypes.Structure):
    """tacit_slot_config_t."""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("count", c_size_t),
        ("dtype", c_int),
        ("device", c_int),
        ("ndim", c_int),
        ("shape", c_size_t * 8),
        ("spec", c_char_p),
    ]


class MoeConfig(ctypes.Structure):
    """tacit_moe_config_t."""

    _fields_ = [
        ("struct_bytes", c_size_t),
        ("dimension", c_size_t),
        ("experts", c_size_t),
        ("tokens", c_size_t),
        ("choices", c_size_t),
        ("capacity", c_size_t),
        ("dtype", c_int),
        ("device", c_int),
        ("spec", c_char_p),
    ]


class MoeBatch(ctypes.Structure):
    """tacit_moe_batch_t."""

    _fields_ = [
        ("rows", c_void_p),
        ("count", c_size_t),
        ("experts", c_size_t),
        ("first", POINTER(c_size_t)),
    ]


class MoeCounters(ctypes.Structure):
    """tacit_moe_counters_t."""

    _fields_ = [
        ("passes", c_uint64),
        ("tokens", c_uint64),
        ("copies", c_uint64),
        ("rows", c_uint64),
        ("overflows", c_uint64),
        ("wire_bytes", c_uint64),
        ("dense_bytes", c_uint64),
        ("residual", c_double),
        ("hashes", c_double),
    ]


_STATUS = {
    "tacit_codec_create": [c_char_p, POINTER(SlotConfig), POINTER(Config), c_int, c_int, POINTER(c_void_p)],
    "tacit_codec_own": [c_void_p, c_size_t, c_size_t, c_int],
    "tacit_codec_save": [c_void_p, c_void_p, c_size_t, POINTER(c_size_t)],
    "tacit_codec_load": [c_void_p, c_void_p, c_size_t],
    "tacit_encode": [c_void_p, c_uint64, c_void_p, c_size_t, c_size_t, c_void_p, c_size_t, POINTER(c_size_t)],
    "tacit_reencode": [c_void_p, c_uint64, c_void_p, c_size_t, c_size_t, c_void_p, c_size_t, POINTER(c_size_t)],
    "tacit_decode": [c_void_p, c_uint64, c_void_p, c_size_t, c_void_p, POINTER(c_size_t), POINTER(c_size_t)],
    "tacit_decode_add": [c_void_p, c_uint64, c_void_p, c_size_t, c_void_p, POINTER(c_size_t), POINTER(c_size_t)],
    "tacit_bundle_create": [POINTER(c_void_p), c_size_t, c_int, POINTER(c_void_p)],
    "tacit_bundle_create_reduce_scatter": [POINTER(c_void_p), POINTER(c_int), c_size_t, c_int, POINTER(c_void_p)],
    "tacit_bundle_create_allgather": [POINTER(c_void_p), POINTER(c_int), c_size_t, POINTER(c_void_p)],
    "tacit_bundle_encode": [c_void_p, c_uint64, POINTER(c_void_p), c_void_p],
    "tacit_bundle_reduce": [c_void_p, c_void_p, c_void_p],
    "tacit_bundle_finish": [c_void_p, c_void_p, POINTER(c_void_p)],
    "tacit_bundle_set_stream": [c_void_p, c_void_p],
    "tacit_bundle_poll": [c_void_p, c_uint64],
    "tacit_moe_create_codec": [c_char_p, POINTER(MoeConfig), POINTER(Config), c_int, c_int, POINTER(c_void_p)],
    "tacit_moe_counters": [c_void_p, POINTER(MoeCounters)],
    "tacit_moe_dispatch_begin": [c_void_p, c_void_p, c_size_t, c_void_p, POINTER(c_void_p)],
    "tacit_moe_dispatch_end": [c_void_p, POINTER(MoeBatch)],
    "tacit_moe_combine_begin": [c_void_p, c_void_p],
    "tacit_moe_combine_end": [c_void_p, c_void_p, c_void_p],
    "tacit_moe_combine_backward_begin": [c_void_p, c_void_p, c_void_p],
    "tacit_moe_combine_backward_end": [c_void_p, c_void_p],
    "tacit_moe_dispatch_backward_begin": [c_void_p, c_void_p],
    "tacit_moe_dispatch_backward_end": [c_void_p, c_void_p],
    "tacit_moe_write": [c_void_p, c_int, c_void_p],
    "tacit_moe_read": [c_void_p, c_int, c_void_p, c_size_t],
}
_OTHERS = {
    "tacit_version": (c_char_p, []),
    "tacit_last_error": (c_char_p, []),
    "tacit_strerror": (c_char_p, [c_int]),
    "tacit_codec_destroy": (None, [c_void_p]),
    "tacit_codec_grain": (c_size_t, [c_void_p]),
    "tacit_codec_capacity": (c_size_t, [c_void_p, c_size_t]),
    "tacit_codec_reset": (None, [c_void_p]),
    "tacit_bundle_destroy": (None, [c_void_p]),
    "tacit_bundle_cancel": (None, [c_void_p]),
    "tacit_bundle_scatter_bytes": (c_size_t, [c_void_p, c_int, c_int]),
    "tacit_bundle_gather_bytes": (c_size_t, [c_void_p]),
    "tacit_moe_destroy": (None, [c_void_p]),
    "tacit_moe_pass_destroy": (None, [c_void_p]),
    "tacit_moe_message_bytes": (c_size_t, [c_void_p, c_int]),
}


def _load() -> ctypes.CDLL:
    name = os.environ.get("TACIT_LIBRARY", "libtacit.so.0")
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise ImportError(
            f"{name} cannot be loaded: {error}. Install libtacit, or say where it is: LD_LIBRARY_PATH=DIR or TACIT_LIBRARY=FILE"
        ) from None
    for call, parameters in _STATUS.items():
        getattr(library, call).argtypes = parameters
        getattr(library, call).restype = c_int
    for call, (result, parameters) in _OTHERS.items():
        getattr(library, call).argtypes = parameters
        getattr(library, call).restype = result
    return library


library = _load()


def check(status: int) -> None:
    """Raises what the last call of this thread found."""
    if status != Status.OK:
        text = library.tacit_last_error() or library.tacit_strerror(status)
        raise TacitError(Status(status), text.decode(errors="replace"))
