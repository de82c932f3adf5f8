// Small kernels that try the shim out. `shim_kernels CASE BUG SEED COUNT` runs a case with each of COUNT seeds and
// compares with what it must give; a bug other than "none" takes a piece of the kernel away.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "../../csrc/cuda/simt.cuh"

namespace tla::cuda {
namespace {

enum Bug {
  kNone,
  kNoBarrier,
  kNoBarrierBeforeReuse,
  kDivergentShuffle,
  kDifferentMasks,
  kNoClusterSync,
  kNoClusterSyncAtEnd,
  kLateRead,
  kNoGridSync,
  kUnwrittenWorkspace,
  kTailNotZeroed,
  kRowOverrun,
  kWriteOverrun,
  kSharedOverrun,
  kMisaligned,
  kDivergentBarrier,
  kEarlyExit,
  kDeadlock,
  kNoBarrierAfterAtomic,
  kPlainForAtomic,
  kNotCooperative,
  kWithoutCluster,
  kWrongFragments,
  kLivelock,
  kNoWarpSync,
  kOneWaitTooFew,
  kRefilledWhileRead,
  kTailNotCopied,
};

const std::map<std::string, Bug> kBugs = {
    {"none", kNone},
    {"no_barrier", kNoBarrier},
    {"no_barrier_before_reuse", kNoBarrierBeforeReuse},
    {"divergent_shuffle", kDivergentShuffle},
    {"different_masks", kDifferentMasks},
    {"no_cluster_sync", kNoClusterSync},
    {"no_cluster_sync_at_end", kNoClusterSyncAtEnd},
    {"late_read", kLateRead},
    {"no_grid_sync", kNoGridSync},
    {"unwritten_workspace", kUnwrittenWorkspace},
    {"tail_not_zeroed", kTailNotZeroed},
    {"row_overrun", kRowOverrun},
    {"write_overrun", kWriteOverrun},
    {"shared_overrun", kSharedOverrun},
    {"misaligned", kMisaligned},
    {"divergent_barrier", kDivergentBarrier},
    {"early_exit", kEarlyExit},
    {"deadlock", kDeadlock},
    {"no_barrier_after_atomic", kNoBarrierAfterAtomic},
    {"plain_for_atomic", kPlainForAtomic},
    {"not_cooperative", kNotCooperative},
    {"without_cluster", kWithoutCluster},
    {"wrong_fragments", kWrongFragments},
    {"livelock", kLivelock},
    {"no_warp_sync", kNoWarpSync},
    {"one_wait_too_few", kOneWaitTooFew},
    {"refilled_while_read", kRefilledWhileRead},
    {"tail_not_copied", kTailNotCopied},
};

constexpr int kBlock = 128;

// Small integers, so that sums are exact in any order.
float input_at(int64_t i) { return static_cast<float>(i * 7 % 31 - 11); }

struct Params {
  const float* x = nullptr;
  float* y = nullptr;
  float* workspace = nullptr;
  int64_t n = 0;
  int bug = kNone;
  uint32_t* counters = nullptr;
  uint64_t* least = nullptr;
};

// --- Shared memory: rounds of a rotation within the block -----------------------------------------------------------

TLA_KERNEL(kBlock, 1) rotate(const Params p) {
  TLA_SHARED(float, values, kBlock);
  const int t = thread_id();
  float value = p.x[block_id() * kBlock + t];
  for (int round = 1; round <= 4; ++round) {
    values[t] = value;
    if (p.bug == kDivergentBarrier) {
      if (t < kBlock / 2)
        block_sync();
      else
        block_sync();
    } else if (p.bug == kDeadlock && t == 5) {
      warp_sync();
    } else if (p.bug == kEarlyExit && t == 77) {
      return;
    } else if (p.bug != kNoBarrier) {
      block_sync();
    }
    value = values[(t + 33 * round) % kBlock] + static_cast<float>(round);
    if (p.bug != kNoBarrierBeforeReuse) block_sync();
  }
  p.y[block_id() * kBlock + t] = value;
}

bool run_rotate(uint64_t seed, int bug) {
  const int64_t blocks = 1 + seed % 7, n = blocks * kBlock;
  std::vector<float> x(n), expected;
  for (int64_t i = 0; i < n; ++i) x[i] = input_at(i);
  expected = x;
  for (int round = 1; round <= 4; ++round) {
    const std::vector<float> before = expected;
    for (int64_t i = 0; i < n; ++i)
      expected[i] = before[i / kBlock * kBlock + (i % kBlock + 33 * round) % kBlock] + static_cast<float>(round);
  }
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * n), out = simt::Buffer::output(4 * n, seed);
  simt::Launch{.seed = seed}(rotate, LaunchShape{.blocks = blocks},
                             {.x = in.as<float>(), .y = out.as<float>(), .bug = bug});
  return std::memcmp(out.as<float>(), expected.data(), 4 * n) == 0;
}

// --- Rows with a tail, in packs and in a tile -----------------------------------------------------------------------

TLA_KERNEL(kBlock, 1) sum_row(const Params p) {
  TLA_SHARED(float, tile, kBlock);
  TLA_SHARED(float, of_warp, kBlock / kWarp);
  const int t = thread_id();
  const float* row = p.x + block_id() * p.n;
  const int64_t limit = p.bug == kRowOverrun ? p.n + 1 : p.n;
  if (t < limit)
    tile[t] = row[t];
  else if (p.bug != kTailNotZeroed)
    tile[t] = 0;
  float* beyond = tile + (p.bug == kSharedOverrun ? kBlock : 0);
  if (t == 0 && p.bug == kSharedOverrun) *beyond = 1;
  block_sync();
  // Packs of four, read by others than wrote them.
  float sum = 0;
  if (t < kBlock / 4) {
    const auto* packs = reinterpret_cast<const Pack<float, 4>*>(tile + (p.bug == kMisaligned && t == 0 ? 1 : 0));
    const Pack<float, 4> four = packs[t];
    for (float v : four.at) sum += v;
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    if (p.bug == kDivergentShuffle && lane_id() == 3)
      sum += shuffle_xor(sum, mask);
    else if (p.bug == kDifferentMasks && lane_id() == 3)
      sum += 0;
    if (!(p.bug == kDivergentShuffle && lane_id() == 3))
      sum += shuffle_xor(sum, p.bug == kDifferentMasks && lane_id() == 3 ? mask ^ 1 : mask);
  }
  const unsigned first = ballot(lane_id() == 9 || lane_id() == 20);
  if (lane_id() == first_set(first)) of_warp[t / kWarp] = sum + static_cast<float>(count_set(first));
  block_sync();
  if (t == 0 || (p.bug == kWriteOverrun && t == 1)) {
    float total = 0;
    for (float v : of_warp) total += v;
    p.y[block_id() + t] = total;
  }
}

bool run_sum_row(uint64_t seed, int bug) {
  const int64_t rows = 3, n = 97 + seed % 31;
  std::vector<float> x(rows * n);
  for (size_t i = 0; i < x.size(); ++i) x[i] = input_at(i);
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * x.size()), out = simt::Buffer::output(4 * rows, seed);
  simt::Launch{.seed = seed}(sum_row, LaunchShape{.blocks = rows},
                             {.x = in.as<float>(), .y = out.as<float>(), .n = n, .bug = bug});
  for (int64_t r = 0; r < rows; ++r) {
    float sum = 8;
    for (int64_t k = 0; k < n; ++k) sum += x[r * n + k];
    if (out.as<float>()[r] != sum) return false;
  }
  return true;
}

