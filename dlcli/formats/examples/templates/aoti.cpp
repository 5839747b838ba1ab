// Ask {{ file }}: ./predict_aoti {{ file }} {{ arguments }}
//
// Written by dlcli export. It prints a line of JSON a row. Build it with the torch that compiled the
// package ({{ torch }}), as pip installs it, or with the same version of libtorch:
//     TORCH=$(python -c "import torch; print(torch.__path__[0])")
//     g++ -std=c++20 -O2 {{ program }} -I$TORCH/include -I$TORCH/include/torch/csrc/api/include -L$TORCH/lib -Wl,-rpath,$TORCH/lib,--no-as-needed -ltorch -ltorch_cpu -lc10 -o predict_aoti
{% include "inputs.cpp" %}
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

{% include "answer.cpp" %}

{% include "npy.cpp" %}

int main(int argc, char** argv) try {
    if (argc != {{ 2 + inputs | length }}) throw std::runtime_error("give the package and {{ inputs | length }} file{{ "s" if inputs | length > 1 }}");
    std::cout << std::setprecision(9);
    c10::InferenceMode inference;
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    const std::vector<std::string> types = { {%- for tensor in inputs %}"{{ tensor.npy }}"{{ ", " if not loop.last }}{% endfor -%} };
    std::vector<Array> arrays;
    for (size_t i = 0; i < types.size(); i++) arrays.push_back(read_npy(argv[2 + i], types[i]));
    std::vector<at::Tensor> inputs;
    for (size_t i = 0; i < types.size(); i++) {
        auto type = types[i] == "<f4" ? at::kFloat : at::kLong;
        inputs.push_back(at::from_blob(arrays[i].bytes.data(), arrays[i].shape, type).to(at::Device("{{ device }}")));
    }
    at::Tensor outputs = model.run(inputs)[0].to(at::kCPU, at::kFloat).contiguous();
    int64_t rows = outputs.size(0), count = outputs.numel() / std::max<int64_t>(1, rows);
    for (int64_t row = 0; row < rows; row++) answer(outputs.const_data_ptr<float>() + row * count, count);
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
