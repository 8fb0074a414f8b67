"""Makes photos whose bytes no encoder would write: odd metadata, endless scans, decoders' worst cases."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _picture(side: int) -> Image.Image:
    """Draws a picture whose left half is red, and whose right half is blue."""
    image = Image.new("RGB", (side, side), (200, 30, 30))
    image.paste((40, 50, 180), (side // 2, 0, side, side))
    return image


def jpeg(*segments: bytes, side: int = 64) -> bytes:
    """Makes a JPEG of two halves that begins with these segments."""
    content = saved(_picture(side), "JPEG", quality=95)
    return content[:2] + b"".join(segments) + content[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif_segment(exif: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + exif)


def ifd(*entries: tuple[int, int, int, int]) -> bytes:
    """Makes the TIFF structure that Exif holds, from entries (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


def progressive_jpeg(side: int, scans: int) -> bytes:
    """Makes a progressive JPEG that repeats its last scan, which goes over all pixels each time."""
    content = saved(_picture(side), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + b"\xff\xd9"


def sequential_jpeg(side: int, scans: int) -> bytes:
    """Makes a JPEG that is not progressive, whose scans of ten bytes each go over a whole colour."""
    content = saved(_picture(64), "JPEG", subsampling=0)
    content = content[: content.rindex(b"\xff\xda")]
    place = content.index(b"\xff\xc0") + 5
    head = content[:place] + struct.pack(">HH", side, side) + content[place + 4 :]
    restart = segment(0xDD, struct.pack(">H", 1))  # each block looks for a mark, which takes time
    each = (segment(0xDA, bytes((1, 1 + number % 3, 0, 0, 63, 0))) for number in range(scans))
    return head + restart + b"".join(each) + b"\xff\xd9"


def chunk(kind: bytes, content: bytes, *, wrong_crc: bool = False) -> bytes:
    crc = zlib.crc32(kind + content) ^ wrong_crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(*chunks: bytes, before: bytes = b"IDAT", image: Image.Image | None = None) -> bytes:
    """Makes a PNG of two halves with these chunks before its pixels, or before IEND."""
    content = saved(image or _picture(64), "PNG")
    place = content.index(before) - 4
    return content[:place] + b"".join(chunks) + content[place:]


def rle_bmp(side: int) -> bytes:
    """Makes a run-length encoded bitmap, each of whose runs is one pixel."""
    row = b"".join(bytes((1, column % 251)) for column in range(side)) + b"\0\0"
    pixels = row * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def webp(side: int, chunks: bytes) -> bytes:
    """Makes a lossless WebP, all black, with these chunks after its pixels."""
    pixels = saved(Image.new("RGB", (side, side)), "WEBP", lossless=True)[12:]
    size = struct.pack("<I", side - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + 2 * size + pixels + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body
