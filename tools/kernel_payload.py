# SPDX-License-Identifier: Apache-2.0
"""Linux kernels as ELF files, which start without unpacking themselves on an emulated processor.

Follows the kernel's Documentation/arch/x86/boot.rst, "The real-mode kernel header".
"""

import lzma
import os
import struct

SETUP_SECTORS, PAYLOAD = 0x1f1, 0x248
XZ = b"\xfd7zXZ\0"


def unpacked_kernel(image, unpacked):
    """`unpacked`, made from the bzImage `image` when it is older; `image` itself when it is not compressed with xz."""
    if unpacked.exists() and unpacked.stat().st_mtime >= image.stat().st_mtime:
        return unpacked
    content = image.read_bytes()
    start = ((content[SETUP_SECTORS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", content, PAYLOAD)
    payload = content[start + offset:start + offset + length]
    if not payload.startswith(XZ):
        return image
    partial = unpacked.with_suffix(f".{os.getpid()}")
    partial.write_bytes(lzma.LZMADecompressor().decompress(payload))
    partial.rename(unpacked)
    return unpacked
