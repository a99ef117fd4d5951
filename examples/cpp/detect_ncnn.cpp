// SPDX-License-Identifier: Apache-2.0
// detect_ncnn IMAGE detector.ncnn.param [SCORE]: the boxes in an image, one a
// line: label (see detector.ncnn.json), score, x1, y1, x2, y2 in pixels. What
// shrinks an image is bilinear here and the mean of areas in Python.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "net.h"
#if NCNN_SIMPLEOCV  // how ncnn was built
#include "simpleocv.h"
#else
#include <opencv2/imgcodecs.hpp>
#endif

struct Box {
    int label;
    float score, side[4];  // x1, y1, x2, y2
};

// What detector.ncnn.json says, and how an image lies in the input.
struct Input {
    int width, height, left, top;
    float padding, iou_threshold, scale;

    bool read(const std::string &path) {
        std::ifstream file(path);
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        auto after = [&](const char *key) {
            const size_t at = text.find(key);
            return at == text.npos ? "" : text.c_str() + at + strlen(key);
        };
        return sscanf(after("\"img_scale\":"), " [%d, %d", &width,
                      &height) == 2 &&
               sscanf(after("\"pad_val\":"), "%f", &padding) == 1 &&
               sscanf(after("\"iou_threshold\":"), "%f", &iou_threshold) == 1;
    }

    // Fit an image in, its middle in the middle.
    ncnn::Mat prepare(const cv::Mat &image) {
        const double fit = std::min(double(width) / image.cols,
                                    double(height) / image.rows);
        const int w = int(image.cols * fit), h = int(image.rows * fit);
        scale = float(fit);
        left = (width - w) / 2, top = (height - h) / 2;
        ncnn::Mat whole;
        ncnn::copy_make_border(
            ncnn::Mat::from_pixels_resize(
                image.data, ncnn::Mat::PIXEL_BGR, image.cols, image.rows, w,
                h), whole, top, height - h - top, left, width - w - left,
            ncnn::BORDER_CONSTANT, padding);
        return whole;
    }
};

// The distance of a side in strides: the expectation over its bins.
static float distance(const ncnn::Mat &map, int side, int x, int y) {
    const int bins = map.c / 4;
    auto at = [&](int i) { return map.channel(side * bins + i).row(y)[x]; };
    float sum = 0, weighted = 0, highest = at(0);
    for (int i = 1; i < bins; i++) highest = std::max(highest, at(i));
    for (int i = 0; i < bins; i++) {
        const float e = std::exp(at(i) - highest);
        sum += e, weighted += e * i;
    }
    return bins > 1 ? weighted / sum : at(0);
}

// The boxes of one level, in pixels of the image, which they may leave.
static void decode(const ncnn::Mat &logits, const ncnn::Mat &distances,
                   const Input &input, float lowest, std::vector<Box> &boxes) {
    const float stride = float(input.height) / logits.h;
    for (int label = 0; label < logits.c; label++)
        for (int y = 0; y < logits.h; y++)
            for (int x = 0; x < logits.w; x++) {
                const float logit = logits.channel(label).row(y)[x];
                Box box = {label, 1 / (1 + std::exp(-logit)), {}};
                if (box.score < lowest)
                    continue;
                for (int side = 0; side < 4; side++) {
                    const bool is_x = side % 2 == 0;
                    const float d = distance(distances, side, x, y);
                    const float at = stride * (
                        (is_x ? x : y) + 0.5f + (side < 2 ? -d : d));
                    box.side[side] =
                        (at - (is_x ? input.left : input.top)) / input.scale;
                }
                boxes.push_back(box);
            }
}

static float iou(const float *a, const float *b) {
    auto area = [](float x1, float y1, float x2, float y2) {
        return std::max(x2 - x1, 0.f) * std::max(y2 - y1, 0.f);
    };
    const float both = area(std::max(a[0], b[0]), std::max(a[1], b[1]),
                            std::min(a[2], b[2]), std::min(a[3], b[3]));
    return both / (area(a[0], a[1], a[2], a[3]) +
                   area(b[0], b[1], b[2], b[3]) - both);
}

// Of boxes of one label that overlap, the best.
static std::vector<Box> suppress(std::vector<Box> boxes, float threshold) {
    std::stable_sort(boxes.begin(), boxes.end(),
        [](const Box &a, const Box &b) { return a.score > b.score; });
    std::vector<Box> kept;
    for (const Box &box : boxes)
        if (std::none_of(kept.begin(), kept.end(), [&](const Box &other) {
                return other.label == box.label &&
                       iou(other.side, box.side) > threshold;
            }))
            kept.push_back(box);
    return kept;
}

int main(int argc, char **argv) {
    const std::string param = argc > 2 ? argv[2] : "";
    const std::string stem = param.substr(0, param.rfind('.'));
    const cv::Mat image = cv::imread(argc > 1 ? argv[1] : "", 1);
    Input input;
    ncnn::Net net;
    if (image.empty() || !input.read(stem + ".json") ||
        net.load_param(param.c_str()) ||
        net.load_model((stem + ".bin").c_str()))
        return fprintf(stderr, "usage: %s IMAGE PARAM [SCORE], with the .bin "
                       "and .json beside the .param\n", argv[0]), 1;
    ncnn::Extractor extractor = net.create_extractor();
    extractor.input("in0", input.prepare(image));
    const int levels = int(net.output_names().size()) / 2;
    std::vector<Box> boxes;
    for (int i = 0; i < levels; i++) {
        ncnn::Mat maps[2];
        for (int kind = 0; kind < 2; kind++)
            extractor.extract(("out" + std::to_string(
                kind * levels + i)).c_str(), maps[kind]);
        decode(maps[0], maps[1], input,
               argc > 3 ? std::stof(argv[3]) : 0.3f, boxes);
    }
    for (const Box &box : suppress(boxes, input.iou_threshold)) {
        printf("%d %.4f", box.label, box.score);
        for (int side = 0; side < 4; side++)
            printf(side < 3 ? " %.2f" : " %.2f\n", std::clamp(box.side[
                side], 0.f, float(side % 2 ? image.rows : image.cols)));
    }
}
