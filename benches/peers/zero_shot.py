"""Evaluates a model zero-shot with open_clip and prints the top-1 accuracy as JSON.

    python zero_shot.py MODEL IMAGES THREADS

MODEL is a folder in open_clip's format, IMAGES a folder with one subfolder per class. THREADS is the number of torch threads
and of data loader processes.
"""

import json
import sys

import open_clip
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

BATCH = 256


def main():
    folder, images, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    data = ImageFolder(images, transform)
    classifier = open_clip.build_zero_shot_classifier(
        model, tokenizer, data.classes, ["a photo of a {}.".format], num_classes_per_batch=None
    )
    right = 0
    with torch.inference_mode():
        for pixels, labels in DataLoader(data, BATCH, num_workers=threads):
            scores = model.encode_image(pixels, normalize=True) @ classifier
            right += int((scores.argmax(1) == labels).sum())
    print(json.dumps(dict(top1=right / len(data), images=len(data))))


if __name__ == "__main__":
    main()
