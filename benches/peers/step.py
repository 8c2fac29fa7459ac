"""Training and distillation steps like those of open_clip's training loop, on tensors in memory."""

import contextlib
import json
import math
import pathlib

import open_clip
import torch
from losses import Distillation, contrastive
from safetensors.torch import load_file

# open_clip's AdamW settings for ViT.
BETAS, EPSILON, WEIGHT_DECAY = (0.9, 0.98), 1e-6, 0.2


def load(folder):
    """Loads a model folder in open_clip's format."""
    folder = pathlib.Path(folder)
    model = open_clip.CLIP(**json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return model


def parameter_groups(named):
    """Splits parameters into groups without and with weight decay by open_clip's rule."""
    plain, decayed = [], []
    for name, parameter in named:
        is_plain = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        (plain if is_plain else decayed).append(parameter)
    return [dict(params=plain, weight_decay=0.0), dict(params=decayed, weight_decay=WEIGHT_DECAY)]


class Step:
    """Training steps, with a live teacher if the case has one. A round trains for `round_steps` steps."""

    def __init__(self, case):
        self.case = case
        self.student = load(case["student"]).train()
        self.distillation = None
        named = list(self.student.named_parameters())
        if case["teacher"]:
            self.distillation = Distillation(load(case["teacher"]))
            named += self.distillation.named_parameters()
        self.optimizer = torch.optim.AdamW(parameter_groups(named), lr=case["lr"], betas=BETAS, eps=EPSILON)
        tensors = load_file(case["batches"])
        self.batches = list(zip(*(tensors[name].split(case["batch"]) for name in ("images", "tokens"))))
        self.done = 0

    def precision(self):
        if self.case["precision"] == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def step(self):
        """Runs one training step and returns the loss before the update."""
        images, tokens = self.batches[self.done % len(self.batches)]
        self.done += 1
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision():
            image, text, scale = self.student(images, tokens)
            if self.distillation is None:
                loss = contrastive(scale * image @ text.T, scale * text @ image.T)
            else:
                loss = self.distillation(images, tokens, image, text, scale)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.student.logit_scale.clamp_(0, math.log(100))
        return loss.item()

    def check(self):
        return [self.step() for _ in range(self.case["check_steps"])]

    def round(self):
        for _ in range(self.case["round_steps"]):
            self.step()
        return self.case["round_steps"] * self.case["batch"]
