"""Reference values of losses that no published code computes: `tests/golden/losses-extra`.

Each loss is written here from its formula in docs/methods.md (MFD: Yang et al. 2024; cosine: DCLIP; tokens:
Romero et al. 2015; the rest: this project), in float64, row by row, and shares no code with the crate
`kd-losses`. Autograd gives the gradients.

    python tests/python/golden_losses.py            recompute everything and compare with the stored files
    python tests/python/golden_losses.py --write    write the files

A file holds `<loss>.value` and `<loss>.grad.<input>` for each loss, and the sizes of its inputs as metadata.
Inputs are not stored: each is named, and `unit` computes it from its name, here and in `tests/src/fill.rs`.
Student embeddings are raw, and a loss normalises them; teacher embeddings, class weights and anchors are unit
rows. The learned affine maps are those of the crate, named `<tag>.loss.<part>`.
"""

import pathlib
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "golden" / "losses-extra"

STUDENT_SCALE, TEACHER_SCALE = 20.0, 50.0
TEMPERATURES = (0.02, 0.07, 0.2)  # of the project's own losses
HINTON_TEMPERATURE = 4.0

CASES = {
    "same-width": dict(
        tag="extra-same", batch=6, student_width=16, teacher_width=16, classes=5, anchors=9,
        student_grid=2, teacher_grid=2, student_image_width=12, teacher_image_width=12,
        student_text_width=8, teacher_text_width=8, text_length=4, image_blocks=2, text_blocks=1,
    ),
    "wider-teacher": dict(
        tag="extra-wider", batch=5, student_width=12, teacher_width=20, classes=7, anchors=6,
        student_grid=2, teacher_grid=3, student_image_width=10, teacher_image_width=14,
        student_text_width=6, teacher_text_width=10, text_length=5, image_blocks=2, text_blocks=2,
    ),
}


