"""CLIP's contrastive loss, and CLIP-KD's losses (Yang et al. 2024) with a live teacher.

Written from the formulas in docs/methods.md: CRD, FD with weight 2000, and ICL.
"""

import math

import torch
from torch.nn import functional as F

FD_WEIGHT = 2000.0


def contrastive(image_to_text, text_to_image):
    """Returns the mean of both cross-entropies; row i matches column i."""
    targets = torch.arange(len(image_to_text))
    return (F.cross_entropy(image_to_text, targets) + F.cross_entropy(text_to_image, targets)) / 2


def divergence(logits, target):
    """Returns KL(softmax(target) || softmax(logits)), averaged over rows."""
    return F.kl_div(F.log_softmax(logits, 1), F.log_softmax(target, 1), reduction="batchmean", log_target=True)


class Distillation(torch.nn.Module):
    """Sum of the task loss, CRD, 2000 FD and ICL, given a teacher. Both models have the same embed dim, so no projection is
    needed. The scale of ICL is learned and applied without exp."""

    def __init__(self, teacher):
        super().__init__()
        # The list keeps the frozen teacher out of the module's parameters.
        self.teacher = [teacher.eval().requires_grad_(False)]
        self.cross_logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images, tokens, image, text, scale):
        with torch.no_grad():
            teacher_image, teacher_text, teacher_scale = self.teacher[0](images, tokens)
            teacher_logits = teacher_scale * teacher_image @ teacher_text.T
        logits = scale * image @ text.T
        task = contrastive(logits, logits.T)
        crd = (divergence(logits, teacher_logits) + divergence(logits.T, teacher_logits.T)) / 2
        fd = F.mse_loss(image, teacher_image) + F.mse_loss(text, teacher_text)
        icl = contrastive(
            self.cross_logit_scale * image @ teacher_text.T, self.cross_logit_scale * text @ teacher_image.T
        )
        return task + crd + FD_WEIGHT * fd + icl
