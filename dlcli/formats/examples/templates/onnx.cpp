// Ask {{ file }}: ./predict_onnx {{ file }} {{ arguments }}
//
// Written by dlcli export. It prints a line of JSON a row. Build it with the include and lib folders of a
// release of ONNX Runtime (https://github.com/microsoft/onnxruntime/releases) in ORT:
//     g++ -std=c++17 -O2 {{ program }} -I$ORT/include -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o predict_onnx
{% if mode == "image" %}
// It reads the pixels of a binary {{ "PPM" if channels == 3 else "PGM" }} file, upright and of any size:
//     magick photo.jpg -auto-orient{{ "" if channels == 3 else " -colorspace gray" }} -depth 8 photo.{{ "ppm" if channels == 3 else "pgm" }}
{% elif mode == "table" %}
// Each argument is a cell of the row. A column that is left out is missing{{ "; a time is in seconds since 1970" if times }}.
{% else %}
{% include "inputs.cpp" %}
{% endif %}
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
{% if mode == "table" %}
#include <cstdlib>
{% endif %}
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
{% if mode == "table" %}
#include <map>
{% endif %}
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

{% if mode == "table" %}
{% set columns = { "NUMBERS": numbers, "WORDS": words, "COLUMNS": (numbers + words) | unique | list } %}
{% for group, list in columns.items() if list %}
const std::vector<std::string> {{ group }} = { {{- list | strings -}} };
{% endfor %}
{% endif %}
{% include "answer.cpp" %}

{% if mode == "image" %}
struct Image {
    int64_t width, height;
    std::vector<uint8_t> pixels;  // height x width x {{ channels }}
};

Image read_image(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string header, part;
    for (int fields = 0; fields < 4 && file >> part;) {
        if (part[0] == '#') std::getline(file, part);  // a comment
        else header += part + " ", fields++;
    }
    file.get();  // one byte before the pixels
    std::istringstream fields(header);
    std::string magic;
    Image image;
    int64_t largest = 0;
    fields >> magic >> image.width >> image.height >> largest;
    if (magic != "P{{ 6 if channels == 3 else 5 }}" || !fields || largest != 255)
        throw std::runtime_error(path + " is not a binary {{ "PPM" if channels == 3 else "PGM" }} file of 8 bits");
    image.pixels.assign(std::istreambuf_iterator<char>(file), {});
    if (int64_t(image.pixels.size()) != image.width * image.height * {{ channels }})
        throw std::runtime_error(path + " is cut off");
    return image;
}

{% elif mode == "table" and numbers %}
double number(const std::string& cell) {
    if (cell.empty()) return std::nan("");  // missing
    char* end = nullptr;
    double value = std::strtod(cell.c_str(), &end);
    // strtod also takes spaces, hexadecimal digits and words such as "inf".
    bool decimal = cell.find_first_not_of("+-.0123456789eE") == std::string::npos;
    if (*end || !decimal) throw std::runtime_error("\"" + cell + "\" is not a number");
    return value;
}

{% elif mode == "arrays" %}
{% include "npy.cpp" %}

{% endif %}
int main(int argc, char** argv) try {
{% if mode == "table" %}
    if (argc < 2) throw std::runtime_error("give the model, then cells: {{ file }} COLUMN=VALUE ...");
{% else %}
    if (argc != {{ 2 + inputs | length }}) throw std::runtime_error("give the model and {{ inputs | length }} file{{ "s" if inputs | length > 1 }}");
{% endif %}
    std::cout << std::setprecision(9);
    Ort::Env env;
    Ort::Session session(env, std::filesystem::path(argv[1]).c_str(), Ort::SessionOptions{});
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
{% if mode != "arrays" %}
    // A file of one size has a number here, and takes the same sample so many times.
    int64_t batch = std::max<int64_t>(1, session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[0]);
{% endif %}
{% if mode == "image" %}
    Image image = read_image(argv[2]);
    std::vector<int64_t> shape = {batch, image.height, image.width, {{ channels }}};
    std::vector<uint8_t> pixels;
    for (int64_t i = 0; i < batch; i++)
        pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
    inputs.push_back(Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), 4));
{% elif mode == "table" %}
    std::map<std::string, std::string> cells;
    for (int i = 2; i < argc; i++) {
        std::string cell = argv[i];
        size_t sign = cell.find('=');
        if (sign == std::string::npos) throw std::runtime_error(cell + " is not COLUMN=VALUE");
        bool first = cells.emplace(cell.substr(0, sign), cell.substr(sign + 1)).second;
        if (!first) throw std::runtime_error("the cell of " + cell.substr(0, sign) + " is given twice");
    }
    for (const auto& cell : cells)
        if (std::find(COLUMNS.begin(), COLUMNS.end(), cell.first) == COLUMNS.end())
            throw std::runtime_error("the model reads no column " + cell.first);
{% if numbers %}
    std::vector<double> row, numbers;
    for (const std::string& column : NUMBERS)
        row.push_back(number(cells[column]));
    for (int64_t i = 0; i < batch; i++) numbers.insert(numbers.end(), row.begin(), row.end());
    int64_t shape[] = {batch, int64_t(NUMBERS.size())};
    inputs.push_back(Ort::Value::CreateTensor<double>(memory, numbers.data(), numbers.size(), shape, 2));
{% endif %}
{% if words %}
    std::vector<const char*> words;
    for (int64_t i = 0; i < batch; i++)
        for (const std::string& column : WORDS) words.push_back(cells[column].c_str());
    int64_t columns[] = {batch, int64_t(WORDS.size())};
    Ort::AllocatorWithDefaultOptions allocator;
    inputs.push_back(Ort::Value::CreateTensor(allocator, columns, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING));
    inputs.back().FillStringTensor(words.data(), words.size());
{% endif %}
{% else %}
    const std::vector<std::string> types = { {%- for tensor in inputs %}"{{ tensor.npy }}"{{ ", " if not loop.last }}{% endfor -%} };
    const std::vector<ONNXTensorElementDataType> elements = {
{% for tensor in inputs %}
        ONNX_TENSOR_ELEMENT_DATA_TYPE_{{ tensor.onnx }},
{% endfor %}
    };
    std::vector<Array> arrays;
    for (size_t i = 0; i < types.size(); i++) arrays.push_back(read_npy(argv[2 + i], types[i]));
    for (size_t i = 0; i < types.size(); i++) {
        Array& array = arrays[i];
        inputs.push_back(Ort::Value::CreateTensor(memory, array.bytes.data(), array.bytes.size(),
                                                  array.shape.data(), array.shape.size(), elements[i]));
    }
{% endif %}
    const char* names[] = { {%- for tensor in inputs %}"{{ tensor.name }}"{{ ", " if not loop.last }}{% endfor -%} };
    const char* output = "{{ output }}";
    auto outputs = session.Run(Ort::RunOptions{}, names, inputs.data(), inputs.size(), &output, 1);
    auto info = outputs[0].GetTensorTypeAndShapeInfo();
    size_t rows = {{ "info.GetShape()[0]" if mode == "arrays" else "1" }}, count = info.GetElementCount() / std::max<size_t>(1, info.GetShape()[0]);
    for (size_t row = 0; row < rows; row++) answer(outputs[0].GetTensorData<float>() + row * count, count);
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
