// A small product by TMA, mbarriers and wgmma that tries the shim out: `shim_hopper_kernels BUG SEED COUNT` runs it
// with each of COUNT seeds; a bug other than "none" takes a piece of it away.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cuda/hopper.cuh"

namespace tla::cuda {
namespace {

enum Bug {
  kNone,
  kWrongPhase,
  kNoWaitForCopies,
  kNoExpect,
  kTooFewBytes,
  kRefilledWhileRead,
  kPeerNotAsked,
  kReleasedEarly,
  kNoWaitForProducts,
  kNoFence,
  kWrongStep,
  kNotSwizzled,
  kMisaligned,
  kInitNotFenced,
  kNoSyncAfterInit,
  kNoSyncAtEnd,
  kPeerNotReleased,
  kTooManyArrivals,
};
const std::map<std::string, Bug> kBugs = {
    {"none", kNone},
    {"wrong_phase", kWrongPhase},
    {"no_wait_for_copies", kNoWaitForCopies},
    {"no_expect", kNoExpect},
    {"too_few_bytes", kTooFewBytes},
    {"refilled_while_read", kRefilledWhileRead},
    {"peer_not_asked", kPeerNotAsked},
    {"released_early", kReleasedEarly},
    {"no_wait_for_products", kNoWaitForProducts},
    {"no_fence", kNoFence},
    {"wrong_step", kWrongStep},
    {"not_swizzled", kNotSwizzled},
    {"misaligned", kMisaligned},
    {"init_not_fenced", kInitNotFenced},
    {"no_sync_after_init", kNoSyncAfterInit},
    {"no_sync_at_end", kNoSyncAtEnd},
    {"peer_not_released", kPeerNotReleased},
    {"too_many_arrivals", kTooManyArrivals},
};

constexpr int kStages = 2, kRows = 64, kColumns = 256, kStep = 64, kBox = 64 * 128, kStage = 5 * kBox;

struct Params {
  TensorMap a, b;
  float* d;  // (blocks, 64, 256)
  int steps, bug;
};

// Each block of a pair has 64 rows of its own and all columns: it copies half of those to both.
TLA_KERNEL(256, 1) multiply(const TLA_GRID_CONSTANT Params p) {
  TLA_DYNAMIC_SHARED(memory);
  const int rank = cluster_rank(), t = thread_id(), lane = lane_id();
  const uint32_t begin = shared_address(memory),
                 address = (begin + 1023) / 1024 * 1024 + (p.bug == kMisaligned ? 128 : 0);
  char* stages = memory + (address - begin);
  uint64_t *full = reinterpret_cast<uint64_t*>(stages + kStages * kStage), *empty = full + kStages;
  if (t == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s, 1);
      // Four warps of each block that reads what either copies.
      barrier_init(empty + s, p.bug == kPeerNotAsked ? 4 : 8);
    }
    if (p.bug != kInitNotFenced) fence_barrier_init();
  }
  if (p.bug == kNoSyncAfterInit)
    block_sync();
  else
    cluster_sync();
  if (t < 128) {
    give_registers<24>();
    for (int k = 0; t == 0 && k < p.steps; ++k) {
      const int s = k % kStages, parity = k / kStages % 2;
      char* stage = stages + s * kStage;
      if (p.bug != kRefilledWhileRead) barrier_wait(empty + s, parity ^ 1);
      if (p.bug == kNoExpect)
        barrier_arrive(full + s, rank);
      else
        barrier_expect(full + s, p.bug == kTooFewBytes ? kStage - 2 * kBox : kStage);
      load_tile(stage, p.a, block_id() * kRows, k * kStep, full + s);
      for (int half = 0; half < 2; ++half)
        load_tile(stage + (1 + 2 * rank + half) * kBox, p.b, rank * 128 + half * 64, k * kStep, full + s, 3);
    }
  } else {
    take_registers<240>();
    float acc[128];
    for (int k = 0; k < p.steps; ++k) {
      const int s = k % kStages, parity = k / kStages % 2;
      uint64_t a = tile_descriptor(address + s * kStage), b = tile_descriptor(address + s * kStage + kBox);
      if (p.bug == kWrongStep) b -= uint64_t{512 >> 4} << 32;
      if (p.bug == kNotSwizzled) b &= ~(uint64_t{3} << 62);
      if (p.bug != kNoWaitForCopies) barrier_wait(full + s, p.bug == kWrongPhase ? parity ^ 1 : parity);
      if (p.bug != kNoFence) wgmma_fence();
      for (int n = 0; n < kStep; n += 16)
        wgmma_m64n256k16_f16(acc, descriptor_at(a, n), descriptor_at(b, n), k > 0 || n > 0);
      wgmma_commit();
      const auto release = [&](int stage) {
        if (lane < (p.bug == kPeerNotReleased ? 1 : 2))
          barrier_arrive(empty + stage, p.bug == kPeerNotAsked ? rank : p.bug == kPeerNotReleased ? rank : lane);
      };
      if (p.bug == kPeerNotAsked) {
        wgmma_wait<0>();
        if (lane == 0) barrier_arrive(empty + s, rank);
      } else if (p.bug == kReleasedEarly) {
        release(s);
      } else {
        wgmma_wait<1>();
        if (k > 0) release((k - 1) % kStages);
        if (p.bug == kTooManyArrivals && k == 1) release(0);
      }
    }
    if (p.bug != kNoWaitForProducts) wgmma_wait<0>();
    for (int n = 0; n < 128; ++n) {
      const int row = (t / 32 - 4) * 16 + lane / 4 + n / 2 % 2 * 8, column = n / 4 * 8 + lane % 4 * 2 + n % 2;
      p.d[(int64_t{block_id()} * kRows + row) * kColumns + column] = acc[n];
    }
  }
  if (p.bug != kNoSyncAtEnd) cluster_sync();
}

