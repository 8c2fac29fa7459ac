"""Creates the inputs that both sides of `cargo xtask bench peers` read: photos, captions, models, batches, a data set.

    python inputs.py FOLDER NAME...

NAME is a key of `MAKERS`, or `models/PRESET`. All inputs are computed from fixed seeds, so the project needs no photos. An
existing input is kept unless this script has changed; an incomplete input is created again.
"""

import hashlib
import io
import json
import pathlib
import random
import shutil
import sys

import numpy as np
import open_clip
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

PRESETS = pathlib.Path(__file__).resolve().parents[2] / "crates" / "clip-model" / "configs"
# Photos: count, width and height in pixels, target file size in bytes.
PHOTOS, WIDTH, HEIGHT, BYTES = 48, 500, 375, 106_000
CAPTIONS = 20_000
# Zero-shot data set: number of images, their side in pixels, and the preset of the model.
IMAGES, SIDE, ZERO_SHOT_MODEL = 10_000, 32, "ViT-micro-32px"
START, END = 49406, 49407
# File in each input folder with the SHA-256 of the script that created it.
VERSION = "version"
WORDS = (
    "a the of in on with and two three some old young small large red blue green white black brown wooden stone metal "
    "man woman boy girl child dog cat horse bird sheep cow bear train bus car bicycle boat plane street road bridge "
    "house kitchen table chair bed lamp window door wall garden tree flower grass field river lake beach mountain sky "
    "cloud snow rain sunset night morning city market shop sign clock phone book cup plate bowl pizza cake apple orange "
    "banana sandwich carrot bottle glass standing sitting walking running riding holding eating looking playing jumping "
    "sleeping flying parked near under behind between next front top side group people player team ball racket skateboard"
).split()
SYLLABLES = "ka ro mi ten sol bar vel ist um nor pha dre lin gor esk ura ty pel".split()


def picture(seed, width, height):
    """Returns an RGB image of noise with the 1/f spectrum of photos and correlated channels, and of shapes with edges."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(height)))
    amplitude = 1 / np.maximum(frequency, 1 / max(width, height))

    def noise():
        field = np.fft.ifft2(amplitude * np.exp(2j * np.pi * generator.random((height, width)))).real
        return field / field.std()

    brightness = noise()
    channels = [128 + 45 * brightness + 18 * noise() for _ in range(3)]
    image = Image.fromarray(np.clip(np.stack(channels, 2), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = (int(generator.integers(low, high)) for low, high in ((0, width), (0, height), (4, width // 8)))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        (draw.ellipse if generator.random() < 0.5 else draw.rectangle)(
            [x - radius, y - radius // 2, x + radius, y + radius // 2], fill=colour
        )
    return image


def photos(folder):
    """Writes 4:2:0 JPEG files, each with the quality that gives about `BYTES` bytes, and a crop box for each."""
    generator = random.Random(0)
    crops = []
    for index in range(PHOTOS):
        image = picture(index, WIDTH, HEIGHT)
        files = []
        for quality in range(60, 99, 2):
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, subsampling=2)
            files.append(file.getvalue())
        (folder / f"{index:03}.jpg").write_bytes(min(files, key=lambda file: abs(len(file) - BYTES)))
        width, height = generator.randint(300, WIDTH), generator.randint(250, HEIGHT)
        crops.append([generator.randint(0, WIDTH - width), generator.randint(0, HEIGHT - height), width, height])
    (folder / "crops.json").write_text(json.dumps(crops))


def captions(folder):
    """Writes captions of 5 to 16 words: mostly from `WORDS`, some rare words, with capitals, numbers and punctuation."""
    generator = random.Random(0)
    weights = [1 / (rank + 2) for rank in range(len(WORDS))]

    def word():
        draw = generator.random()
        if draw < 0.06:
            return "".join(generator.choices(SYLLABLES, k=generator.randint(2, 4)))
        return str(generator.randint(0, 2030)) if draw < 0.08 else generator.choices(WORDS, weights)[0]

    lines = []
    for _ in range(CAPTIONS):
        words = [word() for _ in range(generator.randint(5, 16))]
        text = " ".join(words[:3]) + generator.choice([" ", " ", ", ", "'s "]) + " ".join(words[3:])
        lines.append(text[0].upper() + text[1:] + generator.choice(["", ".", ".", "!"]))
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_model(folder, config, model):
    """Writes a model folder in open_clip's format, which both sides read."""
    preprocess = dict(
        size=config["vision_cfg"]["image_size"], mode="RGB", mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD, interpolation="bicubic", resize_mode="shortest",
    )
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg=preprocess)))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata=dict(format="pt"))


