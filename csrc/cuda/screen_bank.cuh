// The screen of few anchors among many candidates as they are: bfloat16, float16 or float32, read once, by mma.sync.
//
// A warp takes 32 candidates against all 64 anchors of a pass, and brings its candidates' bytes itself through a ring
// of stages: warps wait for nobody else, while anchors stay in shared memory. Squared norms come from the registers
// that are multiplied. 32 bytes of a row are a unit: 16 halves, or 8 floats, which have fragments of the same layout.
#pragma once

#include "../common/plan_bank.h"
#include "bank_types.cuh"

namespace tla::cuda {

struct BankParams {
  LargeParams large;  // packed_anchor: fragments, unit by unit
  int slices, stages;
  bool resident;
};

// Of an anchor: weight of its products, its error as `width` |y| + `gamma` beside the candidate's own share.
struct alignas(16) BankAnchor {
  float scale, width, gamma, maybe;
};

template <class E>
struct BankScreen {
  static constexpr int kUnits = kBankSlice / 32, kChunks = kBankSlice / 16;  // of a slice
  static constexpr int kColumns = kBankAnchors / 8;                          // products of 16 x 8

  const BankParams& bank;
  const LargeParams& p;
  const SearchParams& s;
  char* memory;
  BankAnchor* anchors;
  int64_t* labels;  // [2][kBankAnchors]: own, target
  uint32_t* best;   // [slots][kBankAnchors], of all blocks, as far as known; infinity: nobody may be picked
  bool angular;

  float acc[2][kColumns][4];
  float square[2][2];  // of rows lane / 4 and 8 further on: the lane's share
  // Of a lane's four candidates.
  int64_t label[4];
  float weight[4], norm[4], own[4];

  TLA_DEVICE BankScreen(const BankParams& b, char* shared)
      : bank(b), p(b.large), s(b.large.search), memory(shared), angular(s.metric == Metric::kAngular) {
    char* table = memory + (b.resident ? b.slices * kBankAnchorSlice : 0) + b.stages * stage_bytes();
    anchors = reinterpret_cast<BankAnchor*>(table);
    labels = reinterpret_cast<int64_t*>(anchors + kBankAnchors);
    best = reinterpret_cast<uint32_t*>(labels + 2 * kBankAnchors);
  }

  TLA_DEVICE static int warp() { return thread_id() / kWarp; }
  TLA_DEVICE int stage_bytes() const { return kBankStageBytes + (bank.resident ? 0 : kBankAnchorSlice); }
  TLA_DEVICE char* stage(int n) const {
    return memory + (bank.resident ? bank.slices * kBankAnchorSlice : 0) + n * stage_bytes();
  }
  TLA_DEVICE const char* packed_slice(int slice) const {
    return reinterpret_cast<const char*>(p.packed_anchor) + int64_t{slice} * kBankAnchorSlice;
  }
  // Where a row's 16 bytes stand in the warp's share of a stage: eight rows' of one k lie in different banks.
  TLA_DEVICE static int place(int row, int k) {
    return (warp() * kBankRows + row) * kBankSlice + (k ^ row % kChunks) * 16;
  }

  TLA_DEVICE void copy_anchors(char* to, const char* from, int bytes) const {
    for (int at = 16 * thread_id(); at < bytes; at += 16 * kBankWarps * kWarp) copy_async(to + at, from + at, 16);
  }

  TLA_DEVICE void fetch(int64_t tile, int slice, int n) const {
    constexpr int kSize = sizeof(typename E::Bits), kRowsAtOnce = kWarp / kChunks;
    char* to = stage(n);
    const int k = lane_id() % kChunks, left = s.d * kSize - slice * kBankSlice - 16 * k;
    const int bytes = left < 0 ? 0 : left < 16 ? left : 16;
#pragma unroll
    for (int r = 0; r < kBankRows; r += kRowsAtOnce) {
      const int row = r + lane_id() / kChunks;
      const int64_t j = (tile * kBankWarps + warp()) * kBankRows + row;
      const bool there = j < s.m && bytes > 0;
      const char* from = static_cast<const char*>(s.candidates.data);
      if (there) from += j * s.candidates.row_stride * kSize + slice * kBankSlice + 16 * k;
      copy_async(to + place(row, k), from, there ? bytes : 0);
    }
    if (!bank.resident) copy_anchors(to + kBankStageBytes, packed_slice(slice), kBankAnchorSlice);
  }