// --- Exchanges within warps, through shared memory ------------------------------------------------------------------

TLA_KERNEL(kBlock, 1) exchange(const Params p) {
  TLA_SHARED(float, values, kBlock);
  const int t = thread_id(), other = t ^ 13;
  values[t] = p.x[t];
  // All lanes have come this far after a shuffle, but what they wrote need not have.
  const int lane = shuffle(lane_id(), 3);
  if (p.bug != kNoWarpSync) warp_sync();
  p.y[t] = values[other] + static_cast<float>(lane);
}

bool run_warps(uint64_t seed, int bug) {
  std::vector<float> x(kBlock);
  for (int t = 0; t < kBlock; ++t) x[t] = input_at(t);
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * kBlock), out = simt::Buffer::output(4 * kBlock, seed);
  simt::Launch{.seed = seed}(exchange, LaunchShape{}, {.x = in.as<float>(), .y = out.as<float>(), .bug = bug});
  for (int t = 0; t < kBlock; ++t)
    if (out.as<float>()[t] != x[t ^ 13] + 3) return false;
  return true;
}

// --- Clusters -------------------------------------------------------------------------------------------------------

template <int size>
TLA_KERNEL(kBlock, 1)
sum_over_cluster(const Params p) {
  TLA_SHARED(float, part, kBlock);
  const int t = thread_id();
  part[t] = p.x[block_id() * kBlock + t];
  if (p.bug != kNoClusterSync) cluster_sync();
  if (block_id() % size == 0) {
    const float* parts[size];
    for (int rank = 0; rank < size; ++rank) parts[rank] = cluster_peer(part + 1, rank);
    if (p.bug == kLateRead) block_sync();  // long enough for the others to leave
    float sum = 0;
    for (int rank = 0; rank < size; ++rank) sum += parts[rank][(t + rank) % kBlock - 1];
    p.y[block_id() / size * kBlock + t] = sum;
  }
  if (p.bug != kNoClusterSyncAtEnd && p.bug != kLateRead) cluster_sync();
}

