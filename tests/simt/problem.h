// A problem as tests/simt/client.py sends it: scalars and tensors by name; answers go back the same way.
//
//   number <name> <value>            text <name> <word>
//   tensor <name> <type> <n> <n sizes> <n strides> <lead> <bytes>, then the bytes of its storage from <lead> bytes
//   before its first element on: how far past a boundary of 16 it begins
//   spread <name> <type> <n> <n sizes> <n strides> 0 <bytes>, then the bytes of its elements in order, which the
//   runner puts where the strides say: memory in between is never touched
//   run
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/cuda/triplet.cuh"

namespace tla::simt {

inline Type type_named(const std::string& name) {
  if (name == "float64" || name == "int64") return Type::kFloat64;
  if (name == "float32") return Type::kFloat32;
  return name == "bfloat16" ? Type::kBFloat16 : Type::kFloat16;
}

struct Array {
  std::string type;
  std::vector<int64_t> sizes, strides;
  Buffer memory;
  int64_t lead = 0;

  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(memory.as<char>() + lead);
  }
  int64_t size(int at) const { return sizes[at]; }
  int64_t stride(int at) const { return strides[at]; }
  cuda::Rows rows(int64_t step = 0) const {
    const size_t last = sizes.size() - 1;
    return cuda::make_rows(data<void>(), type_named(type), sizes[last - 1], sizes[last], strides[last - 1],
                           strides[last], step);
  }
  int64_t step() const { return sizes[0] <= 1 ? 0 : strides[0]; }
  cuda::Positives positives() const { return {rows(step()), sizes[1], step()}; }
  cuda::Output output() const { return {memory.as<void>(), type_named(type)}; }
};

class Problem {
 public:
  // The next one from standard input; false at the end.
  bool read() {
    numbers_.clear(), texts_.clear(), arrays_.clear();
    std::string line;
    while (std::getline(std::cin, line)) {
      std::istringstream in(line);
      std::string kind, name;
      in >> kind >> name;
      if (kind == "run") return true;
      if (kind == "number") {
        std::string value;
        in >> value;
        numbers_[name] = std::strtod(value.c_str(), nullptr);
      } else if (kind == "text") {
        in >> texts_[name];
      } else {
        arrays_.emplace(name, read_array(in, kind == "spread"));
      }
    }
    return false;
  }

  double number(const std::string& name) const { return numbers_.at(name); }
  int64_t integer(const std::string& name) const { return static_cast<int64_t>(number(name)); }
  bool flag(const std::string& name) const { return number(name) != 0; }
  const std::string& text(const std::string& name) const { return texts_.at(name); }
  bool has(const std::string& name) const { return arrays_.count(name) != 0; }
  const Array& array(const std::string& name) const { return arrays_.at(name); }
  const int64_t* integers(const std::string& name) const {
    return has(name) ? array(name).data<const int64_t>() : nullptr;
  }
  Gpu gpu() const { return {integer("multiprocessors"), static_cast<int>(integer("capability"))}; }
  Launch launch() const { return Launch{.seed = static_cast<uint64_t>(number("seed"))}; }
  uint64_t seed() const { return static_cast<uint64_t>(number("seed")); }
  bool wide() const { return array("anchor").type == "float64"; }
  std::string result_type() const { return wide() ? "float64" : "float32"; }

 private:
  static Array read_array(std::istringstream& in, bool spread) {
    Array array{"", {}, {}, Buffer::input(nullptr, 0), 0};
    size_t n = 0, bytes = 0;
    in >> array.type >> n;
    array.sizes.resize(n), array.strides.resize(n);
    for (int64_t& size : array.sizes) in >> size;
    for (int64_t& stride : array.strides) in >> stride;
    in >> array.lead >> bytes;
    std::vector<char> data(bytes);
    std::cin.read(data.data(), static_cast<std::streamsize>(bytes));
    array.memory = spread ? spread_out(array, data) : Buffer::input(data.data(), bytes);
    return array;
  }

  static Buffer spread_out(const Array& array, const std::vector<char>& data) {
    const int64_t size = size_of(type_named(array.type));
    int64_t last = 0, count = 1;
    for (size_t k = 0; k < array.sizes.size(); ++k) {
      last += (array.sizes[k] - 1) * array.strides[k];
      count *= array.sizes[k];
    }
    Buffer memory = Buffer::sparse((last + 1) * size);
    for (int64_t n = 0; n < count; ++n) {
      int64_t at = 0, rest = n;
      for (size_t k = array.sizes.size(); k-- > 0; rest /= array.sizes[k])
        at += rest % array.sizes[k] * array.strides[k];
      std::copy_n(data.data() + n * size, size, memory.as<char>() + at * size);
    }
    return memory;
  }

  std::map<std::string, double> numbers_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, Array> arrays_;
};

// A contiguous tensor that a kernel writes.
inline Array new_array(const std::string& type, std::vector<int64_t> sizes, uint64_t seed) {
  const int64_t bytes = type == "int64" ? 8 : type == "int32" ? 4 : size_of(type_named(type));
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return {type, std::move(sizes), {}, Buffer::output(count * bytes, seed), 0};
}

inline void answer(const std::string& name, const Array& array) {
  std::printf("tensor %s %s %zu", name.c_str(), array.type.c_str(), array.sizes.size());
  for (int64_t size : array.sizes) std::printf(" %lld", static_cast<long long>(size));
  std::printf(" %zu\n", array.memory.bytes());
  std::fwrite(array.memory.as<char>(), 1, array.memory.bytes(), stdout);
}

}  // namespace tla::simt
