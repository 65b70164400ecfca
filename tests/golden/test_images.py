"""Images as read from disk, byte for byte against PIL's convert("RGB"): every kind of PNG and the usual JPEGs."""

import io
import json
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from sd3 import contraflow

# A judge whose score is the checksum of the pixels it gets.
CHILD = r"""
import json, struct, sys, zlib
def frame():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4: sys.exit(0)
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])
while True:
    items = json.loads(frame())["items"]
    answer = json.dumps({"scores": [zlib.crc32(frame()) for i in items]}).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(answer)) + answer); sys.stdout.buffer.flush()
"""
GAMMA = (b"gAMA", struct.pack(">I", 100000))  # linear: an sRGB reader would brighten every sample
DARK = (b"gAMA", struct.pack(">I", 20000))
SRGB = (b"sRGB", b"\0")
W, H = 13, 9


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth, kind, *extra, seed=0):
    """Random samples; the filter of every row is none."""
    bits = W * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    r = np.random.default_rng(seed)
    rows = b"".join(b"\0" + r.integers(0, 256, (bits + 7) // 8, dtype=np.uint8).tobytes() for _ in range(H))
    head = struct.pack(">IIBBBBB", W, H, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def palette(n, *alpha):
    colours = (b"PLTE", np.random.default_rng(1).integers(0, 256, 3 * n, dtype=np.uint8).tobytes())
    return (colours, (b"tRNS", bytes(alpha))) if alpha else (colours,)


def exif(orientation, order, at=8):
    """A block with two entries, written out by hand."""
    mark = dict([("<", b"II*\0"), (">", b"MM\0*")])[order]
    entries = struct.pack(order + "HHIHH", 0x100, 3, 1, 70, 0) + struct.pack(order + "HHIHH", 0x112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "IH", at, 2) + entries + bytes(4)


def saved(mode, **options):
    a = np.random.default_rng(2).integers(0, 256, (40, 33, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(a).resize((70, 51), Image.BICUBIC).convert(mode).save(out, **options)
    return out.getvalue()


CASES = {
    **{f"rgb {name}": png(8, 2, *extra) for name, extra in
       dict(plain=(), gamma=(GAMMA,), dark=(DARK,), srgb=(SRGB,), both=(SRGB, DARK), key=((b"tRNS", b"\0\1\0\2\0\3"),)).items()},
    "rgb 16": png(16, 2), "rgb 16 gamma": png(16, 2, GAMMA),
    **{f"grey {d}": png(d, 0) for d in (1, 2, 4, 8)}, "grey gamma": png(8, 0, GAMMA), "grey key": png(8, 0, (b"tRNS", b"\0\7")),
    **{f"palette {d}": png(d, 3, *palette(2**d)) for d in (1, 2, 4, 8)},
    "palette gamma": png(8, 3, DARK, *palette(256)), "palette alpha": png(8, 3, *palette(256, 0, 128, 255)),
    "grey alpha": png(8, 4), "grey alpha 16": png(16, 4), "alpha": png(8, 6), "alpha gamma": png(8, 6, GAMMA), "alpha 16": png(16, 6, DARK),
    "profile": saved("RGB", format="PNG", icc_profile=b"no profile at all"),
    "jpeg": saved("RGB", format="JPEG"), "jpeg 444": saved("RGB", format="JPEG", quality=97, subsampling=0),
    "jpeg progressive": saved("RGB", format="JPEG", progressive=True), "jpeg grey": saved("L", format="JPEG"),
    "jpeg cmyk": saved("CMYK", format="JPEG", quality=97), "jpeg cmyk 420": saved("CMYK", format="JPEG", subsampling=2),
    **{f"{kind} turned {k}{order}": saved("RGB", format=kind, exif=exif(k, order)) for kind in ("JPEG", "PNG") for k in range(10) for order in "<>"},
    "cmyk turned": saved("CMYK", format="JPEG", exif=exif(6, "<")),
    "exif cut off": saved("RGB", format="JPEG", exif=exif(6, "<")[:-20]), "exif elsewhere": saved("RGB", format="JPEG", exif=exif(6, "<", 0xFFFF)),
}  # fmt: skip


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The checksum of each image's pixels as the program has them."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "child.py").write_text(CHILD)
    (folder / "c.yaml").write_text(json.dumps(dict(rewards=dict(exec=dict(command=[sys.executable, str(folder / "child.py")])))))
    (folder / "p.txt").write_text("x\n")

    def sums(images):
        files = [folder / f"{i}.bin" for i in range(len(images))]
        for file, data in zip(files, images):
            file.write_bytes(data)
        return [x["reward"] for x in json.loads(contraflow("score", "--config", folder / "c.yaml", "--prompts", folder / "p.txt", *files))["images"]]

    return sums


def test_as_pil(read):
    got = dict(zip(CASES, read(CASES.values())))
    upright = {name: ImageOps.exif_transpose(Image.open(io.BytesIO(data))) for name, data in CASES.items()}
    want = {name: zlib.crc32(np.array(im.convert("RGB")).tobytes()) for name, im in upright.items()}
    assert [name for name in CASES if got[name] != want[name]] == []
    assert len(set(want.values())) > 15


def test_grey_of_16_bits(read):
    """PIL clips these to white, which is no oracle: the upper half of each sample, as it takes of colours."""
    data = png(16, 0)
    a = np.frombuffer(zlib.decompress(data[41:-12]), np.uint8).reshape(H, 1 + 2 * W)[:, 1::2]
    assert read([data]) == [zlib.crc32(np.repeat(a[..., None], 3, -1).tobytes())]


def test_interlaced(read):
    """Adam7, written out by hand: the pixels of the image that is not interlaced."""
    a = np.random.default_rng(3).integers(0, 256, (H, W, 3), dtype=np.uint8)
    rows = b""
    for y, x, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]:
        part = a[y::dy, x::dx]
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    head = struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(*DARK) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (np.array(Image.open(io.BytesIO(data))) == a).all()
    assert read([data]) == [zlib.crc32(a.tobytes())]