bool run_cluster(uint64_t seed, int bug) {
  constexpr int kSize = 4;
  const int64_t clusters = 1 + seed % 3, n = clusters * kSize * kBlock;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = input_at(i);
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * n), out = simt::Buffer::output(n, seed);
  simt::Launch{.seed = seed}(
      sum_over_cluster<kSize>,
      LaunchShape{
          .blocks = clusters * kSize, .cluster = bug == kWithoutCluster ? 1 : kSize, .cooperative = seed % 2 == 0},
      {.x = in.as<float>(), .y = out.as<float>(), .bug = bug});
  for (int64_t c = 0; c < clusters; ++c)
    for (int t = 0; t < kBlock; ++t) {
      float sum = 0;
      for (int rank = 0; rank < kSize; ++rank) sum += x[(c * kSize + rank) * kBlock + (t + rank) % kBlock];
      if (out.as<float>()[c * kBlock + t] != sum) return false;
    }
  return true;
}

// --- The grid: three phases through a workspace ---------------------------------------------------------------------

TLA_KERNEL(kBlock, 1) phases(const Params p) {
  const int64_t i = block_id() * kBlock + thread_id(), n = int64_t{grid_blocks()} * kBlock;
  if (!(p.bug == kUnwrittenWorkspace && i == n - 1)) p.workspace[i] = p.x[i];
  if (p.bug != kNoGridSync) grid_sync();
  const float value = p.workspace[(i * 5 + 3) % n] + p.workspace[(i + kBlock) % n];
  grid_sync();
  p.workspace[i] = value;
  grid_sync();
  p.y[i] = p.workspace[n - 1 - i];
}

bool run_grid(uint64_t seed, int bug) {
  const int64_t blocks = 2 + seed % 5, n = blocks * kBlock;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = input_at(i);
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * n), out = simt::Buffer::output(4 * n, seed),
                     workspace = simt::Buffer::output(4 * n, seed);
  simt::Launch{.seed = seed}(
      phases, LaunchShape{.blocks = blocks, .cooperative = bug != kNotCooperative},
      {.x = in.as<float>(), .y = out.as<float>(), .workspace = workspace.as<float>(), .bug = bug});
  for (int64_t j = 0; j < n; ++j) {
    const int64_t i = n - 1 - j;
    if (out.as<float>()[j] != x[(i * 5 + 3) % n] + x[(i + kBlock) % n]) return false;
  }
  return true;
}

// --- Atomics --------------------------------------------------------------------------------------------------------

