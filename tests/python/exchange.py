"""Models go to Python's open_clip and transformers and come back with the same embeddings.

Run by `cargo xtask test --python`, which sets CLIP_DISTILL_BIN to the program.
"""

import json
import os
import pathlib
import subprocess
import tempfile

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

PROGRAM = os.environ["CLIP_DISTILL_BIN"]
TOLERANCE = 1e-4
SIZE = 32
TEXTS = ["a photo of a cat", "two dogs on a beach", "an aeroplane, seen from below"]
CONFIG = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": SIZE, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PREPROCESS = {
    "size": SIZE,
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def program(*arguments):
    subprocess.run([PROGRAM, *map(str, arguments)], check=True)


def compare(what, found, expected):
    error = (found - expected).abs().max().item() / expected.abs().max().item()
    print(f"{what}: {error:.1e}")
    assert found.shape == expected.shape and error <= TOLERANCE, what


def pictures(folder):
    """Pictures of the model's own size, so that only the towers are compared."""
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        pixels = torch.randint(0, 256, (SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def ours(model, place):
    """Image and text embeddings of the program."""
    images, texts = place / "images.safetensors", place / "texts.safetensors"
    program("embed", model, "--images", place / "pictures", "--out", images, "--force")
    program("embed", model, "--texts", place / "texts.txt", "--out", texts, "--force")
    return load_file(images)["embeddings"], load_file(texts)["embeddings"]


def with_open_clip(folder, files):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(file)) for file in files])
        tokens = tokenizer(TEXTS)
        return model.encode_image(pixels), model.encode_text(tokens), pixels, tokens


def with_transformers(folder, pixels, tokens):
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=tokens, pixel_values=pixels)
    # These two are normalised.
    return output.image_embeds, output.text_embeds


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


def exchange(place, quick_gelu):
    """One model through every format and back."""
    config = {**CONFIG, "quick_gelu": True} if quick_gelu else CONFIG
    torch.manual_seed(1)
    source = open_clip.CLIP(**config)
    first = place / "from-open-clip"
    first.mkdir()
    save_file(source.state_dict(), first / "open_clip_model.safetensors")
    description = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (first / "open_clip_config.json").write_text(json.dumps(description))

    files = pictures(place / "pictures")
    image, text, pixels, tokens = with_open_clip(first, files)
    found = ours(first, place)
    compare("open_clip's folder here, images", found[0], image)
    compare("open_clip's folder here, texts", found[1], text)

    face = place / "to-hugging-face"
    program("convert", first, "--to", "huggingface", face)
    found = with_transformers(face, pixels, tokens)
    compare("our Hugging Face folder in transformers, images", found[0], unit(image))
    compare("our Hugging Face folder in transformers, texts", found[1], unit(text))

    # transformers writes it again, in its own way.
    again = place / "from-transformers"
    CLIPModel.from_pretrained(face).save_pretrained(again)
    found = ours(again, place)
    compare("transformers' folder here, images", found[0], image)
    compare("transformers' folder here, texts", found[1], text)

    back = place / "to-open-clip"
    program("convert", again, "--to", "open-clip", back)
    found = with_open_clip(back, files)
    compare("our open_clip folder in open_clip, images", found[0], image)
    compare("our open_clip folder in open_clip, texts", found[1], text)

    bare = place / "bare.safetensors"
    program("convert", first, "--to", "safetensors", bare)
    whole = load_file(bare)
    assert set(whole) == set(source.state_dict()), "names of a bare file"


def main():
    for quick_gelu in [False, True]:
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            (place / "pictures").mkdir()
            (place / "texts.txt").write_text("\n".join(TEXTS) + "\n")
            print(f"quick_gelu {quick_gelu}")
            exchange(place, quick_gelu)
    print("all embeddings agree")


if __name__ == "__main__":
    main()
