"""Makes odd photos, with unusual metadata, thousands of scans, or a decoder's worst case."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

_WEBP_FLAGS = {b"ICCP": 32, b"EXIF": 8, b"XMP ": 4}


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _picture(side: int) -> Image.Image:
    """Draws a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (side, side), (200, 30, 30))
    image.paste((40, 50, 180), (side // 2, 0, side, side))
    return image


def jpeg(*segments: bytes, side: int = 64) -> bytes:
    """Makes a JPEG with a red and a blue half, which begins with the given segments."""
    content = saved(_picture(side), "JPEG", quality=95)
    return content[:2] + b"".join(segments) + content[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif_segment(exif: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + exif)


def ifd(*entries: tuple[int, int, int, int]) -> bytes:
    """Makes Exif's TIFF structure from entries (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


def progressive_jpeg(side: int, scans: int) -> bytes:
    """Makes a progressive JPEG that repeats its last scan, which goes over all pixels each time."""
    content = saved(_picture(side), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + b"\xff\xd9"


def sequential_jpeg(side: int, scans: int) -> bytes:
    """Makes a JPEG that is not progressive, with scans of ten bytes that each go over a whole colour."""
    content = saved(_picture(64), "JPEG", subsampling=0)
    content = content[: content.rindex(b"\xff\xda")]
    place = content.index(b"\xff\xc0") + 5
    head = content[:place] + struct.pack(">HH", side, side) + content[place + 4 :]
    # With restart markers, the decoder searches for one at each block, which takes time.
    restart = segment(0xDD, struct.pack(">H", 1))
    each = (segment(0xDA, bytes((1, 1 + number % 3, 0, 0, 63, 0))) for number in range(scans))
    return head + restart + b"".join(each) + b"\xff\xd9"


def jpeg_with_a_forged_scan_header() -> bytes:
    """Makes a JPEG with a scan for each of four colours, and a comment that looks like a scan header."""
    content = saved(Image.new("CMYK", (64, 64)), "JPEG")
    head = content[: content.rindex(b"\xff\xda")]
    forged = segment(0xFE, bytes((0xFF, 0xDA, 0, 14, 4, 0)))
    each = (segment(0xDA, bytes((1, number, 0, 0, 63, 0))) for number in b"CMYK")
    return head + forged + b"".join(each) + b"\xff\xd9"


def chunk(kind: bytes, content: bytes, *, wrong_crc: bool = False) -> bytes:
    crc = zlib.crc32(kind + content) ^ wrong_crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(*chunks: bytes, before: bytes = b"IDAT", image: Image.Image | None = None) -> bytes:
    """Makes a PNG, by default with a red and a blue half, with chunks added before its pixels or IEND."""
    content = saved(image or _picture(64), "PNG")
    place = content.index(before) - 4
    return content[:place] + b"".join(chunks) + content[place:]


def rle_bmp(side: int) -> bytes:
    """Makes a run-length encoded bitmap in which each run is a single pixel."""
    row = b"".join(bytes((1, column % 251)) for column in range(side)) + b"\0\0"
    pixels = row * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def webp(side: int, chunks: bytes, pixels: bytes = b"") -> bytes:
    """Makes a lossless WebP with the given chunks and the given pixels, or all black."""
    pixels = pixels or webp_pixels(Image.new("RGB", (side, side)))
    size, flag = struct.pack("<I", side - 1)[:3], _WEBP_FLAGS.get(chunks[:4], 0)
    before, after = (chunks, b"") if chunks.startswith(b"ICCP") else (b"", chunks)
    body = b"WEBPVP8X" + struct.pack("<IB", 10, flag) + bytes(3) + 2 * size + before + pixels + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_pixels(image: Image.Image) -> bytes:
    return saved(image, "WEBP", lossless=True, quality=0, method=0)[12:]


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


class _Bits:
    """Writes bits with the lowest first, as in lossless WebP."""

    def __init__(self) -> None:
        self._value, self._count, self.content = 0, 0, bytearray()

    def put(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        whole = self._count // 8
        self.content += (self._value & ((1 << 8 * whole) - 1)).to_bytes(whole, "little")
        self._value >>= 8 * whole
        self._count -= 8 * whole


def webp_of_code_tables(side: int = 1024) -> bytes:
    """Makes a black, lossless WebP with a separate group of code tables for each block of 4x4 pixels.

    Its decoder keeps some 13 kB for each of up to 65,536 groups.
    """
    bits = _Bits()
    blocks = min((side // 4) ** 2, 65_536)
    for value, count in ((0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1)):
        bits.put(value, count)
    bits.put(1, 1)  # there are several groups of tables:
    bits.put(0, 3)  # one for each block of 4x4,
    bits.put(0, 1)  # whose numbers are pixels of an image without a colour cache
    for symbols in (280, 256):  # codes of eight bits for the numbers' low bytes, then for the high ones
        bits.put(0, 1)
        bits.put(12 - 4, 4)
        lengths = {17: 0, 18: 1, 0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 16: 0, 6: 0, 7: 0, 8: 1}
        for length in lengths.values():
            bits.put(length, 3)
        bits.put(0, 1)
        for _ in range(256):
            bits.put(0, 1)  # 0: this symbol's code has eight bits
        if symbols > 256:
            bits.put(1, 1)
            bits.put(symbols - 256 - 11, 7)  # after the 1: this many symbols have no code
    for _ in range(3):  # blue, alpha and distance have the single symbol 0, which takes no bits
        bits.put(0b0001, 4)
    for number in range((side // 4) ** 2):
        for byte in (min(number, blocks - 1) % 256, min(number, blocks - 1) // 256):
            bits.put(int(f"{byte:08b}"[::-1], 2), 8)
    for _ in range(5 * blocks):
        bits.put(0b0001, 4)
    bits.put(0, 7)
    content = bytes(bits.content)
    chunk = b"VP8L" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
