{% if names %}
const std::vector<std::string> NAMES = { {{- names | strings -}} };

{% endif %}
std::string quoted(const std::string& text) {
    std::string json = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') json += '\\';
        json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    return json + "\"";
}

// A row of the model's output as a line of JSON.
void answer(const float* x, [[maybe_unused]] size_t count) {
{% if kind == "classification" %}
    std::vector<double> p(x, x + NAMES.size());
{% if not readable %}
    double sum = 0, top = *std::max_element(p.begin(), p.end());
    for (double& value : p) sum += value = std::exp(value - top);
    for (double& value : p) value /= sum;
{% endif %}
{% if thresholds %}
    size_t best = p[1] > {{ thresholds[0] }};
{% else %}
    size_t best = std::max_element(p.begin(), p.end()) - p.begin();
{% endif %}
    std::cout << "{\"label\": " << quoted(NAMES[best]) << ", \"probability\": " << p[best] << "}\n";
{% elif kind == "multilabel" %}
    const std::vector<double> thresholds = { {{- thresholds | join(", ") -}} };
    std::string labels, probabilities;
    for (size_t i = 0; i < NAMES.size(); i++) {
        double p = {{ "x[i]" if readable else "1 / (1 + std::exp(-double(x[i])))" }};
        std::ostringstream text;
        text << std::setprecision(9) << (i ? ", " : "") << quoted(NAMES[i]) << ": " << p;
        probabilities += text.str();
        if (p > thresholds[i]) labels += (labels.empty() ? "" : ", ") + quoted(NAMES[i]);
    }
    std::cout << "{\"labels\": [" << labels << "], \"probabilities\": {" << probabilities << "}}\n";
{% elif targets %}
    const std::vector<double> scales = { {{- stds | join(", ") -}} }, means = { {{- means | join(", ") -}} };
    size_t targets = NAMES.size();
    for (size_t i = 0; i < targets; i++) {
        std::cout << (i ? ", " : "{") << quoted(NAMES[i]) << ": {{ "[" if kind == "forecast" }}";
        for (size_t step = i; step < count; step += targets)
            std::cout << (step > i ? ", " : "") << x[step] * scales[i] + means[i];
{% if kind == "forecast" %}
        std::cout << "]";
{% endif %}
    }
    std::cout << "}\n";
{% else %}
    std::cout << "{\"embedding\": [";
    for (size_t i = 0; i < count; i++) std::cout << (i ? ", " : "") << x[i];
    std::cout << "]}\n";
{% endif %}
}