def unit(name, shape):
    """Named numbers in [-1, 1): splitmix64, seeded by the FNV-1a hash of the name."""
    mask, seed = (1 << 64) - 1, 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & mask
    values = []
    for place in range(1, int(np.prod(shape)) + 1):
        z = (seed + place * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        values.append(2.0 * ((z >> 40) / 2.0**24) - 1.0)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def parameter(name, shape):
    """The named value of an affine map: a weight is scaled by sqrt(3 / fan-in), a bias by 0.05, in float32."""
    values = unit(name, shape).float()
    factor = np.sqrt(3.0 / shape[1]) if len(shape) == 2 else 0.05
    return (torch.tensor(factor, dtype=torch.float32) * values).double()


def rows(x):
    return x / x.norm(dim=-1, keepdim=True)


class Inputs:
    """Leaves of the student and constants of the teacher, for one case."""

    def __init__(self, case):
        self.case, self.leaves = case, {}
        tag, batch = case["tag"], case["batch"]
        ds, dt = case["student_width"], case["teacher_width"]
        fixed = lambda name, *shape: unit(f"{tag}.{name}", shape)
        self.image, self.text = self.leaf("student_image", batch, ds), self.leaf("student_text", batch, ds)
        self.masked = self.leaf("masked_image", batch, ds)
        self.classes = rows(self.leaf("student_classes", case["classes"], ds))
        self.scale = self.leaves["student_logit_scale"] = torch.tensor(STUDENT_SCALE).double().requires_grad_()
        self.teacher_image, self.teacher_text = (rows(fixed(f"teacher_{x}", batch, dt)) for x in ("image", "text"))
        self.teacher_classes = rows(fixed("teacher_classes", case["classes"], dt))
        self.anchor_image, self.anchor_text = (rows(fixed(f"anchor_{x}", case["anchors"], dt)) for x in ("image", "text"))
        # Student states are leaves; the affine map is applied only if the widths differ.
        ws, wt = case["student_image_width"], case["teacher_image_width"]
        us, ut = case["student_text_width"], case["teacher_text_width"]
        gs, gt, length = case["student_grid"] ** 2, case["teacher_grid"] ** 2, case["text_length"]
        self.patches = self.leaf("student_patches", batch, gs, ws), fixed("teacher_patches", batch, gt, wt)
        self.image_blocks = [
            (self.leaf(f"student_image_block.{k}", batch, 1 + gs, ws), fixed(f"teacher_image_block.{k}", batch, 1 + gt, wt))
            for k in range(case["image_blocks"])
        ]
        self.text_blocks = [
            (self.leaf(f"student_text_block.{k}", batch, length, us), fixed(f"teacher_text_block.{k}", batch, length, ut))
            for k in range(case["text_blocks"])
        ]
        self.text_counts = fixed("text_counts", batch, length) > -0.5

    def leaf(self, name, *shape):
        self.leaves[name] = unit(f"{self.case['tag']}.{name}", shape).requires_grad_()
        return self.leaves[name]

    def mapped(self, x, part, width):
        """`x` through the learned affine map `part` to `width`; unchanged if it has that width."""
        if x.shape[-1] == width:
            return x
        for kind, shape in (("weight", (width, x.shape[-1])), ("bias", (width,))):
            name = f"loss.{part}.{kind}"
            if name not in self.leaves:
                self.leaves[name] = parameter(f"{self.case['tag']}.{name}", shape).requires_grad_()
        return x @ self.leaves[f"loss.{part}.weight"].T + self.leaves[f"loss.{part}.bias"]

    def projected(self, image):
        width = self.case["teacher_width"]
        return rows(self.mapped(image, "visual_proj", width)), rows(self.mapped(self.text, "text_proj", width))


def divergence(student, teacher, temperature):
    """KL(teacher || student) of two lists of cosines."""
    p = torch.softmax(teacher / temperature, 0)
    return (p * (torch.log_softmax(teacher / temperature, 0) - torch.log_softmax(student / temperature, 0))).sum()


def relations(pairs):
    """Mean over matrices, rows and temperatures of the divergence.

    A pair is (student queries, student keys, teacher queries, teacher keys, whether query i is key i and left out).
    """
    values = []
    for a, b, u, v, own in pairs:
        of_matrix = []
        for i in range(len(a)):
            keep = [j for j in range(len(b)) if not (own and i == j)]
            student, teacher = torch.stack([a[i] @ b[j] for j in keep]), torch.stack([u[i] @ v[j] for j in keep])
            of_matrix += [divergence(student, teacher, t) for t in TEMPERATURES]
        values.append(torch.stack(of_matrix).mean())
    return torch.stack(values).mean()


def squared(a, b):
    return (rows(a) - rows(b)).square().mean()


def regrid(patches, side):
    """Bilinear interpolation of a square grid of patches [batch, n, width]; pixel centres, no aligned corners."""
    batch, count, width = patches.shape
    grid = patches.reshape(batch, int(count**0.5), int(count**0.5), width).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(batch, side * side, width)


def mfd(x):
    image, text = x.projected(x.masked)
    return (image - x.teacher_image).square().mean() + (text - x.teacher_text).square().mean()


def cosine(x):
    image, text = x.projected(x.image)
    return (1 - (image * x.teacher_image).sum(1)).mean() + (1 - (text * x.teacher_text).sum(1)).mean()


def hinton(x):
    student = x.scale * rows(x.image) @ x.classes.T
    teacher = TEACHER_SCALE * x.teacher_image @ x.teacher_classes.T
    return HINTON_TEMPERATURE**2 * torch.stack([divergence(s, t, HINTON_TEMPERATURE) for s, t in zip(student, teacher)]).mean()


def patch_tokens(x):
    student, teacher = x.patches
    return squared(regrid(x.mapped(student, "patch_proj", teacher.shape[-1]), x.case["teacher_grid"]), teacher)


def hidden(x):
    side, image, text = x.case["teacher_grid"], [], []
    for k, (student, teacher) in enumerate(x.image_blocks):
        student = x.mapped(student, f"image_block_proj.{k}", teacher.shape[-1])
        image.append(squared(torch.cat([student[:, :1], regrid(student[:, 1:], side)], 1), teacher))
    for k, (student, teacher) in enumerate(x.text_blocks):
        student = x.mapped(student, f"text_block_proj.{k}", teacher.shape[-1])
        text.append((rows(student) - rows(teacher)).square().mean(2)[x.text_counts].mean())
    return torch.stack(image).mean() + torch.stack(text).mean()


def gram(x):
    joint, teacher = torch.cat([rows(x.image), rows(x.text)]), torch.cat([x.teacher_image, x.teacher_text])
    return relations([(joint, joint, teacher, teacher, True)])


def gram_image_image(x):
    return relations([(rows(x.image), rows(x.image), x.teacher_image, x.teacher_image, True)])


def gram_text_text(x):
    return relations([(rows(x.text), rows(x.text), x.teacher_text, x.teacher_text, True)])


def gram_image_text(x):
    image, text = rows(x.image), rows(x.text)
    return relations([(image, text, x.teacher_image, x.teacher_text, False), (text, image, x.teacher_text, x.teacher_image, False)])


def anchors(x):
    bank = torch.cat([x.anchor_image, x.anchor_text])
    return relations([(torch.cat(x.projected(x.image)), bank, torch.cat([x.teacher_image, x.teacher_text]), bank, False)])


def anchors_within(x):
    image, text = x.projected(x.image)
    return relations([(image, x.anchor_image, x.teacher_image, x.anchor_image, False), (text, x.anchor_text, x.teacher_text, x.anchor_text, False)])


def anchors_across(x):
    image, text = x.projected(x.image)
    return relations([(image, x.anchor_text, x.teacher_image, x.anchor_text, False), (text, x.anchor_image, x.teacher_text, x.anchor_image, False)])


def vocabulary(x):
    image, teacher, own, theirs = rows(x.image), x.teacher_image, x.classes, x.teacher_classes
    return relations([(image, own, teacher, theirs, False), (own, image, theirs, teacher, False), (own, own, theirs, theirs, True)])


LOSSES = (
    mfd, cosine, hinton, patch_tokens, hidden, gram, gram_image_image, gram_text_text, gram_image_text, anchors,
    anchors_within, anchors_across, vocabulary,
)


def compute(case):
    found = {}
    for loss in LOSSES:
        inputs = Inputs(case)
        value = loss(inputs)
        value.backward()
        found[f"{loss.__name__}.value"] = value.detach().reshape(1).float()
        for name, leaf in inputs.leaves.items():
            if leaf.grad is not None:
                found[f"{loss.__name__}.grad.{name}"] = leaf.grad.float().contiguous()
    return found


def main():
    for name, case in CASES.items():
        path, found = FOLDER / f"{name}.safetensors", compute(case)
        if sys.argv[1:] == ["--write"]:
            FOLDER.mkdir(exist_ok=True)
            save_file(found, path, metadata={key: str(value) for key, value in case.items()})
            print(f"{path.name}: {len(found)} tensors written")
            continue
        with safe_open(path, "pt") as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}
        assert stored.keys() == found.keys(), f"{path.name}: {stored.keys() ^ found.keys()}"
        for key, value in stored.items():
            assert torch.allclose(value, found[key], rtol=1e-6, atol=1e-9), f"{path.name}: {key} differs"
        print(f"{path.name}: {len(found)} tensors agree")


if __name__ == "__main__":
    main()
