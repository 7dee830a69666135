"""The published detectors on VGG-16, written from the specification image by image and proposal by proposal."""

import math

import torch
import torch.nn.functional as F


def round_half_up(value):
    return math.floor(value + 0.5)


def vgg_features(image, convolutions, *, last_relu, ceil_mode):
    """conv1_1 .. conv5_3 on one image [3, H, W]; ``convolutions`` are thirteen (weight, bias)."""
    x = image[None]
    for number, (weight, bias) in enumerate(convolutions):
        dilation = 2 if number >= 10 else 1  # conv5
        x = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)
        if number < 12 or last_relu:
            x = F.relu(x)
        if number in (1, 3, 6):  # after conv1_2, conv2_2, conv3_3; pool4 is removed
            x = F.max_pool2d(x, 2, ceil_mode=ceil_mode)
    return x[0]


def roi_max_pool(features, box, *, stride, cells):
    """One exclusive box: its first and last pixel rounded to cells of the features, each bin's maximum, 0 if empty."""
    channels, height, width = features.shape
    x1, y1, x2, y2 = (round_half_up(v / stride) for v in (box[0], box[1], box[2] - 1, box[3] - 1))
    columns, rows = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    pooled = torch.zeros(channels, cells, cells)
    for i in range(cells):
        top, bottom = y1 + math.floor(i * rows / cells), y1 + math.ceil((i + 1) * rows / cells)
        for j in range(cells):
            left, right = x1 + math.floor(j * columns / cells), x1 + math.ceil((j + 1) * columns / cells)
            window = features[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            if window.numel():
                pooled[:, i, j] = window.flatten(1).amax(dim=1)
    return pooled


def hidden_of(image, boxes, weights, *, last_relu, ceil_mode):
    """fc7 of each box, [R, 4096]."""
    features = vgg_features(image, weights["conv"], last_relu=last_relu, ceil_mode=ceil_mode)
    rows = []
    for box in boxes.tolist():
        pooled = roi_max_pool(features, box, stride=8, cells=7)
        fc6 = F.relu(F.linear(pooled.flatten(), *weights["fc6"]))
        rows.append(F.relu(F.linear(fc6, *weights["fc7"])))
    return torch.stack(rows)


def scores_of(hidden, heads, num_classes):
    """Image scores [C], proposal scores [R, C] and mean deltas [R, C, 4]; the background column, if any, is the first."""
    proposals = len(hidden)
    class_logits, detection_logits = F.linear(hidden, *heads["class"]), F.linear(hidden, *heads["detection"])
    background = class_logits.shape[1] - num_classes
    image_scores = torch.zeros(num_classes)
    for c in range(num_classes):
        for r in range(proposals):
            over_classes = class_logits[r, background + c].exp() / class_logits[r].exp().sum()
            over_proposals = detection_logits[r, background + c].exp() / detection_logits[:, background + c].exp().sum()
            image_scores[c] += over_classes * over_proposals
    scores = torch.zeros(proposals, num_classes)
    deltas = torch.zeros(proposals, num_classes, 4)
    for weight, bias in heads["refine"]:
        for r in range(proposals):
            logits = F.linear(hidden[r], weight, bias)
            scores[r] += logits.exp()[1:] / logits.exp().sum() / 3
    for weight, bias in heads.get("box", []):
        for r in range(proposals):
            deltas[r] += F.linear(hidden[r], weight, bias).view(1 + num_classes, 4)[1:] / 3
    return image_scores, scores, deltas
