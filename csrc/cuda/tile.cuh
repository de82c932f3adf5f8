// A tile of anchors x candidates: every pair's sum, and every row's squared norm from the same loads, by a team of
// blocks that each take some parts of D.
#pragma once

#include "../common/plan.h"
#include "sums.cuh"

namespace tla::cuda {

template <class T>
constexpr int kBlocksAtOnce = blocks_by_registers(sizeof(T) == 8);

// A warp has 32 anchors x 16 candidates, a thread 4 x 4 of them: rows 8 and columns 4 apart, so that lanes read shared
// memory without conflicts.
template <class T, int kAnchors>
struct Shape {
  static constexpr int kA = kAnchors, kC = kPairsOfTile / kAnchors, kRows = kA + kC;
  static constexpr int kStride = kPiece<T> + 4;              // of a row in the tile
  static constexpr int kSums = kC + 4;                       // of a row of pair sums
  static constexpr int kMaxShared = sizeof(T) == 4 ? 2 : 1;  // parts whose sums a block publishes
  static constexpr int kPartSize = kA * kSums + kRows;       // pair sums, then squared norms
};

// Anchors [first_a, first_a + count_a) and candidates [first_c, first_c + count_c), of which there are at most a
// tile's.
struct TileRows {
  const Rows &anchor, &candidates;
  int64_t first_a, first_c;
  int count_a, count_c, d;
};

template <class Op, class T, class S>
struct PairTile {
  static constexpr int kPacksOfRow = kPiece<T> / 4;
  static constexpr int kRowsAtOnce = kThreads / kPacksOfRow;
  static constexpr int kLoadsA = S::kA / kRowsAtOnce, kLoadsC = S::kC / kRowsAtOnce;

  TileRows in;
  bool norms;
  T* tile;    // [kRows][kStride]
  T* shared;  // [parts of this block][kPartSize]
  Pack<T, 4> from_a[kLoadsA], from_c[kLoadsC];

  TLA_DEVICE PairTile(const TileRows& rows, bool with_norms, T* tile_memory, T* sums)
      : in(rows), norms(with_norms), tile(tile_memory), shared(sums) {}

  // Sums parts [first_part, first_part + parts) of all pairs and publishes each, or their sum if that is all of D.
  TLA_DEVICE void run(int first_part, int parts, bool join) {
#pragma unroll 1
    for (int p = 0; p < parts; ++p) {
      T pair[4][4] = {}, norm = 0;
      sum_part(part_begin(in.d, first_part + p), part_begin(in.d, first_part + p + 1), pair, norm);
      publish(pair, norm, join ? shared : shared + p * S::kPartSize, join && p > 0);
    }
  }

  TLA_DEVICE int warp() const { return thread_id() / kWarp; }
  TLA_DEVICE int row_a(int i) const { return warp() % (S::kA / 32) * 32 + lane_id() / 4 + 8 * i; }
  TLA_DEVICE int row_c(int j) const { return warp() / (S::kA / 32) * 16 + lane_id() % 4 + 4 * j; }

  TLA_DEVICE void sum_part(int begin, int end, T (&pair)[4][4], T& norm) {
    if (begin < end) load(begin, end);
#pragma unroll 1
    for (int k = begin; k < end; k += kPiece<T>) {
      block_sync();  // whoever still reads the last piece
      put(k, end);
      block_sync();
      // The next piece travels while this one is summed.
      if (k + kPiece<T> < end) load(k + kPiece<T>, end);
      const int left = end - k < kPiece<T> ? end - k : kPiece<T>, steps = (left + 4 * kChains - 1) / (4 * kChains);
#pragma unroll 1
      for (int chain = 0; chain < kChains; ++chain) {
        add_pairs(chain, steps, pair);
        if (norms && thread_id() < S::kRows) add_norm(chain, steps, norm);
      }
    }
  }

  // The next piece of packed rows goes into registers, to be put down later; others are copied when it is their turn.
  template <int n>
  TLA_DEVICE void load_rows(const Rows& m, int64_t first, int count, int k, int end, Pack<T, 4> (&out)[n]) {
    if (!in_packs<T>(m)) return;
    const int row = unknown(thread_id()) / kPacksOfRow;
    const int column = k + thread_id() % kPacksOfRow * 4;
    with_pack_type<T>(m.type, [&](auto e) {
      using E = decltype(e);
      using Bits = typename E::Bits;
      const Bits* from = static_cast<const Bits*>(m.data) + (first + row) * m.row_stride + column;
#pragma unroll
      for (int r = 0; r < n; ++r, from += kRowsAtOnce * m.row_stride) {
        out[r] = Pack<T, 4>{};
        if (row + r * kRowsAtOnce < count && column < end) out[r] = load4<E, T>(from);
      }
    });
  }
  TLA_DEVICE void load(int k, int end) {
    load_rows(in.anchor, in.first_a, in.count_a, k, end, from_a);
    load_rows(in.candidates, in.first_c, in.count_c, k, end, from_c);
  }
  template <int n>
  TLA_DEVICE void put_rows(const Rows& m, int64_t first, int count, int k, int end, int to,
                           const Pack<T, 4> (&from)[n]) {
    if (in_packs<T>(m)) {
      const int row = thread_id() / kPacksOfRow, column = thread_id() % kPacksOfRow * 4;
#pragma unroll
      for (int r = 0; r < n; ++r) at(to + row + r * kRowsAtOnce, column) = from[r];
    } else {
#pragma unroll 1
      for (int r = 0; r < n * 4; ++r) {
        const int place = thread_id() + r * kThreads, row = place / kPiece<T>, column = place % kPiece<T>;
        T value = 0;
        if (row < count && k + column < end) value = element<T>(m, first + row, k + column);
        tile[(to + row) * S::kStride + column] = value;
      }
    }
  }
  TLA_DEVICE void put(int k, int end) {
    put_rows(in.anchor, in.first_a, in.count_a, k, end, 0, from_a);
    put_rows(in.candidates, in.first_c, in.count_c, k, end, S::kA, from_c);
  }
  TLA_DEVICE Pack<T, 4>& at(int row, int k) { return *reinterpret_cast<Pack<T, 4>*>(tile + row * S::kStride + k); }

  TLA_DEVICE void add_pairs(int chain, int steps, T (&pair)[4][4]) {
    T sum[4][4] = {};
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      const int k = 4 * (kChains * s + chain);
      Pack<T, 4> c[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) c[j] = at(row_c(0), (S::kA + 4 * j) * S::kStride + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Pack<T, 4> a = at(row_a(0), 8 * i * S::kStride + k);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = Op::step(sum[i][j], a.at[e], c[j].at[e]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) pair[i][j] = Op::join(pair[i][j], sum[i][j]);
  }
  TLA_DEVICE void add_norm(int chain, int steps, T& norm) {
    T sum = 0;
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      const Pack<T, 4> x = at(thread_id(), 4 * (kChains * s + chain));
#pragma unroll
      for (int e = 0; e < 4; ++e) sum = Dot::step(sum, x.at[e], x.at[e]);
    }
    norm = Dot::join(norm, sum);
  }

  // Each thread writes, and adds to, its own places alone.
  TLA_DEVICE void publish(const T (&pair)[4][4], T norm, T* sums, bool add) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        T& out = sums[row_a(i) * S::kSums + row_c(j)];
        out = add ? Op::join(out, pair[i][j]) : pair[i][j];
      }
    if (norms && thread_id() < S::kRows) {
      T& out = sums[S::kA * S::kSums + thread_id()];
      out = add ? Dot::join(out, norm) : norm;
    }
  }
};

}  // namespace tla::cuda
