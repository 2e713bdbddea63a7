"""What the arguments of many losses mean, for :func:`fastssl._docs.complete`.

A loss's docstring says what is its own: the formula, the arguments that no other loss has, the example and the paper.
"""

from __future__ import annotations

from fastssl._docs import Docstring, entries

_FLOATS = "float32, float64, bfloat16 or float16 (computed in fp32), any strides"
ARGUMENTS = entries(
    {
        "embeddings": f"[N, D], {_FLOATS}.",
        "labels": "[N], integers; rows with equal labels are positives of each other.",
        "z0": f"[N, D], the first view of each example, {_FLOATS}.",
        "z1": "[N, D], the second view; row i of both views is the same example.",
        "x": f"[N, D], {_FLOATS}.",
        "y": "[M, D]; None: x itself.",
        "image_features": f"[N, D], {_FLOATS}.",
        "text_features": "[N, D]; row i belongs to image i.",
        "logit_scale": "s, the factor itself and not its logarithm; a number or a tensor of one element.",
        "weight": "[C, D], one centre per class.",
        "proxies": "[C, D], one per class.",
        "center": "[K], a running mean of the teacher's logits.",
        "temperature": "tau > 0; a number or a tensor of one element, which receives a gradient.",
        "scale": "s > 0, the inverse of a temperature.",
        "ids": "[N], integers: rows of equal ids are not negatives of each other; None: all rows are.",
        "label_smoothing": "in [0, 1]: the share of the target that is uniform; not together with ``ids``.",
        "normalize": "divide each row by its Euclidean norm first.",
        "eps": "what norms are at least taken for, > 0, as in ``torch.nn.functional.normalize``; None: 1e-12, and for "
        "float16, where that is 0, 2^-14.",
        "reduction": '"mean" | "active": the mean over what is above 0 | "sum" | "none".',
        "indices_tuple": "only these pairs, as miners return them: (anchors, positives, anchors, negatives) or "
        "(anchors, positives, negatives); a pair that is listed twice counts once.",
        "ref_emb": "[M, D]: rows to compare with instead of ``embeddings``, such as a memory of past batches; None: "
        "``embeddings``, each row without itself.",
        "ref_labels": "[M], integers: the labels of ``ref_emb``.",
        "metric": "as :func:`pairwise_distance`.",
        "backend": '"reference" | "cpu" | "triton"; None: by device and dtype.',
        "group": '"world", a ProcessGroup or one dimension of a DeviceMesh: the loss of the rows of all its processes, '
        "of which each passes its own (:func:`fastssl.distributed.sharded` says what the gradients are); None: of "
        "these rows alone.",
        "schedule": 'with ``group``: "all_gather" | "ring" | "auto", by the memory budget.',
        # of modules
        "learnable": "learn the temperature, as its logarithm ``log_temperature``, from ``temperature`` on.",
        "num_classes": "C, the number of classes.",
        "embedding_size": "D, the number of features per row.",
    }
)
ERRORS = entries(
    {
        "TypeError": "an argument of the wrong type or dtype.",
        "ValueError": "wrong shape, device or length, a value out of range, or an unknown option.",
    }
)


def returns(doc: Docstring) -> str:
    each = ', or [N] for "none"' if '"none"' in doc.entries["Args"].get("reduction", "") else ""
    return f"\n    A scalar{each}; float64 for float64 inputs, else float32."
