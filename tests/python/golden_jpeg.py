"""Writes and checks the JPEG files in `crates/data-pipeline/tests/jpeg` and the pixels that PIL decodes from them.

The images are synthetic. PIL encodes the common variants; `cjpeg` of libjpeg-turbo encodes unusual sampling factors and
scans. `pixels.json` contains width, height and SHA-256 of the pixels after conversion to RGB.

    python tests/python/golden_jpeg.py            decode the stored files and compare
    python tests/python/golden_jpeg.py --write    write files and pixels
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image, features

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "crates" / "data-pipeline" / "tests" / "jpeg"
# Name: width, height, mode, noise, options of PIL's encoder.
BY_PIL = {
    "444": (37, 29, "RGB", 20, dict(subsampling="4:4:4", quality=90)),
    "422": (45, 31, "RGB", 20, dict(subsampling="4:2:2", quality=85)),
    "420": (51, 43, "RGB", 20, dict(subsampling="4:2:0", quality=92)),
    "411": (67, 21, "RGB", 20, dict(subsampling="4:1:1", quality=80)),
    "444-noise-q100": (96, 80, "RGB", 90, dict(subsampling="4:4:4", quality=100)),
    "420-noise-q1": (64, 64, "RGB", 90, dict(subsampling="4:2:0", quality=1)),
    "420-optimized": (40, 40, "RGB", 10, dict(subsampling="4:2:0", quality=75, optimize=True)),
    "420-restart-blocks": (70, 50, "RGB", 20, dict(subsampling="4:2:0", quality=75, restart_marker_blocks=3)),
    "422-restart-rows": (50, 70, "RGB", 20, dict(subsampling="4:2:2", quality=75, restart_marker_rows=1)),
    "grey": (33, 47, "L", 20, dict(quality=88)),
    "cmyk": (30, 26, "CMYK", 20, dict(quality=88)),
    "rgb": (30, 26, "RGB", 20, dict(quality=88, keep_rgb=True)),
    "progressive-444": (37, 29, "RGB", 20, dict(subsampling="4:4:4", quality=90, progressive=True)),
    "progressive-420": (51, 43, "RGB", 20, dict(subsampling="4:2:0", quality=92, progressive=True)),
    "progressive-grey": (33, 47, "L", 20, dict(quality=88, progressive=True)),
    "progressive-cmyk": (30, 26, "CMYK", 20, dict(quality=88, progressive=True)),
    "progressive-restart": (40, 40, "RGB", 20, dict(quality=90, progressive=True, restart_marker_blocks=2)),
    "1x1": (1, 1, "RGB", 0, dict(subsampling="4:2:0")),
    "2x3": (2, 3, "RGB", 60, dict(subsampling="4:2:0")),
    "4x4": (4, 4, "RGB", 60, dict(subsampling="4:2:0")),
    "5x1": (5, 1, "RGB", 60, dict(subsampling="4:2:2")),
    "17x16": (17, 16, "RGB", 60, dict(subsampling="4:2:0")),
    "16x17": (16, 17, "RGB", 60, dict(subsampling="4:2:0")),
}
# Name: width, height, mode, arguments of cjpeg, scan script.
BY_CJPEG = {
    "440": (41, 39, "RGB", ["-sample", "1x2"], None),
    "wide-chroma": (41, 39, "RGB", ["-sample", "1x1,2x1,2x2"], None),
    "thirds": (50, 50, "RGB", ["-sample", "3x1,1x1,1x1"], None),
    "tall-thirds": (50, 50, "RGB", ["-sample", "1x3,1x1,1x3"], None),
    "quarters": (50, 70, "RGB", ["-sample", "2x4,1x1,1x1"], None),
    "mixed-factors": (41, 39, "RGB", ["-sample", "2x2,1x2,2x1"], None),
    "apart": (45, 35, "RGB", ["-sample", "2x2"], "0; 1; 2;"),
    "apart-restart": (45, 35, "RGB", ["-sample", "2x1", "-restart", "2B"], "0; 1 2;"),
    "coarse-tables": (41, 39, "RGB", ["-quality", "1,2"], None),
    "progressive-440": (41, 39, "RGB", ["-sample", "1x2", "-progressive"], None),
    "progressive-script": (
        41,
        39,
        "RGB",
        ["-sample", "2x2"],
        "0 1 2: 0-0, 0, 2; 0: 1-20, 0, 3; 0 1 2: 0-0, 2, 1; 2: 1-63, 0, 1; 0: 21-63, 0, 0; 1: 1-63, 0, 2;"
        "0: 1-20, 3, 2; 0 1 2: 0-0, 1, 0; 0: 1-20, 2, 1; 2: 1-63, 1, 0; 1: 1-63, 2, 1; 0: 1-20, 1, 0; 1: 1-63, 1, 0;",
    ),
}


def picture(seed, width, height, mode, noise):
    """Returns an image with a sine wave and noise in each channel."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = []
    for _ in Image.new(mode, (1, 1)).getbands():
        across, down, start = random.uniform(-0.4, 0.4, 2).tolist() + [random.uniform(0, 6)]
        channels.append(128 + 90 * np.sin(across * x + down * y + start) + random.normal(0, noise, (height, width)))
    pixels = np.clip(np.stack(channels, 2), 0, 255).astype(np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def segments(file):
    """Yields start, end and marker of each segment before the first scan."""
    at = 2
    while file[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        yield at, end, file[at + 1]
        at = end


def without(file, marker):
    """Returns the file without the segments of a marker."""
    for start, end, found in reversed(list(segments(file))):
        if found == marker:
            file = file[:start] + file[end:]
    return file


def with_adobe_transform(file, transform):
    start = next(start for start, _, marker in segments(file) if marker == 0xEE)
    return file[: start + 15] + bytes([transform]) + file[start + 16 :]


def with_fill_bytes(file):
    """Returns the file with fill bytes (0xFF) before each marker, which the format allows."""
    for start, _, _ in reversed(list(segments(file))):
        file = file[:start] + b"\xff\xff" + file[start:]
    return file


# Name: original file and change.
CHANGED = {
    "ycck": ("cmyk", lambda file: with_adobe_transform(file, 2)),
    "cmyk-without-adobe": ("cmyk", lambda file: without(file, 0xEE)),
    "without-jfif": ("420", lambda file: without(file, 0xE0)),
    "standard-tables": ("422", lambda file: without(file, 0xC4)),
    "fill-bytes": ("444", with_fill_bytes),
    "more-behind-the-end": ("420", lambda file: file + b"\xff\xd8\xff\xd9 a note"),
}


def write():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, (width, height, mode, noise, options)) in enumerate(BY_PIL.items()):
        picture(seed, width, height, mode, noise).save(FOLDER / f"{name}.jpg", "JPEG", **options)
    for seed, (name, (width, height, mode, arguments, script)) in enumerate(BY_CJPEG.items(), 100):
        image = picture(seed, width, height, mode, 20)
        header = f"P6\n{width} {height}\n255\n".encode()
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as scans:
            scans.write(script or "")
            scans.flush()
            more = ["-scans", scans.name] if script else []
            encoded = subprocess.run(
                ["cjpeg", *arguments, *more], input=header + image.tobytes(), stdout=subprocess.PIPE, check=True
            )
        (FOLDER / f"{name}.jpg").write_bytes(encoded.stdout)
    for name, (original, change) in CHANGED.items():
        (FOLDER / f"{name}.jpg").write_bytes(change((FOLDER / f"{original}.jpg").read_bytes()))


def pixels():
    found = {}
    for file in sorted(FOLDER.glob("*.jpg")):
        with Image.open(file) as image:
            rgb = image.convert("RGB")
        found[file.stem] = dict(width=rgb.width, height=rgb.height, sha256=hashlib.sha256(rgb.tobytes()).hexdigest())
    return found


def main():
    assert features.check_feature("libjpeg_turbo"), "PIL was built with another libjpeg"
    stored = FOLDER / "pixels.json"
    if sys.argv[1:] == ["--write"]:
        write()
        stored.write_text(json.dumps(pixels(), indent=1) + "\n")
        print(f"{len(pixels())} files written")
        return
    expected, found = json.loads(stored.read_text()), pixels()
    assert expected.keys() == found.keys(), expected.keys() ^ found.keys()
    different = [name for name in expected if expected[name] != found[name]]
    assert not different, f"pixels differ: {different}"
    print(f"{len(found)} files agree")


if __name__ == "__main__":
    main()