  // Groups of copies that may be under way while a stage is read: those of the others.
  TLA_DEVICE void wait() const {
    switch (bank.stages) {
      case 2:
        copy_wait<1>();
        break;
      case 3:
        copy_wait<2>();
        break;
      case 4:
        copy_wait<3>();
        break;
      default:
        copy_wait<4>();
    }
  }
  // Those who share a stage.
  TLA_DEVICE void meet() const { bank.resident ? warp_sync() : block_sync(); }

  TLA_DEVICE void multiply(int slice, int n) {
    const char* rows = stage(n);
    const char* fragments = bank.resident ? memory + slice * kBankAnchorSlice : rows + kBankStageBytes;
    const int lane = lane_id();
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      uint32_t a[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(a[i], rows + place(16 * i + lane % 16, 2 * u + lane / 16));
#pragma unroll
        for (int r = 0; r < 4; ++r) E::prepare(a[i][r], square[i][r % 2]);
      }
#pragma unroll
      for (int q = 0; q < kColumns / 2; ++q) {
        const auto b =
            *reinterpret_cast<const Pack<uint32_t, 4>*>(fragments + ((u * kColumns / 2 + q) * kWarp + lane) * 16);
        const uint32_t b0[2] = {b.at[0], b.at[1]}, b1[2] = {b.at[2], b.at[3]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          E::multiply(acc[i][2 * q], a[i], b0);
          E::multiply(acc[i][2 * q + 1], a[i], b1);
        }
      }
    }
  }

  // A thread an anchor.
  TLA_DEVICE void begin() const {
    const int t = thread_id();
    if (t >= kBankAnchors) return;
    BankAnchor a{0, 0, 0, 0};
    bool live = false, has_target = false;
    if (t < s.b) {
      const Side side = p.anchor[t];
      const Rule rule(s, t);
      const RowError error(p, side);
      live = comparable(side);
      has_target = rule.has_target;
      if (live) a = {side.weight, error.alpha + error.beta * (p.fast ? 0 : 1.001f * E::kCut), error.gamma, 0};
      if (s.semihard()) a.maybe = p.maybe[t];
      labels[t] = rule.own;
      labels[kBankAnchors + t] = rule.target;
    } else {
      labels[t] = labels[kBankAnchors + t] = kNeverLabel;
    }
    anchors[t] = a;
    for (int slot = 0; slot < s.slots(); ++slot) {
      const bool open = live && (slot <= s.semihard() || has_target);
      best[slot * kBankAnchors + t] = in_order(open ? bits_of(-FLT_MAX) : Key<float>::kInfinity);
    }
  }

