"""Obvious, slow computations of the method's steps: one example, one head, one cell at a time, in float64."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon

from cahp_plugin._compat import attention_maps_enabled


def oracle_signatures(model, batches, size):
    """Resized maps of every example: list of (label, array of shape (layers, heads, size, size))."""
    found = []
    for batch in batches:
        with torch.no_grad(), attention_maps_enabled(model):
            attentions = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
            ).attentions
        for row, label in enumerate(batch["labels"].tolist()):
            real = batch["attention_mask"][row].nonzero().flatten()
            per_layer = []
            for maps in attentions:
                per_head = []
                for head in range(maps.shape[1]):
                    cropped = maps[row, head][real][:, real].double()
                    resized = torch.nn.functional.interpolate(
                        cropped[None, None], size=(size, size), mode="bilinear", align_corners=False, antialias=False
                    )
                    per_head.append(resized[0, 0].numpy())
                per_layer.append(np.stack(per_head))
            found.append((label, np.stack(per_layer)))
    return found


def oracle_distances(model, batches, queries_of=lambda real: real):
    """Mean Jensen-Shannon distance of every pair of heads: SciPy, one example, query and pair at a time."""
    total, count = 0.0, 0
    for batch in batches:
        with torch.no_grad(), attention_maps_enabled(model):
            attentions = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
            ).attentions
        for row in range(len(batch["input_ids"])):
            real = batch["attention_mask"][row].nonzero().flatten()
            maps = np.concatenate([layer[row].double().numpy() for layer in attentions])
            for query in queries_of(real).tolist():
                p = maps[:, query][:, real]
                total = total + np.array([[jensenshannon(a, b) for a in p] for b in p])
                count += 1
    found = total / count
    np.fill_diagonal(found, 0)
    return found


def oracle_separation(signatures, variance_floor=1e-6):
    """X of shape (N, pairs * cells) from the definitions, pair by pair and head by head."""
    classes = sorted({label for label, _ in signatures})
    values = {c: np.stack([maps for label, maps in signatures if label == c]) for c in classes}
    layers, heads = signatures[0][1].shape[:2]
    rows = []
    for layer in range(layers):
        for head in range(heads):
            columns = []
            for a, b in combinations(classes, 2):
                m1, m2 = values[a][:, layer, head].mean(axis=0), values[b][:, layer, head].mean(axis=0)
                s1 = np.maximum(values[a][:, layer, head].var(axis=0, ddof=1), variance_floor)
                s2 = np.maximum(values[b][:, layer, head].var(axis=0, ddof=1), variance_floor)
                bh = 0.25 * (m1 - m2) ** 2 / (s1 + s2) + 0.5 * np.log((s1 + s2) / (2 * np.sqrt(s1 * s2)))
                columns.append((2 * (1 - np.exp(-bh))).ravel())
            rows.append(np.concatenate(columns))
    return np.stack(rows)


def oracle_salience(model, examples, layer_modules, num_heads):
    """Mean |dL/dm| per (layer, head): one forward and one backward pass for each example alone."""
    totals = np.zeros((len(layer_modules), num_heads))
    for example in examples:
        masks = [torch.ones(num_heads, dtype=torch.float64, requires_grad=True) for _ in layer_modules]

        def hook(mask):
            return lambda module, inputs: (
                (inputs[0].unflatten(-1, (num_heads, -1)) * mask.to(inputs[0].dtype)[:, None]).flatten(-2),
            )

        handles = [m.register_forward_pre_hook(hook(mask)) for m, mask in zip(layer_modules, masks, strict=True)]
        loss = torch.nn.functional.cross_entropy(
            model(input_ids=example["input_ids"], attention_mask=example["attention_mask"]).logits, example["labels"]
        )
        for layer, gradient in enumerate(torch.autograd.grad(loss, masks)):
            totals[layer] += gradient.abs().numpy()
        for handle in handles:
            handle.remove()
    return totals / len(examples)
