// An array of NumPy's: np.save("x.npy", x), of one of the types that the model takes.
struct Array {
    std::vector<int64_t> shape;
    std::vector<char> bytes;
};

Array read_npy(const std::string& path, const std::string& type) {
    std::ifstream file(path, std::ios::binary);
    std::string start(10, ' ');
    if (!file.read(start.data(), 10) || start.substr(0, 7) != "\x93NUMPY\x01")
        throw std::runtime_error(path + " is not a file of numpy.save");
    std::string header(uint8_t(start[8]) + 256 * uint8_t(start[9]), ' ');
    file.read(header.data(), header.size());
    if (header.find("'descr': '" + type + "'") == std::string::npos ||
        header.find("'fortran_order': False") == std::string::npos)
        throw std::runtime_error(path + ": the model takes " + type + " in C order, not " + header);
    Array array;
    std::istringstream sizes(header.substr(header.find('(') + 1, header.find(')') - header.find('(') - 1));
    size_t count = type[2] - '0';  // bytes of a number
    for (std::string size; std::getline(sizes, size, ',');)
        if (size.find_first_of("0123456789") != std::string::npos) {
            array.shape.push_back(std::stoll(size));
            count *= array.shape.back();
        }
    array.bytes.assign(std::istreambuf_iterator<char>(file), {});
    if (array.bytes.size() != count) throw std::runtime_error(path + " is cut off");
    return array;
}