def created(preset, seed):
    """Returns the configuration of a preset, and the model with open_clip's initial weights."""
    config = json.loads((PRESETS / f"{preset}.json").read_text())
    torch.manual_seed(seed)
    return config, open_clip.CLIP(**config)


def model(folder, preset):
    save_model(folder, *created(preset, sum(preset.encode())))


def batches(folder, count, side, context, lengths):
    """Writes random images [count, 3, side, side] with mean 0 and standard deviation 1, and tokens [count, context] of texts
    whose lengths, including start and end token, are in the range `lengths`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, side, side, generator=generator)
    tokens = torch.zeros(count, context, dtype=torch.int64)
    for row in tokens:
        length = int(torch.randint(lengths[0], lengths[1] + 1, (), generator=generator))
        row[: length] = torch.randint(1, START, (length,), generator=generator)
        row[0], row[length - 1] = START, END
    save_file(dict(images=images, tokens=tokens), folder / "batches.safetensors")


def class_image(generator, label, patterns, contrast):
    """Returns an image of a class: the pattern of the class, shifted, in strong noise."""
    shift = tuple(int(value) for value in generator.integers(-1, 2, 2))
    pixels = 128 + contrast * np.roll(patterns[label], shift, (0, 1)) + 42 * generator.standard_normal((SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def zero_shot(folder):
    """Writes a folder of images per class, and a model trained for 120 steps on other images of these classes. With random
    weights, both sides could agree by chance."""
    names = ["apple", "bird", "car", "dog", "engine", "flower", "guitar", "house", "island", "jacket"]
    generator = np.random.default_rng(0)
    coarse = generator.standard_normal((len(names), 4, 4, 3)) + generator.standard_normal((len(names), 1, 1, 3))
    patterns = coarse.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    config, clip = created(ZERO_SHOT_MODEL, 0)
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    texts = tokenizer([f"a photo of a {name}." for name in names])
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    for _ in range(120):
        labels = generator.integers(0, len(names), 32)
        images = torch.stack([torch.from_numpy(class_image(generator, label, patterns, 30)) for label in labels])
        images = (images.permute(0, 3, 1, 2) / 255 - mean) / std
        logits = clip.logit_scale.exp() * clip.encode_image(images, True) @ clip.encode_text(texts, True).T
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimizer.step()
    (folder / "model").mkdir()
    save_model(folder / "model", config, clip)
    for label, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(IMAGES // len(names)):
            # Less contrast than in training, so that some images are misclassified.
            pixels = class_image(generator, label, patterns, 8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{index:04}.png")


MAKERS = {
    "photos": photos,
    "captions": captions,
    "batches-224-short": lambda folder: batches(folder, 32, 224, 77, (7, 18)),
    "batches-224-full": lambda folder: batches(folder, 32, 224, 77, (77, 77)),
    "batches-32-short": lambda folder: batches(folder, 256, 32, 32, (7, 18)),
    "zero-shot": zero_shot,
}


def main():
    root = pathlib.Path(sys.argv[1])
    wanted = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    for name in sys.argv[2:]:
        folder = root / name
        version = folder / VERSION
        if version.exists() and version.read_text() == wanted:
            continue
        if folder.exists() and not version.exists():
            sys.exit(f"error: `{folder}` was not made by this script: move it")
        print(f"making {name}", file=sys.stderr)
        partial = folder.with_suffix(".partial")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        partial.mkdir(parents=True)
        if name.startswith("models/"):
            model(partial, name.removeprefix("models/"))
        else:
            MAKERS[name](partial)
        (partial / VERSION).write_text(wanted)
        partial.rename(folder)


if __name__ == "__main__":
    main()