TLA_KERNEL(kBlock, 1) count(const Params p) {
  TLA_SHARED(uint32_t, seen, 1);
  if (thread_id() == 0) seen[0] = 0;
  block_sync();
  const float value = p.x[block_id() * kBlock + thread_id()];
  if (p.bug == kPlainForAtomic && thread_id() == 0)
    ++seen[0];
  else
    atomic_add(seen, 1u);
  atomic_min(p.least, static_cast<uint64_t>(value + 100) << 32 | static_cast<uint64_t>(thread_id()));
  if (p.bug != kNoBarrierAfterAtomic) block_sync();
  if (thread_id() == 17) atomic_add(p.counters, seen[0]);
  if (p.bug == kLivelock && thread_id() == 0)
    while (atomic_add(p.counters, 0u) != 0) {
    }
  atomic_add(p.y, 1.f);
}

bool run_atomics(uint64_t seed, int bug) {
  const int64_t blocks = 3, n = blocks * kBlock;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = input_at(i);
  const uint64_t none = ~uint64_t{0};
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * n), counter = simt::Buffer::input(nullptr, 4),
                     sum = simt::Buffer::input(nullptr, 4), least = simt::Buffer::input(&none, 8);
  simt::Launch{.seed = seed}(count, LaunchShape{.blocks = blocks},
                             {.x = in.as<float>(),
                              .y = sum.as<float>(),
                              .bug = bug,
                              .counters = counter.as<uint32_t>(),
                              .least = least.as<uint64_t>()});
  uint64_t expected = none;
  for (int64_t i = 0; i < n; ++i)
    expected = std::min(expected, static_cast<uint64_t>(x[i] + 100) << 32 | static_cast<uint64_t>(i % kBlock));
  return *counter.as<uint32_t>() == n && *sum.as<float>() == static_cast<float>(n) && *least.as<uint64_t>() == expected;
}

// --- Asynchronous copies: a row in steps through three stages -------------------------------------------------------

TLA_KERNEL(kBlock, 1) stream(const Params p) {
  constexpr int kStages = 3, kStep = 4 * kBlock;
  TLA_SHARED(float, stages, kStages* kStep);
  const int t = thread_id(), steps = static_cast<int>(ceil_div(p.n, kStep));
  const float* row = p.x + block_id() * p.n;
  const auto fetch = [&](int step) {
    const int64_t at = int64_t{step} * kStep + 4 * t;
    const bool there = at < p.n;
    if (step < steps && (there || p.bug != kTailNotCopied))
      copy_async(stages + step % kStages * kStep + 4 * t, row + (there ? at : 0), there);
    copy_commit();
  };
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  float sum = 0;
  for (int step = 0; step < steps; ++step) {
    p.bug == kOneWaitTooFew ? copy_wait<kStages - 1>() : copy_wait<kStages - 2>();
    block_sync();
    // The stage that the step before has read.
    if (p.bug != kRefilledWhileRead) fetch(step + kStages - 1);
    for (int n = 0; n < 4; ++n) sum += stages[step % kStages * kStep + (4 * t + 33 + n) % kStep];
    if (p.bug == kRefilledWhileRead) fetch(step + kStages);
  }
  p.y[block_id() * kBlock + t] = sum;
}

bool run_stream(uint64_t seed, int bug) {
  const int64_t blocks = 2, n = 4 * (552 + 40 * (seed % 6));
  std::vector<float> x(blocks * n);
  for (size_t i = 0; i < x.size(); ++i) x[i] = input_at(i);
  const simt::Buffer in = simt::Buffer::input(x.data(), 4 * x.size()),
                     out = simt::Buffer::output(4 * blocks * kBlock, seed);
  simt::Launch{.seed = seed}(stream, LaunchShape{.blocks = blocks},
                             {.x = in.as<float>(), .y = out.as<float>(), .n = n, .bug = bug});
  for (int64_t i = 0; i < blocks * kBlock; ++i) {
    float sum = 0;
    for (int64_t step = 0; step < n; step += 4 * kBlock)
      for (int64_t e = 0; e < 4; ++e) {
        const int64_t at = step + (i % kBlock * 4 + 33 + e) % (4 * kBlock);
        if (at < n) sum += x[i / kBlock * n + at];
      }
    if (out.as<float>()[i] != sum) return false;
  }
  return true;
}

// --- Conversions and mma, whose operands and results go through the files -------------------------------------------

struct Conversion {
  const uint16_t* halves;
  const float* floats;
  float *from_half, *from_bfloat16;
  uint16_t *to_half, *to_bfloat16;
  int64_t halves_count, floats_count;
};

