"""Reference values of timm's towers: `tests/golden/models/timm` and `tests/golden/training-mode`.

open_clip builds each tower with the installed timm. Weights and images are not stored: each is named, and `unit`
computes it from its name, here and in `tests/src/fill.rs`.

    python tests/python/golden_towers.py            recompute everything and compare with the stored files
    python tests/python/golden_towers.py --write    write the files
    python tests/python/golden_towers.py --table    print parameter counts and digests of all supported names
"""

import json
import pathlib
import sys

import numpy as np
import open_clip
import timm
import torch
from safetensors.torch import load_file, save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
SIZE, EMBED = 96, 32
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
MASK = (1 << 64) - 1

# Towers whose features open_clip counts before their last layers; it needs their classifier as the projection.
CLASSIFIERS = {"mobilenetv4": "classifier", "efficientvit": "head.classifier.4"}
TOWERS = [
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium",
    "mobilenetv4_hybrid_medium",
    "convnext_atto",
    "convnext_tiny",
    "repvit_m1_0",
    "fastvit_t8",
    "fastvit_mci0",
    "efficientvit_b0",
]
NAMES = [
    *("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_hybrid_medium"),
    *(f"convnext_{size}" for size in ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large")),
    *(f"repvit_{size}" for size in ("m0_9", "m1_0", "m1_1", "m1_5", "m2_3")),
    *(f"fastvit_{size}" for size in ("t8", "t12", "s12", "sa12", "sa24", "mci0", "mci1", "mci2")),
    *(f"efficientvit_{size}" for size in ("b0", "b1", "b2", "b3")),
]


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def unit(name, shape):
    """Named float32 numbers in [-1, 1): splitmix64, seeded by the FNV-1a hash of the name."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    values = 2.0 * ((z >> np.uint64(40)).astype(np.float64) / 2.0**24) - 1.0
    return values.astype(np.float32).reshape(shape)


def parameter(name, shape):
    """The named value of a state-dict entry, as in `tests/src/fill.rs`."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("logit_scale"):
        return torch.full(shape, np.float32(np.log(1 / 0.07)))
    values, f = unit(name, shape), np.float32
    if name.endswith("running_var"):
        values = f(0.75) + f(0.25) * values
    elif name.endswith("running_mean"):
        values = f(0.1) * values
    elif len(shape) <= 1:
        values = f(1.0) + f(0.1) * values if name.endswith("weight") else f(0.05) * values
    else:
        values = f(np.sqrt(3.0 / (values.size / shape[0]))) * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def classifier(tower):
    return next((path for family, path in CLASSIFIERS.items() if tower.startswith(family)), None)


def build(tower):
    """Returns the model with named weights, its configuration for the crate, and the crate's name of each entry."""
    vision = {"timm_model_name": tower, "timm_pool": "", "timm_proj": "linear", "image_size": SIZE}
    path = classifier(tower)
    theirs = {**vision, "timm_pool": "avg", "timm_proj": ""} if path else vision
    ours = {**vision, "timm_proj_bias": True} if path else vision
    model = open_clip.CLIP(embed_dim=EMBED, vision_cfg=theirs, text_cfg=TEXT)

    def rename(name):
        return name.replace(f"visual.trunk.{path}.", "visual.head.proj.") if path else name

    state = model.state_dict()
    model.load_state_dict({name: parameter(rename(name), tuple(value.shape)) for name, value in state.items()})
    return model.eval(), {"embed_dim": EMBED, "vision_cfg": ours, "text_cfg": TEXT}, rename


def images(batch):
    return torch.from_numpy(unit("input.image", (batch, 3, SIZE, SIZE)) * np.float32(2.0))


def forward(tower):
    model, config, rename = build(tower)
    tokens = torch.from_numpy((unit(f"{tower}.tokens", (3, 8)) * 30 + 31).astype(np.int64))
    for row, end in enumerate((3, 7, 5)):
        tokens[row, end] = 63
    with torch.no_grad():
        image, text = model.encode_image(images(2)), model.encode_text(tokens)
        unit_rows = torch.nn.functional.normalize
        logits = model.logit_scale.exp() * unit_rows(image, dim=-1) @ unit_rows(text, dim=-1).T
    counted = {rename(name): value.numel() for name, value in model.named_parameters()}
    golden = {
        "name": f"timm/{tower}",
        "versions": {"timm": timm.__version__, "open_clip": open_clip.__version__},
        "config": config,
        "parameters": sum(counted.values()),
        "vision_parameters": sum(count for name, count in counted.items() if name.startswith("visual.")),
        "image_input": {"name": "input.image", "shape": [2, 3, SIZE, SIZE], "scale": 2.0},
        "state_dict": [[rename(name), list(value.shape)] for name, value in model.state_dict().items()],
    }
    tensors = {"tokens": tokens, "image_features": image, "text_features": text, "logits_per_image": logits}
    return golden, {name: tensor.contiguous() for name, tensor in tensors.items()}


def training(tower):
    model, config, rename = build(tower)
    model.train()
    features = model.encode_image(images(4))
    probe = torch.from_numpy(unit("probe", tuple(features.shape)))
    loss = (features * probe).mean()
    loss.backward()
    named = [(rename(name), value) for name, value in model.named_parameters()]
    running = [(rename(name), value) for name, value in model.named_buffers() if "running_" in name]
    return {
        "config": config,
        "image_input": {"shape": [4, 3, SIZE, SIZE], "scale": 2.0},
        "value": loss.item(),
        "grad_norm": {name: value.grad.norm().item() for name, value in named if value.grad is not None},
        "running": {name: [value.mean().item(), value.norm().item()] for name, value in running},
    }


def lines(golden):
    """JSON with one entry of a long list or object on each line."""
    text = json.dumps(golden)
    for end in ("], [", ', "visual.'):
        text = text.replace(end, end.replace(" ", "\n", 1))
    return text + "\n"


def close(found, stored, what):
    found, stored = np.asarray(found, dtype=np.float64), np.asarray(stored, dtype=np.float64)
    assert np.abs(found - stored).max() <= 1e-4 * np.abs(stored).max() + 1e-9, what


def table():
    for name in NAMES:
        trunk = timm.create_model(name, num_classes=0 if not classifier(name) else EMBED)
        path = classifier(name)
        entries = {key: value for key, value in trunk.state_dict().items() if not path or not key.startswith(path)}
        names = {key for key, _ in trunk.named_parameters()} & entries.keys()
        text = "\n".join(f"{key} {list(value.shape)}" for key, value in sorted(entries.items()))
        count = sum(entries[key].numel() for key in names)
        print(f'    ("{name}", {count}, 0x{fnv(text):016x}),')


def main():
    torch.set_num_threads(1)
    if "--table" in sys.argv:
        return table()
    write = "--write" in sys.argv
    (GOLDEN / "models" / "timm").mkdir(exist_ok=True)
    for tower in TOWERS:
        golden, tensors = forward(tower)
        steps = training(tower)
        file = GOLDEN / "models" / "timm" / f"{tower.replace('_', '-')}.json"
        train = GOLDEN / "training-mode" / f"timm--{file.name}"
        if write:
            file.write_text(lines(golden))
            save_file(tensors, file.with_suffix(".safetensors"))
            train.write_text(lines(steps))
            continue
        stored = json.loads(file.read_text())
        assert {**golden, "versions": None} == {**stored, "versions": None}, tower
        for name, tensor in load_file(file.with_suffix(".safetensors")).items():
            close(tensors[name], tensor, f"{tower}: {name}")
        close(steps["value"], json.loads(train.read_text())["value"], f"{tower}: loss")
    print("written" if write else "all values agree")


if __name__ == "__main__":
    main()
