# SPDX-License-Identifier: Apache-2.0
"""NMS at the end of an ONNX graph."""
from typing import Any

from .engines import require_package
from .info import DeployInfo

OUTPUTS = ('boxes', 'scores')
# `NonMaxSuppression` gives one list for all images and classes; the rest
# picks the K best of each image without a loop or a scatter. The K rows that
# `filled` has more are of no image, so that each finds as many as it must
# return.
_GRAPH = '''
nms (float[N, A, 4] raw_boxes, float[N, A, C] raw_scores) => (
    int64[N, 1] num_dets, float[N, {count}, 4] boxes,
    float[N, {count}] scores, int64[N, {count}] labels)
<int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] last = {{-1}},
 int64[1] count = {{{count}}}, int64 first = {{0}}, int64 second = {{1}},
 int64 third = {{2}}, int64 no_label = {{-1}},
 float iou = {{{iou}}}, float score = {{{score}}},
 float minus_one = {{-1}}, float none = {{0}}>
{{
    {one_label}
    by_class = Transpose <perm = [0, 2, 1]> (own_scores)
    kept = NonMaxSuppression (raw_boxes, by_class, count, iou, score)
    kept_scores = GatherND (by_class, kept)
    empty_image = Expand (no_label, count)
    empty_place = Expand (first, count)
    empty_score = Expand (minus_one, count)
    kept_images = Gather <axis = 1> (kept, first)
    kept_classes = Gather <axis = 1> (kept, second)
    kept_boxes = Gather <axis = 1> (kept, third)
    images = Concat <axis = 0> (kept_images, empty_image)
    classes = Concat <axis = 0> (kept_classes, empty_place)
    places = Concat <axis = 0> (kept_boxes, empty_place)
    filled = Concat <axis = 0> (kept_scores, empty_score)
    shape = Shape (raw_boxes)
    number = Gather (shape, first)
    numbers = Range (first, number, second)
    rows = Unsqueeze (numbers, one)
    columns = Unsqueeze (images, zero)
    is_own = Equal (rows, columns)
    image_scores = Where (is_own, filled, minus_one)
    top, index = TopK <axis = 1> (image_scores, count)
    is_real = Greater (top, minus_one)
    scores = Where (is_real, top, none)
    found_labels = Gather (classes, index)
    labels = Where (is_real, found_labels, no_label)
    found_places = Gather (places, index)
    box_index = Unsqueeze (found_places, last)
    found_boxes = GatherND <batch_dims = 1> (raw_boxes, box_index)
    is_real_box = Unsqueeze (is_real, last)
    boxes = Where (is_real_box, found_boxes, none)
    real = Cast <to = 7> (is_real)
    num_dets = ReduceSum <keepdims = 1> (real, one)
}}'''
_ALL_LABELS = 'own_scores = Identity (raw_scores)'
_ONE_LABEL = '''best, best_label = TopK <axis = 2> (raw_scores, one)
    is_best = Equal (raw_scores, best)
    own_scores = Where (is_best, raw_scores, minus_one)'''


def append_nms(model: Any, info: DeployInfo) -> None:
    """Let an ONNX model end with NMS, in place.

    Args:
        model (onnx.ModelProto): With the outputs boxes ``(N, A, 4)`` and
            scores ``(N, A, C)``. Afterwards they are ``num_dets (N, 1)`` and,
            sorted by score and filled up with zeros (labels with -1),
            ``boxes (N, K, 4)``, ``scores (N, K)``, ``labels (N, K)``.
        info (DeployInfo): The thresholds, and K, its ``max_per_img``.
    """
    onnx = require_package('onnx')
    graph = model.graph
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    nms = onnx.parser.parse_graph(
        _GRAPH.format(
            count=info.max_per_img,
            iou=info.iou_threshold,
            score=info.score_thr,
            one_label=_ALL_LABELS if info.multi_label else _ONE_LABEL))
    prefixed = onnx.compose.add_prefix_graph(
        nms, 'nms/', rename_inputs=False, rename_outputs=False)
    # what is named `boxes` and `scores` outside becomes something within
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f'raw_{n}' if n in OUTPUTS else n for n in names]
    graph.node.extend(prefixed.node)
    graph.initializer.extend(prefixed.initializer)
    del graph.output[:]
    graph.output.extend(prefixed.output)
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].CopyFrom(batch)