TLA_KERNEL(kBlock, 1) convert(const Conversion p) {
  const int64_t i = block_id() * kBlock + thread_id();
  if (i < p.halves_count) {
    p.from_half[i] = half_to_float(p.halves[i]);
    p.from_bfloat16[i] = bfloat16_to_float(p.halves[i]);
  }
  if (i < p.floats_count) {
    p.to_half[i] = float_to_half(p.floats[i]);
    p.to_bfloat16[i] = float_to_bfloat16(p.floats[i]);
  }
}

std::vector<char> read_all() {
  std::vector<char> data;
  char part[65536];
  while (const size_t n = std::fread(part, 1, sizeof(part), stdin)) data.insert(data.end(), part, part + n);
  return data;
}
void write_all(const simt::Buffer& buffer) { std::fwrite(buffer.as<char>(), 1, buffer.bytes(), stdout); }

// In: 65536 halves, floats. Out: floats of the halves, of the bfloat16s; halves and bfloat16s of the floats.
void convert_file() {
  const std::vector<char> data = read_all();
  const int64_t halves = 65536, floats = (static_cast<int64_t>(data.size()) - 2 * halves) / 4;
  const simt::Buffer in_halves = simt::Buffer::input(data.data(), 2 * halves),
                     in_floats = simt::Buffer::input(data.data() + 2 * halves, 4 * floats),
                     from_half = simt::Buffer::output(4 * halves), from_bfloat16 = simt::Buffer::output(4 * halves),
                     to_half = simt::Buffer::output(2 * floats), to_bfloat16 = simt::Buffer::output(2 * floats);
  simt::Launch{}(convert, LaunchShape{.blocks = ceil_div(std::max(halves, floats), kBlock)},
                 {in_halves.as<uint16_t>(), in_floats.as<float>(), from_half.as<float>(), from_bfloat16.as<float>(),
                  to_half.as<uint16_t>(), to_bfloat16.as<uint16_t>(), halves, floats});
  for (const simt::Buffer* out : {&from_half, &from_bfloat16, &to_half, &to_bfloat16}) write_all(*out);
}

struct Product {
  const uint16_t *a, *b;  // [16][16], [16][8]
  const float* c;         // [16][8]
  float* d;               // as bfloat16, then as half
  int bug;
};

TLA_KERNEL(kWarp, 1) multiply(const Product p) {
  const int group = lane_id() / 4, pair = lane_id() % 4 * 2;
  const auto two = [](uint16_t low, uint16_t high) { return uint32_t{low} | uint32_t{high} << 16; };
  const auto two_of_a = [&](int row, int k) { return two(p.a[row * 16 + k], p.a[row * 16 + k + 1]); };
  uint32_t a[4] = {two_of_a(group, pair), two_of_a(group + 8, pair), two_of_a(group, pair + 8),
                   two_of_a(group + 8, pair + 8)};
  if (p.bug == kWrongFragments) {
    const uint32_t kept = a[1];
    a[1] = a[2];
    a[2] = kept;
  }
  // The same through shared memory.
  TLA_SHARED(uint16_t, rows, 16 * 16);
  for (int n = lane_id(); n < 16 * 16; n += kWarp) rows[n] = p.a[n];
  warp_sync();
  uint32_t loaded[4];
  load_matrices(loaded, rows + lane_id() % 16 * 16 + lane_id() / 16 * 8);
  for (int r = 0; r < 4; ++r)
    if (p.bug == kNone) a[r] = loaded[r];
  const uint32_t b[2] = {two(p.b[pair * 8 + group], p.b[pair * 8 + 8 + group]),
                         two(p.b[(pair + 8) * 8 + group], p.b[(pair + 9) * 8 + group])};
  for (int type = 0; type < 2; ++type) {
    float d[4];
    for (int r = 0; r < 4; ++r) d[r] = p.c[(group + r / 2 * 8) * 8 + pair + r % 2];
    if (type == 0)
      mma_m16n8k16_bf16(d, a, b);
    else
      mma_m16n8k16_f16(d, a, b);
    for (int r = 0; r < 4; ++r) p.d[type * 128 + (group + r / 2 * 8) * 8 + pair + r % 2] = d[r];
  }
}

