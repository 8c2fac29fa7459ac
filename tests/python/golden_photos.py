"""Reference crops of photo-like images: `tests/golden/preprocess-photo-like`.

The images are computed, so that they may be part of the project, and have what photos have: a 1/f spectrum,
sharp edges, and the chroma subsampling and quantisation of a camera's JPEG. PIL gives the reference crops:
shortest side by antialiased bicubic interpolation, then the centre, as in CLIP's evaluation transform.

    python tests/python/golden_photos.py            recompute the crops of the stored images and compare
    python tests/python/golden_photos.py --write    compute the images and their crops
"""

import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "golden" / "preprocess-photo-like"
SIZES = (224, 32)
# Name: width, height, quality, options of the encoder (subsampling 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0).
IMAGES = {
    "landscape-500x375.jpg": (500, 375, 88, dict(subsampling=2)),
    "portrait-333x500.jpg": (333, 500, 92, dict(subsampling=1)),
    "large-1024x683.jpg": (1024, 683, 75, dict(subsampling=2, progressive=True)),
    "sharp-400x400.jpg": (400, 400, 97, dict(subsampling=0, optimize=True)),
    "thumbnail-120x90.jpg": (120, 90, 50, dict(subsampling=2)),
    "odd-251x179.jpg": (251, 179, 80, dict(subsampling=2)),
}
TOLERANCE = dict(compare=True, max_abs=0, mean_abs=0)


def picture(seed, width, height):
    """Three channels of noise with a 1/f spectrum that share most of their brightness, and some filled shapes."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height))

    def noise():
        phases = np.exp(2j * np.pi * random.random((height, width)))
        field = np.fft.ifft2(amplitude * phases).real
        return field / field.std()

    brightness = noise()
    channels = [128 + 45 * brightness + 18 * noise() for _ in range(3)]
    image = Image.fromarray(np.clip(np.stack(channels, 2), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, radius = random.integers(width), random.integers(height), int(random.integers(4, max(6, width // 6)))
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        box = [int(x) - radius, int(y) - radius // 2, int(x) + radius, int(y) + radius // 2]
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=color)
    return image


def crop(image, size):
    width, height = image.size
    if width <= height:
        resized = image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    else:
        resized = image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    pixels = resized.crop((left, top, left + size, top + size)).convert("RGB")
    return torch.from_numpy(np.asarray(pixels).copy())


def main():
    write = sys.argv[1:] == ["--write"]
    if write:
        (FOLDER / "images").mkdir(parents=True, exist_ok=True)
        for seed, (name, (width, height, quality, options)) in enumerate(IMAGES.items()):
            picture(seed, width, height).save(FOLDER / "images" / name, "JPEG", quality=quality, **options)
        listed = [dict(file=name, size=list(IMAGES[name][:2]), **TOLERANCE) for name in IMAGES]
        (FOLDER / "images.json").write_text(json.dumps(listed, indent=1) + "\n")
    crops = {}
    for name in IMAGES:
        image = Image.open(FOLDER / "images" / name)
        crops |= {f"{name}@{size}": crop(image, size) for size in SIZES}
    if write:
        save_file(crops, FOLDER / "crops.safetensors")
        print(f"{len(crops)} crops written")
        return
    stored = load_file(FOLDER / "crops.safetensors")
    assert stored.keys() == crops.keys(), stored.keys() ^ crops.keys()
    for name, pixels in stored.items():
        difference = (pixels.int() - crops[name].int()).abs().max().item()
        assert difference <= 1, f"{name}: differs by {difference}"
    print(f"{len(crops)} crops agree")


if __name__ == "__main__":
    main()
