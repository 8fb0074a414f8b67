"""Computes Grad-CAM attention maps, which show where a network looks.

The map of the class b with score y^b is (Selvaraju et al. 2017; Dhar et al. 2019, eq. 2):

    Q = ReLU(sum_k alpha_k A_k),   alpha_k = mean over the map of d y^b / d A_k

With global average pooling and one linear layer, y^b = sum_k W[b, k] * mean(A_k) + bias[b], so
alpha_k = W[b, k] / (h * w), and the map needs no backward pass. (A head that also reads earlier blocks adds a
term that does not depend on A.) Training uses this closed form, `attention_map`. `grad_cam` computes the map
by its definition, with autograd, for any other head. The tests compare the two. Both need dropout and
stochastic depth to be off.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_map(features: Tensor, head_weight: Tensor, class_index: Tensor) -> Tensor:
    """Computes the Grad-CAM map of one class for each image, in closed form.

    Gradients flow to the features and, through alpha, to the head's weight.

    Args:
        features: Last feature maps A [B, d, h, w]; half precision is widened to float32.
        head_weight: Part of the linear head's weight W that reads A [classes, d].
        class_index: Index of the class b whose map is wanted, for each image [B] int64.

    Returns:
        Maps Q [B, h, w] >= 0, float32 or wider.
    """
    with torch.autocast(features.device.type, enabled=False):
        A = features.to(torch.promote_types(features.dtype, torch.float32))
        cells = A.shape[2] * A.shape[3]
        alpha = head_weight[class_index].to(A.dtype) / cells
        return torch.relu(torch.einsum("bk,bkhw->bhw", alpha, A))


def grad_cam(features: Tensor, scores: Tensor, *, create_graph: bool = False) -> Tensor:
    """Computes the Grad-CAM map by its definition, for a head of any kind.

    Args:
        features: Last feature maps A [B, d, h, w], from which the scores were computed with autograd on.
        scores: Score y^b of each image [B], before sigmoid or softmax.
        create_graph: Whether gradients can flow through alpha too.

    Returns:
        Maps Q [B, h, w] >= 0, in the features' dtype.
    """
    # No image affects another's score, so the gradient of the sum is the gradient of each image's own score.
    (gradient,) = torch.autograd.grad(scores.sum(), features, create_graph=create_graph, retain_graph=True)
    alpha = gradient.mean((2, 3))
    return torch.relu(torch.einsum("bk,bkhw->bhw", alpha, features))
