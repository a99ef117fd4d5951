// SPDX-License-Identifier: Apache-2.0
// detect_onnx IMAGE MODEL, a file of export.py --nms --score-thr 0.3: the boxes
// in an image, one a line: label, score, x1, y1, x2, y2 in pixels.
#include <algorithm>
#include <cstdio>
#include <onnxruntime_cxx_api.h>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>

int main(int argc, char **argv) try {
    const cv::Mat image = cv::imread(argc == 3 ? argv[1] : "");
    if (image.empty())
        return fprintf(stderr, "usage: %s IMAGE MODEL\n", argv[0]), 1;
    Ort::Env env;
    Ort::Session session(env, argv[2], Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text = session.GetModelMetadata()
        .LookupCustomMetadataMapAllocated("mmfasternet", allocator);
    const std::string info = text ? text.get() : "";
    const auto after = [&](const std::string &key) {
        const size_t at = info.find(key);
        return at == info.npos ? "" : info.c_str() + at + key.size();
    };
    int width, height, padding;
    if (sscanf(after("\"img_scale\":"), " [%d, %d", &width, &height) != 2 ||
        sscanf(after("\"pad_val\":"), "%d", &padding) != 1 ||
        info.find("\"nms\": true") == info.npos)
        return fprintf(stderr, "%s is not of export.py --nms\n", argv[2]), 1;
    const double scale = std::min(double(width) / image.cols,
                                  double(height) / image.rows);
    const int w = int(image.cols * scale), h = int(image.rows * scale);
    const int left = (width - w) / 2, top = (height - h) / 2;
    cv::Mat input, blob(3 * height, width, CV_8U);
    cv::resize(image, input, {w, h}, 0, 0,
               scale < 1 ? cv::INTER_AREA : cv::INTER_LINEAR);
    cv::copyMakeBorder(input, input, top, height - h - top, left, width - w -
                       left, cv::BORDER_CONSTANT, cv::Scalar::all(padding));
    for (int i = 0; i < 3; i++)  // channels first
        cv::extractChannel(input, blob.rowRange(i * height, (i + 1) * height),
                           i);
    const int64_t shape[] = {1, 3, height, width};
    const auto images = Ort::Value::CreateTensor<uint8_t>(
        allocator.GetInfo(), blob.data, blob.total(), shape, 4);
    const char *in = "images";
    const char *out[] = {"num_dets", "boxes", "scores", "labels"};
    const auto found = session.Run({}, &in, &images, 1, out, 4);
    const auto *side = found[1].GetTensorData<float>();
    for (int i = 0; i < *found[0].GetTensorData<int64_t>(); i++) {
        printf("%d %.4f", int(found[3].GetTensorData<int64_t>()[i]),
               found[2].GetTensorData<float>()[i]);
        for (int k = 0; k < 4; k++) {
            const int size = k % 2 ? image.rows : image.cols;
            printf(k < 3 ? " %.2f" : " %.2f\n", std::clamp((*side++ - (k % 2
                ? top : left)) * size / (k % 2 ? h : w), 0.f, float(size)));
        }
    }
} catch (const std::exception &error) {
    return fprintf(stderr, "error: %s\n", error.what()), 1;
}
