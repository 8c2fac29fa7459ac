"""Decodes and transforms JPEG images with Pillow and torchvision, as open_clip does."""

import io
import json
import pathlib

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

# Number of images whose pixels are compared.
COMPARED = 8


class Images:
    """Photos in memory. A round decodes and transforms each of them once."""

    def __init__(self, case):
        folder = pathlib.Path(case["folder"])
        self.files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
        self.size, self.training = case["size"], case["training"]
        self.crops = json.loads((folder / "crops.json").read_text())
        self.transform = image_transform(
            self.size, is_train=self.training, mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD
        )

    def check(self):
        files = self.files[:COMPARED]
        if not self.training:
            return torch.stack([self.transform(Image.open(io.BytesIO(file))) for file in files]).flatten()
        # The two sides draw different random crops, so the comparison uses given crops.
        return torch.stack([self.cropped(file, crop) for file, crop in zip(files, self.crops)]).flatten()

    def cropped(self, file, crop):
        left, top, width, height = crop
        image = Image.open(io.BytesIO(file)).convert("RGB")
        size = [self.size, self.size]
        image = F.resized_crop(image, top, left, height, width, size, InterpolationMode.BICUBIC, antialias=True)
        return F.normalize(F.to_tensor(image), OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)

    def round(self):
        for file in self.files:
            self.transform(Image.open(io.BytesIO(file)))
        return len(self.files)
