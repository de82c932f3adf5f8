// CUDA's machine for csrc/cuda/*.cuh under a host compiler: a fiber a thread, scheduled at random from a seed. What is
// wrong in a launch (a barrier not all threads reach, lanes at different places, a wait that never ends, shared memory
// of a block that is gone) ends the process with a message that names the places; a forgotten barrier shows as a wrong
// result, for poisoned memory and skewed schedules, or with certainty in a build with the race check.
//
//   simt::Buffer x = simt::Buffer::input(data, bytes), y = simt::Buffer::output(bytes);  // exact sizes, for ASan
//   simt::Launch launch{.seed = seed};
//   launch(kernel<float>, LaunchShape{.blocks = 4, .cluster = 2}, Params{x.as<const float>(), y.as<float>()});
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>
#include <utility>

#include "../../csrc/common/plan.h"

#define TLA_DEVICE inline
#define TLA_KERNEL(threads, blocks) inline void
// An array by its own name, so that UBSan knows its bounds; the lambda makes a key of every place and instantiation.
#define TLA_SHARED(type, name, count)                                          \
  type(&name)[count] = *static_cast<type(*)[count]>(::tla::simt::shared_array( \
      []() -> const void* {                                                    \
        static char place;                                                     \
        return &place;                                                         \
      }(),                                                                     \
      #name, sizeof(type) * (count)))

#define TLA_DYNAMIC_SHARED(name) char* name = static_cast<char*>(::tla::simt::dynamic_shared())

namespace tla::simt {

#ifdef __cpp_lib_source_location
using Site = std::source_location;
#else  // clang before 16
class Site {
 public:
  static constexpr Site current(const char* file = __builtin_FILE(), const char* function = __builtin_FUNCTION(),
                                unsigned line = __builtin_LINE(), unsigned column = __builtin_COLUMN()) {
    Site site;
    site.file_ = file, site.function_ = function, site.line_ = line, site.column_ = column;
    return site;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr const char* function_name() const { return function_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char *file_ = "", *function_ = "";
  unsigned line_ = 0, column_ = 0;
};
#endif

constexpr int kLanes = 32;

// Prints what is wrong and ends the process with kFailed.
constexpr int kFailed = 3;
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

// --- Host -----------------------------------------------------------------------------------------------------------

// Global memory of exactly so many bytes. An output is poisoned, and the race check complains when a kernel reads what
// nobody wrote: outputs and workspaces are the same thing. Zero what a kernel may rely on: `input` without data.
// `sparse`: zeros of any size that take memory only where something is written; no check watches them.
class Buffer {
 public:
  static Buffer input(const void* data, size_t bytes);
  static Buffer output(size_t bytes, uint64_t seed = 0);
  static Buffer sparse(size_t bytes);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_), mapped_(other.mapped_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~Buffer();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  Buffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  void* data_;
  size_t bytes_;
  bool mapped_ = false;
};

// Runs kernel(params) as one launch. Seeds pick schedules and poison.
struct Launch {
  uint64_t seed = 0;
  int threads = kThreads;  // of a block, if not the shape's

  template <class Params>
  void operator()(void (*kernel)(Params), LaunchShape shape, const std::type_identity_t<Params>& params) const {
    struct Call {
      void (*kernel)(Params);
      const Params* params;
    } call{kernel, &params};
    run(shape, [](const void* c) { static_cast<const Call*>(c)->kernel(*static_cast<const Call*>(c)->params); }, &call);
  }

 private:
  void run(LaunchShape shape, void (*body)(const void*), const void* call) const;
};

// --- What the device's names below are made of ----------------------------------------------------------------------

// The thread that runs now.
struct Self {
  int thread = 0, block = 0, blocks = 0;
};
extern const Self* self;

enum class Level { kWarp, kBlock, kCluster, kGrid };
// Waits for everybody of the level at the same place.
void meet(Level level, const char* operation, Site site);
// A warp's operation: the last lane to arrive calls all(operands) for the 32. `argument` must be the same in all lanes.
void meet_warp(const char* operation, uint64_t argument, void* operand, void (*all)(void* const* operands), Site site);

void* shared_array(const void* place, const char* name, size_t bytes);
// Of exactly as many bytes as the launch says.
void* dynamic_shared();
const void* cluster_peer(const void* shared, int rank, Site site);

// *p = update(*p, operand) of 4 or 8 bytes, returning what was there. Another thread may run after it.
uint64_t atomic(void* p, size_t bytes, uint64_t operand, uint64_t (*update)(uint64_t, uint64_t), Site site);

template <class T>
using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

template <class Update, class T>
T atomic(T* p, T operand, Site site) {
  const auto update = [](uint64_t old, uint64_t operand) -> uint64_t {
    return std::bit_cast<Word<T>>(
        Update()(std::bit_cast<T>(static_cast<Word<T>>(old)), std::bit_cast<T>(static_cast<Word<T>>(operand))));
  };
  return std::bit_cast<T>(static_cast<Word<T>>(atomic(p, sizeof(T), std::bit_cast<Word<T>>(operand), update, site)));
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

struct Most {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// 16 bytes that are on their way to `to`, in the order in which the running thread sent them.
struct alignas(16) Sixteen {
  uint32_t at[4];
};
struct Copy {
  Sixteen* to;
  Sixteen data;
};
void poison(Sixteen& data);
void send(const Copy& copy);
void commit_copies();
// The next copy of the groups before the last `groups`, or false.
bool arrived(int groups, Copy& copy);

// mma.sync.m16n8k16.row.col.f32: which row, column and k a lane's registers hold (PTX ISA, "Matrix Fragments for
// mma.m16n8k16 with floating point type"). Rounds once, which the hardware does not promise.
template <class ToFloat>
void mma_m16n8k16(const char* operation, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  struct Lane {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  const auto all = [](void* const* operands) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Lane& from = *static_cast<Lane*>(operands[lane]);
      for (int half = 0; half < 2; ++half) {
        const int k = lane % 4 * 2 + half;
        for (int r = 0; r < 4; ++r)
          a[lane / 4 + r % 2 * 8][k + r / 2 * 8] = ToFloat()(static_cast<uint16_t>(from.a[r] >> 16 * half));
        for (int r = 0; r < 2; ++r) b[k + r * 8][lane / 4] = ToFloat()(static_cast<uint16_t>(from.b[r] >> 16 * half));
      }
    }
    for (int lane = 0; lane < kLanes; ++lane)
      for (int r = 0; r < 4; ++r) {
        float& out = static_cast<Lane*>(operands[lane])->d[r];
        double sum = out;
        for (int k = 0; k < 16; ++k) sum += double{a[lane / 4 + r / 2 * 8][k]} * b[k][lane % 4 * 2 + r % 2];
        out = static_cast<float>(sum);
      }
  };
  meet_warp(operation, 0, &mine, all, site);
}

}  // namespace tla::simt

// --- Device: the names of simt.cuh ----------------------------------------------------------------------------------

namespace tla::cuda {

using simt::Site;

constexpr unsigned kAllLanes = 0xffffffffu;

inline int thread_id() { return simt::self->thread; }
inline int block_id() { return simt::self->block; }
inline int grid_blocks() { return simt::self->blocks; }
inline int lane_id() { return simt::self->thread % simt::kLanes; }

inline void block_sync(Site site = Site::current()) { simt::meet(simt::Level::kBlock, "block_sync", site); }
inline void warp_sync(Site site = Site::current()) { simt::meet(simt::Level::kWarp, "warp_sync", site); }
inline void cluster_sync(Site site = Site::current()) { simt::meet(simt::Level::kCluster, "cluster_sync", site); }
inline void grid_sync(Site site = Site::current()) { simt::meet(simt::Level::kGrid, "grid_sync", site); }

template <class T>
T shuffle(T value, int lane, Site site = Site::current()) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "what __shfl_sync takes");
  struct Lane {
    T value, result;
    int from;
  } mine{value, value, lane % simt::kLanes};
  if (lane < 0) simt::fail("shuffle from lane %d at %s:%u", lane, site.file_name(), static_cast<unsigned>(site.line()));
  const auto all = [](void* const* operands) {
    for (int i = 0; i < simt::kLanes; ++i) {
      Lane& to = *static_cast<Lane*>(operands[i]);
      to.result = static_cast<const Lane*>(operands[to.from])->value;
    }
  };
  simt::meet_warp("shuffle", 0, &mine, all, site);
  return mine.result;
}
template <class T>
T shuffle_xor(T value, int mask, Site site = Site::current()) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "what __shfl_xor_sync takes");
  struct Lane {
    T value, result;
    int mask;
  } mine{value, value, mask % simt::kLanes};
  const auto all = [](void* const* operands) {
    for (int i = 0; i < simt::kLanes; ++i) {
      Lane& to = *static_cast<Lane*>(operands[i]);
      to.result = static_cast<const Lane*>(operands[i ^ to.mask])->value;
    }
  };
  simt::meet_warp("shuffle_xor", static_cast<uint64_t>(mask), &mine, all, site);
  return mine.result;
}
inline unsigned ballot(bool condition, Site site = Site::current()) {
  struct Lane {
    bool condition;
    unsigned result;
  } mine{condition, 0};
  const auto all = [](void* const* operands) {
    unsigned bits = 0;
    for (int i = 0; i < simt::kLanes; ++i) bits |= unsigned{static_cast<Lane*>(operands[i])->condition} << i;
    for (int i = 0; i < simt::kLanes; ++i) static_cast<Lane*>(operands[i])->result = bits;
  };
  simt::meet_warp("ballot", 0, &mine, all, site);
  return mine.result;
}

template <class T>
const T* cluster_peer(const T* shared, int rank, Site site = Site::current()) {
  return static_cast<const T*>(simt::cluster_peer(shared, rank, site));
}

// Relaxed: they order nothing but themselves.
template <class T>
T atomic_add(T* p, T value, Site site = Site::current()) {
  return simt::atomic<simt::Add>(p, value, site);
}
template <class T>
T atomic_min(T* p, T value, Site site = Site::current()) {
  return simt::atomic<simt::Least>(p, value, site);
}

template <class T>
T atomic_max(T* p, T value, Site site = Site::current()) {
  return simt::atomic<simt::Most>(p, value, site);
}

inline uint32_t atomic_load(const uint32_t* p, Site site = Site::current()) {
  return simt::atomic<simt::Most>(const_cast<uint32_t*>(p), 0u, site);
}

inline void load_matrices(uint32_t (&to)[4], const void* row, Site site = Site::current()) {
  struct Lane {
    simt::Sixteen row;
    uint32_t* to;
  } mine{*static_cast<const simt::Sixteen*>(row), to};
  const auto all = [](void* const* operands) {
    for (int lane = 0; lane < simt::kLanes; ++lane)
      for (int i = 0; i < 4; ++i)
        static_cast<Lane*>(operands[lane])->to[i] =
            static_cast<const Lane*>(operands[8 * i + lane / 4])->row.at[lane % 4];
  };
  simt::meet_warp("load_matrices", 0, &mine, all, site);
}
// What a copy brings is read at once and there only after the wait; until then its place holds poison.
inline void copy_async(void* shared, const void* global, bool there) {
  simt::Sixteen* to = static_cast<simt::Sixteen*>(shared);
  simt::Copy copy{to, {}};
  if (there) copy.data = *static_cast<const simt::Sixteen*>(global);
  simt::Sixteen poison;
  simt::poison(poison);
  *to = poison;
  simt::send(copy);
}
// The first `bytes` of 16, and zeros behind them.
inline void copy_async(void* shared, const void* global, int bytes) {
  simt::Sixteen* to = static_cast<simt::Sixteen*>(shared);
  simt::Copy copy{to, {}};
  for (int n = 0; n < bytes / 2; ++n)
    reinterpret_cast<uint16_t*>(&copy.data)[n] = static_cast<const uint16_t*>(global)[n];
  simt::Sixteen poison;
  simt::poison(poison);
  *to = poison;
  simt::send(copy);
}
inline void copy_commit() { simt::commit_copies(); }
template <int groups>
inline void copy_wait() {
  for (simt::Copy copy; simt::arrived(groups, copy);) *copy.to = copy.data;
}

inline int first_set(unsigned bits) { return bits ? std::countr_zero(bits) : -1; }
inline int count_set(unsigned bits) { return std::popcount(bits); }

inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused(double a, double b, double c) { return std::fma(a, b, c); }

inline uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }
inline uint64_t bits_of(double value) { return std::bit_cast<uint64_t>(value); }
inline float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline double from_bits(uint64_t bits) { return std::bit_cast<double>(bits); }

inline float half_to_float(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, mantissa = bits & 0x3ffu;
  if (exponent == 0) return from_bits(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
  return from_bits(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13);
}
// To the nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  uint32_t half;
  if (rest > 0x7f800000u)
    half = 0x7e00u;
  else if (rest >= 0x477ff000u)  // 65520 and more
    half = 0x7c00u;
  else if (rest < 0x38800000u)  // below 2^-14 the sum with 1/2 leaves the subnormal's bits, rounded
    half = bits_of(from_bits(rest) + 0.5f) - 0x3f000000u;
  else
    half = (rest + 0xfffu + (rest >> 13 & 1) - 0x38000000u) >> 13;
  return static_cast<uint16_t>(sign | half);
}

struct HalfToFloat {
  float operator()(uint16_t bits) const { return half_to_float(bits); }
};
struct BFloat16ToFloat {
  float operator()(uint16_t bits) const { return from_bits(uint32_t{bits} << 16); }
};
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             Site site = Site::current()) {
  simt::mma_m16n8k16<HalfToFloat>("mma_m16n8k16_f16", d, a, b, site);
}
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              Site site = Site::current()) {
  simt::mma_m16n8k16<BFloat16ToFloat>("mma_m16n8k16_bf16", d, a, b, site);
}
// Of floats whose last 13 bits are 0: what the hardware makes of others is not said.
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             Site site = Site::current()) {
  struct Lane {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  for (int r = 0; r < 4; ++r)
    if ((a[r] | b[r % 2]) & 0x1fffu) simt::fail("mma_m16n8k8_tf32 of a float that is not tf32");
  const auto all = [](void* const* operands) {
    float a[16][8], b[8][8];
    for (int lane = 0; lane < simt::kLanes; ++lane) {
      const Lane& from = *static_cast<Lane*>(operands[lane]);
      for (int r = 0; r < 4; ++r) a[lane / 4 + r % 2 * 8][lane % 4 + r / 2 * 4] = from_bits(from.a[r]);
      for (int r = 0; r < 2; ++r) b[lane % 4 + r * 4][lane / 4] = from_bits(from.b[r]);
    }
    for (int lane = 0; lane < simt::kLanes; ++lane)
      for (int r = 0; r < 4; ++r) {
        float& out = static_cast<Lane*>(operands[lane])->d[r];
        double sum = out;
        for (int k = 0; k < 8; ++k) sum += double{a[lane / 4 + r / 2 * 8][k]} * b[k][lane % 4 * 2 + r % 2];
        out = static_cast<float>(sum);
      }
  };
  simt::meet_warp("mma_m16n8k8_tf32", 0, &mine, all, site);
}

}  // namespace tla::cuda