  // What the lane's candidates are, once they have been multiplied. `label_of_lane`: of row lane.
  TLA_DEVICE void describe(int64_t label_of_lane) {
    const bool cosine = is_cosine(s.metric);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float y2 = square[r / 2][r % 2];
      y2 += shuffle_xor(y2, 1);
      y2 += shuffle_xor(y2, 2);
      label[r] = shuffle(label_of_lane, 8 * r + lane_id() / 4);
      if (cosine) {
        // Between the bounds the sums that decide may take the row for one without direction, or not.
        const bool empty = y2 < 0.5e-24f, known = empty || (y2 > 2e-24f && y2 < 1e36f);
        weight[r] = empty ? 0 : 1 / std::sqrt(y2);
        norm[r] = 1.001f;
        own[r] = known ? 0 : from_bits(Key<float>::kNaN);
      } else {
        weight[r] = 1;
        // The last term: squares that underflowed.
        norm[r] = 1.001f * std::sqrt(y2) + 1e-18f * std::sqrt(static_cast<float>(s.d));
        own[r] = y2 < 1e30f ? y2 : from_bits(Key<float>::kNaN);
      }
    }
  }

  struct Score {
    float value, error;
  };
  // Candidate r of the lane against column c of product n; `sign`: -1 for the farthest.
  TLA_DEVICE Score score(const BankAnchor& a, int n, int c, int r, float sign) const {
    const float product = acc[r / 2][n][r % 2 * 2 + c];
    return {sign * fused((angular ? std::fabs(product) : product) * a.scale, weight[r], -0.5f * own[r]),
            fused(a.width, norm[r], fused(p.error.square, own[r], a.gamma))};
  }
  TLA_DEVICE static int column(int n, int c) { return 8 * n + lane_id() % 4 * 2 + c; }
  TLA_DEVICE float level(int slot, int a) const {
    return from_bits(out_of_order(atomic_load(best + slot * kBankAnchors + a)));
  }
  TLA_DEVICE bool matches(int r, bool wanted, int a) const {
    return (label[r] == labels[wanted * kBankAnchors + a]) == (wanted || s.same_class) && label[r] != kNeverLabel;
  }

  // For each of the lane's anchors a: pairs(a, each_of_them), whose each_of_them calls one(r, score) for every
  // candidate r that the slot's classes allow; then after(a).
  template <class After, class Pairs>
  TLA_DEVICE void each(bool wanted, bool far, const After& after, const Pairs& pairs) const {
    const float sign = p.negated(far) ? -1.f : 1.f;
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int a = column(n, c);
        const BankAnchor anchor = anchors[a];
        pairs(a, [&](const auto& one) {
#pragma unroll
          for (int r = 0; r < 4; ++r)
            if (matches(r, wanted, a)) one(r, score(anchor, n, c, r, sign));
        });
        after(a);
      }
  }

  // Whether any pair may be listed. Negated, so that NaN passes.
  TLA_DEVICE bool any(int slot, bool wanted, bool far) const {
    const bool near = s.semihard() && !far;
    bool hit = false;
    each(
        wanted, far, [](int) {},
        [&](int a, const auto& pairs) {
          const float low = level(slot, a), maybe = anchors[a].maybe;
          pairs([&](int, Score score) {
            hit = hit || (!(score.value + score.error < low) && !(near && score.value - score.error >= maybe));
          });
        });
    return ballot(hit) != 0;
  }

  TLA_DEVICE int64_t excluded(int a) const { return s.labels.exclude != nullptr && a < s.b ? s.labels.exclude[a] : -1; }
  TLA_DEVICE static int64_t candidate(int64_t first, int r) { return first + 8 * r + lane_id() / 4; }

  // Raises what is known to be reached.
  TLA_DEVICE void raise(int slot, bool wanted, bool far, int64_t first) const {
    const bool near = s.semihard() && !far;
    float most = -FLT_MAX;
    each(
        wanted, far,
        [&](int a) {
#pragma unroll
          for (int mask = 4; mask < kWarp; mask *= 2) {
            const float other = shuffle_xor(most, mask);
            most = other > most ? other : most;
          }
          if (lane_id() < 4 && most > level(slot, a)) {
            const uint32_t order = in_order(bits_of(most)), before = atomic_max(&p.best[p.at(slot, a)], order);
            atomic_max(&best[slot * kBankAnchors + a], before > order ? before : order);
          }
        },
        [&](int a, const auto& pairs) {
          const int64_t exclude = excluded(a);
          const float surely = near && a < s.b ? p.surely[a] : from_bits(Key<float>::kInfinity);
          most = -FLT_MAX;
          pairs([&](int r, Score score) {
            const float lower = score.value - score.error;
            if (lower > most && score.value + score.error < surely && candidate(first, r) != exclude) most = lower;
          });
        });
  }

  TLA_DEVICE void list(int slot, bool wanted, bool far, int64_t first) const {
    const bool near = s.semihard() && !far;
    each(
        wanted, far, [](int) {},
        [&](int a, const auto& pairs) {
          const float low = level(slot, a), maybe = anchors[a].maybe;
          const int64_t exclude = excluded(a);
          // Of a row that is not screened NaN alone would pass.
          if (a >= s.b || !(low < from_bits(Key<float>::kInfinity))) return;
          pairs([&](int r, Score score) {
            const float upper = score.value + score.error;
            if (!(upper < low) && !(near && score.value - score.error >= maybe) && candidate(first, r) != exclude)
              push(slot, a, upper, candidate(first, r));
          });
        });
  }
  TLA_DEVICE void push(int slot, int a, float upper, int64_t j) const {
    const int64_t at = p.at(slot, a);
    const uint32_t listed = atomic_add(&p.count[at], 1u);
    if (listed < static_cast<uint32_t>(p.capacity)) {
      p.list[at * p.capacity + listed] = {upper, static_cast<uint32_t>(j)};
    } else {  // the row is redone: nothing more of it is listed
      atomic_max(&p.best[at], in_order(Key<float>::kInfinity));
      atomic_max(&best[slot * kBankAnchors + a], in_order(Key<float>::kInfinity));
    }
  }

  // In a block's first tile its warps learn of each other's best before they list: what 256 candidates have is seldom
  // beaten, what 32 have is.
  TLA_DEVICE void look(int64_t tile, bool first_tile) const {
    const int64_t first = (tile * kBankWarps + warp()) * kBankRows;
#pragma unroll 1
    for (int slot = 0; slot < s.slots(); ++slot) {
      const bool wanted = slot > s.semihard(), far = s.semihard() && slot % 2 == 1;
      const bool hit = any(slot, wanted, far);
      if (hit) raise(slot, wanted, far, first);
      first_tile ? block_sync() : warp_sync();
      if (hit) list(slot, wanted, far, first);
    }
  }

  TLA_DEVICE void run() {
    const int64_t tiles = (s.m + kBankWarps * kBankRows - 1) / (kBankWarps * kBankRows);
    // What is fetched next, `stages` slices ahead of what is read.
    int64_t ahead = block_id();
    int ahead_slice = 0;
    const auto fetch_next = [&](int n) {
      if (ahead < tiles) fetch(ahead, ahead_slice, n);
      copy_commit();  // of an empty group, too: waits count them
      if (++ahead_slice == bank.slices) ahead_slice = 0, ahead += grid_blocks();
    };
    if (bank.resident) copy_anchors(memory, packed_slice(0), bank.slices * kBankAnchorSlice);
    for (int n = 0; n < bank.stages; ++n) fetch_next(n);  // the anchors belong to the first group
    begin();
    int n = 0;
    bool first_tile = true;
#pragma unroll 1
    for (int64_t tile = block_id(); tile < tiles; tile += grid_blocks()) {
      const int64_t j = (tile * kBankWarps + warp()) * kBankRows + lane_id();
      const int64_t label_of_lane = j < s.m ? s.labels.pool[j] : kNeverLabel;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        square[i][0] = square[i][1] = 0;
#pragma unroll
        for (int k = 0; k < kColumns; ++k)
#pragma unroll
          for (int r = 0; r < 4; ++r) acc[i][k][r] = 0;
      }
#pragma unroll 1
      for (int slice = 0; slice < bank.slices; ++slice) {
        wait();
        // The anchors, and what `begin` writes, are there for everybody, too.
        (first_tile && slice == 0) ? block_sync() : meet();
        multiply(slice, n);
        meet();  // the stage has been read
        fetch_next(n);
        n = n + 1 == bank.stages ? 0 : n + 1;
      }
      describe(label_of_lane);
      look(tile, first_tile);
      first_tile = false;
    }
    copy_wait<0>();
  }
};

template <class E>
TLA_KERNEL(kBankWarps* kWarp, 1)
screen_bank_kernel(const BankParams p) {
  TLA_DYNAMIC_SHARED(memory);
  BankScreen<E>(p, memory).run();
}

}  // namespace tla::cuda
