// A candidate's place in the order of picks, packed so that the least key wins whatever order keys are compared in: the
// distance's bits, made to sort as unsigned integers, above the index. NaN comes before everything.
#pragma once

#include "simt.cuh"

namespace tla::cuda {

TLA_DEVICE uint32_t in_order(uint32_t bits) { return bits >> 31 ? ~bits : bits | 1u << 31; }
TLA_DEVICE uint64_t in_order(uint64_t bits) { return bits >> 63 ? ~bits : bits | uint64_t{1} << 63; }
TLA_DEVICE uint32_t out_of_order(uint32_t order) { return order >> 31 ? order & ~(1u << 31) : ~order; }
TLA_DEVICE uint64_t out_of_order(uint64_t order) { return order >> 63 ? order & ~(uint64_t{1} << 63) : ~order; }

template <class T>
struct Key;

template <>
struct Key<float> {
  uint64_t bits;
  static constexpr uint32_t kInfinity = 0x7f800000, kNaN = 0x7fc00000;

  TLA_DEVICE static Key none() { return {~uint64_t{0}}; }
  TLA_DEVICE static Key of(float distance, int64_t index, bool farthest) {
    uint32_t order = in_order(bits_of(distance));
    if (farthest) order = ~order;
    if (distance != distance) order = 0;
    return {uint64_t{order} << 32 | static_cast<uint32_t>(index)};
  }
  TLA_DEVICE bool exists() const { return ~bits != 0; }
  TLA_DEVICE int64_t index() const { return static_cast<uint32_t>(bits); }
  TLA_DEVICE float distance(bool farthest) const {
    const uint32_t order = static_cast<uint32_t>(bits >> 32);
    return from_bits(order == 0 ? kNaN : out_of_order(farthest ? ~order : order));
  }
  TLA_DEVICE bool operator<(const Key& other) const { return bits < other.bits; }
  TLA_DEVICE Key shuffled(int mask) const { return {shuffle_xor(bits, mask)}; }
};

template <>
struct Key<double> {
  uint64_t order, place;
  static constexpr uint64_t kInfinity = 0x7ff0000000000000, kNaN = 0x7ff8000000000000;

  TLA_DEVICE static Key none() { return {~uint64_t{0}, ~uint64_t{0}}; }
  TLA_DEVICE static Key of(double distance, int64_t index, bool farthest) {
    uint64_t order = in_order(bits_of(distance));
    if (farthest) order = ~order;
    if (distance != distance) order = 0;
    return {order, static_cast<uint64_t>(index)};
  }
  TLA_DEVICE bool exists() const { return ~place != 0; }
  TLA_DEVICE int64_t index() const { return static_cast<int64_t>(place); }
  TLA_DEVICE double distance(bool farthest) const {
    return from_bits(order == 0 ? kNaN : out_of_order(farthest ? ~order : order));
  }
  TLA_DEVICE bool operator<(const Key& other) const {
    return order < other.order || (order == other.order && place < other.place);
  }
  TLA_DEVICE Key shuffled(int mask) const { return {shuffle_xor(order, mask), shuffle_xor(place, mask)}; }
};

// The least of a warp's keys, in every lane.
template <class T>
TLA_DEVICE Key<T> warp_least(Key<T> key) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Key<T> other = key.shuffled(mask);
    if (other < key) key = other;
  }
  return key;
}

}  // namespace tla::cuda
