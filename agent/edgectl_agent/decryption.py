"""Reads the layers of an encrypted bundle, in the processes that run models, into memory only.

What this does: no plaintext file is ever made, not even a temporary one; `refuse_dumps` comes
before the first byte; the content key is overwritten after use. What Python leaves behind: copies
of the key in the buffers that it came through and in the cipher's own state, and the model itself,
which the runtime has to hold in order to compute. So the memory of these processes is secret:
nobody but root may read it, no core is dumped from it, and swap is to be off or encrypted.
"""

from __future__ import annotations

import ctypes
import io
import os
import resource
from pathlib import Path

from edgectl_agent.bundle import Bundle
from edgectl_protocol.encryption import SEGMENT_BYTES, layer_key, plain_size, segment_nonce
from edgectl_protocol.errors import MalformedMessage

__all__ = ["Undecipherable", "read_layer", "refuse_dumps"]

_PR_SET_DUMPABLE = 4


class Undecipherable(Exception):
    """A layer does not open: another bundle's key, or not the bytes that were sealed."""


def read_layer(bundle: Bundle, path: str, file: str) -> bytes:
    """Return the plain content of an encrypted layer.

    Args:
        bundle: with its content key.
        path: of the ciphertext.
        file: name of the layer in the bundle.

    Raises:
        Undecipherable: any part of it does not open; nothing of it is returned then.
        OSError: it cannot be read.
    """
    assert bundle.key is not None, bundle
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    cipher = ChaCha20Poly1305(layer_key(bundle.key, file))
    plain, number = io.BytesIO(), 0
    try:
        with Path(path).open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            plain_size(left)
            while left > 0:
                segment = source.read(SEGMENT_BYTES)
                left -= len(segment)
                nonce = segment_nonce(number, last=left == 0)
                plain.write(cipher.decrypt(nonce, segment, None))
                number += 1
    except InvalidTag as error:
        raise Undecipherable(
            f"{file} does not open at segment {number}: it was sealed with another key, or is not "
            "what was sealed"
        ) from error
    except MalformedMessage as error:
        raise Undecipherable(f"{file}: {error}") from error
    return plain.getvalue()  # the buffer itself: a second copy of a large model might not fit


def refuse_dumps() -> None:
    """Let nobody but root read this process's memory, and no core be dumped from it.

    The limit alone does not bind a core handler (core(5), ``core_pattern`` with a pipe); a process
    that is not dumpable has no core, and no other of its user may trace it (prctl(2)).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
