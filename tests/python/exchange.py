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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor, pipeline

PROGRAM = os.environ["CLIP_DISTILL_BIN"]
TOLERANCE = 1e-4
SIZE = 32
TEXTS = ["a photo of a cat", "two dogs on a beach", "an aeroplane, seen from below"]
LABELS = ["cat", "two dogs", "aeroplane"]
# The template of the program's `plain` prompts.
TEMPLATE = "a photo of a {}."
# Difficult texts for a tokenizer, except those that open_clip repairs first (ftfy, HTML entities).
HARD = [
    "",
    "  It's   TWO\tdogs,\n isn't it?  they'll we've I'm you're he'd ",
    "1999 3.14 50% \u00bd \u2167 \u0663",
    "wow! hi!! (yes) #tag @name a_b a-b \\ / \"q\" {}[]<>|~^`$",
    "Za\u017c\u00f3\u0142\u0107 na\u00efve caf\u00e9 e\u0301 \u00c5NGSTR\u00d6M Stra\u00dfe",
    "\u6771\u4eac\u30bf\u30ef\u30fc \ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0639\u0631\u0628 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f600\U0001f600 \U0001f469\u200d\U0001f467 a\u00a0b \u3000c",
    "antidisestablishmentarianism " * 40,
]
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
    run = subprocess.run([PROGRAM, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def compare(what, found, expected):
    error = (found - expected).abs().max().item() / expected.abs().max().item()
    print(f"{what}: {error:.1e}")
    assert found.shape == expected.shape and error <= TOLERANCE, what


def pictures(folder, size=SIZE):
    """Writes images of the model's own size, so that only the towers are compared."""
    generator = torch.Generator().manual_seed(0)
    for index in range(4):
        pixels = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def ours(model, place):
    """Returns the program's image and text embeddings for a model folder or file."""
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


def classified(model, file):
    """Returns the program's probabilities of the labels."""
    rows = json.loads(program("classify", model, file, "--labels", ",".join(LABELS), "--json"))["labels"]
    found = {row["label"]: row["probability"] for row in rows}
    return torch.tensor([found[label] for label in LABELS])


def as_transformers_users_do(what, folder, context, files):
    """CLIPProcessor and the pipeline give the same results for the folder as `classify`."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    assert processor.tokenizer.model_max_length == context, what
    assert processor.tokenizer.pad_token_id == model.config.text_config.pad_token_id, what
    same_tokens(processor.tokenizer, context)
    ask = pipeline("zero-shot-image-classification", model=str(folder))
    prompts = [TEMPLATE.format(label) for label in LABELS]
    for file in files:
        ours = classified(folder, file)
        inputs = processor(text=prompts, images=Image.open(file), return_tensors="pt", padding=True, truncation=True)
        with torch.no_grad():
            logits = model(**inputs).logits_per_image
        compare(f"{what}: {file.name}, CLIPProcessor", logits.softmax(dim=-1)[0], ours)
        rows = ask(str(file), candidate_labels=LABELS, hypothesis_template=TEMPLATE)
        found = {row["label"]: row["score"] for row in rows}
        compare(f"{what}: {file.name}, pipeline", torch.tensor([found[label] for label in LABELS]), ours)


def same_tokens(tokenizer, context):
    """transformers, open_clip and the program give the same ids for a text."""
    for text in [*TEXTS, *HARD]:
        expected = open_clip.SimpleTokenizer(context_length=context)([text])[0]
        end = expected.argmax().item() + 1
        found = tokenizer([text], truncation=True)["input_ids"][0]
        assert found == expected[:end].tolist(), (text, found, expected)


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=-1)


def start(place, config, preprocess=PREPROCESS):
    """Writes a folder with an open_clip model that has random weights and statistics."""
    torch.manual_seed(1)
    source = open_clip.CLIP(**config)
    with torch.no_grad():
        # Differs from the initial value, and keeps all probabilities below 1.
        source.logit_scale.fill_(2.0)
        for name, buffer in source.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    folder = place / "from-open-clip"
    folder.mkdir()
    save_file(source.state_dict(), folder / "open_clip_model.safetensors")
    description = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    return source, folder


def alone(place, folder, name, expected):
    """A single file, and the path of a folder's weight file, give the same results as the folder."""
    bare = place / f"{folder.name}.safetensors"
    program("convert", folder, "--to", "safetensors", bare)
    with safe_open(bare, "pt") as file:
        stored = json.loads(file.metadata()["open_clip_config"])
    for file in [bare, folder / "open_clip_model.safetensors"]:
        found = ours(file, place)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), (name, file)
    # open_clip builds the model from the metadata and loads the file's weights.
    model = open_clip.CLIP(**stored["model_cfg"])
    model.load_state_dict(load_file(bare), strict=True)


def exchange(place, config):
    """Converts a ViT to every format and back."""
    source, first = start(place, config)
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
    as_transformers_users_do("our Hugging Face folder", face, config["text_cfg"]["context_length"], files)

    # transformers writes the model again, in its own layout.
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

    alone(place, first, "a ViT", ours(first, place))


def mobile(place):
    """Exchanges a MobileNetV3, whose head has different forms in open_clip and in the program."""
    vision = {"timm_model_name": "mobilenetv3_small_100", "timm_pool": "avg", "timm_proj": "", "image_size": 64}
    config = {**CONFIG, "vision_cfg": vision}
    other = {**PREPROCESS, "size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    source, first = start(place, config, other)
    files = pictures(place / "pictures", 64)
    for bias in [True, False]:
        if not bias:
            torch.nn.init.zeros_(source.visual.trunk.classifier.bias)
            save_file(source.state_dict(), first / "open_clip_model.safetensors")
        image, text, _, _ = with_open_clip(first, files)
        found = ours(first, place)
        compare(f"a MobileNetV3 here, bias {bias}, images", found[0], image)
        compare(f"a MobileNetV3 here, bias {bias}, texts", found[1], text)
        back = place / f"to-open-clip-{bias}"
        program("convert", first, "--to", "open-clip", back)
        again = ours(back, place)
        assert torch.equal(again[0], found[0]) and torch.equal(again[1], found[1])
        theirs = with_open_clip(back, files)
        compare(f"our MobileNetV3 in open_clip, bias {bias}, images", theirs[0], image)
        compare(f"our MobileNetV3 in open_clip, bias {bias}, texts", theirs[1], text)
        alone(place, back, "a MobileNetV3", found)

    # Earlier folders and CLIP-KD's files have the layout of an older timm.
    old = place / "old"
    old.mkdir()
    weights = load_file(first / "open_clip_model.safetensors")
    del weights["visual.trunk.classifier.bias"]
    weights["visual.head.proj.weight"] = weights.pop("visual.trunk.classifier.weight")
    save_file(weights, old / "open_clip_model.safetensors")
    described = {"model_cfg": {**config, "vision_cfg": {**vision, "timm_pool": "", "timm_proj": "linear"}}}
    (old / "open_clip_config.json").write_text(json.dumps({**described, "preprocess_cfg": other}))
    found = ours(old, place)
    compare("a MobileNetV3 of before here, images", found[0], image)


# timm towers of each family, and whether open_clip needs their classifier as the projection.
TOWERS = {
    "mobilenetv4_conv_small": True,
    "mobilenetv4_conv_medium": True,
    "mobilenetv4_hybrid_medium": True,
    "convnext_atto": False,
    "convnext_tiny": False,
    "repvit_m0_9": False,
    "fastvit_t8": False,
    "fastvit_mci0": False,
    "efficientvit_b0": True,
}


def mobile_tower(place, tower, classifier):
    """Exchanges a model with a mobile tower: our folder of a model from open_clip loads there again."""
    vision = {"timm_model_name": tower, "timm_pool": "avg", "timm_proj": "" if classifier else "linear", "image_size": 64}
    source, first = start(place, {**CONFIG, "vision_cfg": vision}, {**PREPROCESS, "size": 64})
    files = pictures(place / "pictures", 64)
    image, text, _, _ = with_open_clip(first, files)
    found = ours(first, place)
    compare(f"{tower} here, images", found[0], image)
    compare(f"{tower} here, texts", found[1], text)
    back = place / "to-open-clip"
    program("convert", first, "--to", "open-clip", back)
    theirs = with_open_clip(back, files)
    compare(f"our {tower} in open_clip, images", theirs[0], image)
    compare(f"our {tower} in open_clip, texts", theirs[1], text)
    alone(place, back, tower, found)


def main():
    torch.set_num_threads(1)
    short = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "context_length": 32}}
    cases = {
        "a ViT": lambda place: exchange(place, CONFIG),
        "a ViT with QuickGELU": lambda place: exchange(place, {**CONFIG, "quick_gelu": True}),
        "a ViT with a context of 32": lambda place: exchange(place, short),
        "a MobileNetV3": mobile,
    }
    for tower, classifier in TOWERS.items():
        cases[tower] = lambda place, tower=tower, classifier=classifier: mobile_tower(place, tower, classifier)
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            (place / "pictures").mkdir()
            (place / "texts.txt").write_text("\n".join(TEXTS) + "\n")
            print(f"== {name}")
            case(place)
    print("all embeddings agree")


if __name__ == "__main__":
    main()