// Halves of small integers, whose sums are exact: 2^e by bits where the number is one.
uint16_t half_of(int64_t i) { return float_to_half(static_cast<float>(i * 7 % 31 % 9 - 4)); }

bool run(uint64_t seed, int bug) {
  const int steps = 3 + static_cast<int>(seed % 4), columns = steps * kStep - 8;  // the last box reaches beyond
  const int64_t rows = 2 * 2 * kRows - 5, others = kColumns - 3;
  std::vector<uint16_t> a(rows * columns), b(others * columns);
  for (size_t i = 0; i < a.size(); ++i) a[i] = half_of(i);
  for (size_t i = 0; i < b.size(); ++i) b[i] = half_of(i * 5 + 3);
  const simt::Buffer of_a = simt::Buffer::input(a.data(), 2 * a.size()),
                     of_b = simt::Buffer::input(b.data(), 2 * b.size()),
                     d = simt::Buffer::output(4 * 4 * kRows * kColumns, seed);
  simt::Launch{.seed = seed}(
      multiply, LaunchShape{.blocks = 4, .cluster = 2, .threads = 256, .shared_bytes = 2048 + kStages * kStage},
      {{of_a.as<uint16_t>(), rows, columns, columns, 64, 64},
       {of_b.as<uint16_t>(), others, columns, columns, 64, 64},
       d.as<float>(),
       steps,
       bug});
  for (int64_t i = 0; i < 4 * kRows; ++i)
    for (int64_t j = 0; j < kColumns; ++j) {
      float sum = 0;
      for (int64_t k = 0; i < rows && j < others && k < columns; ++k)
        sum += half_to_float(a[i * columns + k]) * half_to_float(b[j * columns + k]);
      if (d.as<float>()[i * kColumns + j] != sum) return false;
    }
  return true;
}

}  // namespace
}  // namespace tla::cuda

int main(int argc, char** argv) {
  using namespace tla::cuda;
  if (argc < 4 || !kBugs.count(argv[1])) return 2;
  const uint64_t first = std::strtoull(argv[2], nullptr, 10), count = std::strtoull(argv[3], nullptr, 10);
  for (uint64_t seed = first; seed < first + count; ++seed)
    if (!run(seed, kBugs.at(argv[1]))) {
      std::fprintf(stderr, "wrong result with seed %llu\n", static_cast<unsigned long long>(seed));
      return 1;
    }
  return 0;
}