// Floats (16, 8) and (8, 8) as tf32, bits of dynamic shared memory on their way.
struct Tf32Product {
  const uint32_t *a, *b;  // [16][8], [8][8]
  const float* c;         // [16][8]
  float* d;
  int bug;
};

TLA_KERNEL(kWarp, 1) multiply_tf32(const Tf32Product p) {
  TLA_DYNAMIC_SHARED(memory);
  uint32_t* rows = reinterpret_cast<uint32_t*>(memory);
  // Copied in parts: the last 8 bytes of each row's 32 are zeros.
  const int row = lane_id() / 2, half = lane_id() % 2;
  copy_async(rows + row * 8 + half * 4, p.a + row * 8 + half * 4, half == 0 ? 16 : 8);
  copy_commit();
  copy_wait<0>();
  warp_sync();
  const int group = lane_id() / 4, k = lane_id() % 4;
  uint32_t a[4];
  load_matrices(a, rows + lane_id() % 16 * 8 + lane_id() / 16 * 4);
  if (p.bug == kWrongFragments) {
    const uint32_t kept = a[1];
    a[1] = a[2];
    a[2] = kept;
  }
  const uint32_t b[2] = {p.b[k * 8 + group], p.b[(k + 4) * 8 + group]};
  float d[4];
  for (int r = 0; r < 4; ++r) d[r] = p.c[(group + r / 2 * 8) * 8 + 2 * k + r % 2];
  mma_m16n8k8_tf32(d, a, b);
  for (int r = 0; r < 4; ++r) p.d[(group + r / 2 * 8) * 8 + 2 * k + r % 2] = d[r];
}

// In: a, b, c. Out: d.
void multiply_tf32_file(int bug) {
  const std::vector<char> data = read_all();
  const simt::Buffer a = simt::Buffer::input(data.data(), 512), b = simt::Buffer::input(data.data() + 512, 256),
                     c = simt::Buffer::input(data.data() + 768, 512), d = simt::Buffer::output(512);
  simt::Launch{}(multiply_tf32, LaunchShape{.threads = kWarp, .shared_bytes = 512},
                 {a.as<uint32_t>(), b.as<uint32_t>(), c.as<float>(), d.as<float>(), bug});
  write_all(d);
}

// In: a, b, c. Out: d.
void multiply_file(int bug) {
  const std::vector<char> data = read_all();
  const simt::Buffer a = simt::Buffer::input(data.data(), 512), b = simt::Buffer::input(data.data() + 512, 256),
                     c = simt::Buffer::input(data.data() + 768, 512), d = simt::Buffer::output(1024);
  simt::Launch{.threads = kWarp}(multiply, LaunchShape{},
                                 {a.as<uint16_t>(), b.as<uint16_t>(), c.as<float>(), d.as<float>(), bug});
  write_all(d);
}

}  // namespace
}  // namespace tla::cuda

int main(int argc, char** argv) {
  using namespace tla::cuda;
  const std::map<std::string, std::function<bool(uint64_t, int)>> cases = {
      {"rotate", run_rotate}, {"sum_row", run_sum_row}, {"cluster", run_cluster}, {"grid", run_grid},
      {"warps", run_warps},   {"atomics", run_atomics}, {"stream", run_stream}};
  if (argc < 3 || !kBugs.count(argv[2])) return 2;
  const std::string name = argv[1];
  const int bug = kBugs.at(argv[2]);
  if (name == "convert") return convert_file(), 0;
  if (name == "multiply") return multiply_file(bug), 0;
  if (name == "multiply_tf32") return multiply_tf32_file(bug), 0;
  if (argc < 5 || !cases.count(name)) return 2;
  const uint64_t first = std::strtoull(argv[3], nullptr, 10), count = std::strtoull(argv[4], nullptr, 10);
  for (uint64_t seed = first; seed < first + count; ++seed)
    if (!cases.at(name)(seed, bug)) {
      std::fprintf(stderr, "wrong result with seed %llu\n", static_cast<unsigned long long>(seed));
      return 1;
    }
  return 0;
}
