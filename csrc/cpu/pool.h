// A pool of candidates packed for a screen once, for all the searches until its rows change: a tensor of bytes
// with a row for what all rows have in common and one for each panel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "labels.h"
#include "rows.h"
#include "screen.h"

namespace tla::cpu {

// The mean of some candidates, of their directions for the cosines; any would do.
struct Center {
  std::vector<float> mean;  // none: the origin
  float square = 0;

  Center() = default;
  // `codes`: of the candidates, or null; unfilled slots do not count.
  Center(const Matrix& candidates, const int32_t* codes, Metric metric);

  screen::Center view(Metric metric) const { return {mean.empty() ? nullptr : mean.data(), is_cosine(metric)}; }
};

// Rows of any type and strides as the packing reads them: in place, or converted to float32.
class RowsToPack {
 public:
  explicit RowsToPack(const Matrix& m) : m_(m) {
    in_place_ = m.type != Type::kFloat64 && (m.col_stride == 1 || m.cols == 1);
  }

  // Of a block of rows that are float32 already, or of the matrix.
  static screen::Rows of_block(const Block<float>& block, int64_t count, int64_t d) {
    return {reinterpret_cast<const char*>(block.data), block.stride * 4, Type::kFloat32, count, d};
  }
  template <class RowOf>
  screen::Rows gathered(int64_t count, const RowOf& row_of) {
    return of_block(gather(m_, count, buffer_, row_of), count, m_.cols);
  }
  // None where they cannot be read in place.
  screen::Rows in_place(int64_t first, int64_t count) const {
    if (!in_place_) return {};
    const int64_t size = size_of(m_.type);
    return {m_.data + first * m_.row_stride * size, m_.row_stride * size, m_.type, count, m_.cols};
  }
  screen::Rows consecutive(int64_t first, int64_t count) {
    return in_place_ ? in_place(first, count) : gathered(count, [first](int64_t i) { return first + i; });
  }

 private:
  const Matrix& m_;
  bool in_place_;
  std::vector<float> buffer_;
};

// The tensor's bytes: (1 + panels) rows of row_bytes(d).
class PackedPool {
 public:
  PackedPool(char* data, int64_t d, const screen::Unit& unit) : data_(data), d_(d), unit_(&unit) {}

  // What `packed` holds of candidates of this shape; nothing where it does not fit them, or this processor.
  static std::optional<PackedPool> of(const Tensor& packed, const Matrix& candidates);

  static int64_t row_bytes(int64_t d, const screen::Unit& unit) {
    return unit.panel_bytes(d) + static_cast<int64_t>(sizeof(screen::Facts));
  }
  static int64_t rows(int64_t candidates) { return 1 + (candidates + screen::kPanel - 1) / screen::kPanel; }

  char* panel(int64_t p) const { return row(1 + p); }
  screen::Facts& facts(int64_t p) const {
    return *reinterpret_cast<screen::Facts*>(row(1 + p) + unit_->panel_bytes(d_));
  }
  const screen::Unit& unit() const { return *unit_; }

  void set_center(const Center& center, bool directions) const {
    const Head head{unit_->format, d_, directions, !center.mean.empty(), center.square};
    std::memcpy(data_, &head, sizeof(head));
    if (head.centered) std::memcpy(data_ + kMeanAt, center.mean.data(), 4 * center.mean.size());
  }
  Center center() const {
    Center center;
    center.square = head().square;
    const float* mean = reinterpret_cast<const float*>(data_ + kMeanAt);
    if (head().centered) center.mean.assign(mean, mean + screen::padded(d_));
    return center;
  }
  bool directions() const { return head().directions; }

 private:
  struct Head {
    int64_t format, d;
    int32_t directions, centered;
    float square;
  };
  static constexpr int64_t kMeanAt = 64;

  static Head read(const void* data) {
    Head head;
    std::memcpy(&head, data, sizeof(head));
    return head;
  }
  Head head() const { return read(data_); }
  char* row(int64_t r) const { return data_ + r * row_bytes(d_, *unit_); }

  char* data_;
  int64_t d_;
  const screen::Unit* unit_;
};

}  // namespace tla::cpu
