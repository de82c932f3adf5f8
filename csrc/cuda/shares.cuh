// What anchors send to the pool rows they picked, added up in one order, whoever adds: the shares of a row's anchors,
// in ascending order, make pieces of kSharesOfPiece; the pieces, the last of them shorter, are added in their order.
//
// Where anchors are many, their picks are sorted: anchors of a row stand side by side. All full pieces of rows that
// were picked often are then summed at the same time, and a block adds up each row from those.
#pragma once

#include "gradient.cuh"

namespace tla::cuda {

// Four columns of a row's sum.
template <class T>
struct ShareSum {
  double total[4] = {}, piece[4] = {};

  TLA_DEVICE void add(const PairWeights& w, const Pack<T, 4>& a, const Pack<T, 4>& y, int64_t k) {
#pragma unroll
    for (int e = 0; e < 4; ++e) piece[e] += w.to_y(a.at[e], y.at[e], k + e);
  }
  TLA_DEVICE void end_piece() {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      total[e] += piece[e];
      piece[e] = 0;
    }
  }
};

struct SharesParams {
  Rows anchor, pool;
  int64_t b = 0;
  int d = 0;
  Output grad;
  bool at_anchor = false;  // a row's sum stands in the place of its lowest anchor; all others' are zeros
  // Position q has the q-th of the picks in ascending order, -1 for none, and who picked it; of equal picks the lowest
  // anchor comes first.
  const int64_t *picks = nullptr, *anchors = nullptr;
  const PairWeights* weights = nullptr;  // (b), of what each anchor sends
  double* pieces = nullptr;              // (b / kSharesOfPiece, d): workspace
};

template <class T>
struct Shares {
  const SharesParams& p;

  // Whether a piece of the row that begins at position `at` is full.
  TLA_DEVICE bool full(int64_t row, int64_t at) const {
    return at + kSharesOfPiece <= p.b && p.picks[at + kSharesOfPiece - 1] == row;
  }
  // Full pieces begin kSharesOfPiece positions apart or more, so that no two have one place.
  TLA_DEVICE double* piece_at(int64_t at) const { return p.pieces + at / kSharesOfPiece * p.d; }

  // The first position of the row that stands at q.
  TLA_DEVICE int64_t begin_of(int64_t q) const {
    const int64_t row = p.picks[q];
    int64_t begin = 0, end = q;
    while (begin < end) {
      const int64_t middle = begin + (end - begin) / 2;
      p.picks[middle] < row ? begin = middle + 1 : end = middle;
    }
    return begin;
  }

  TLA_DEVICE void add(ShareSum<T>& sum, const Pack<T, 4>& y, int64_t begin, int64_t end, int64_t k) const {
    constexpr int kAtOnce = 4;  // rows on their way before the first is added
#pragma unroll 1
    for (int64_t q = begin; q < end; q += kAtOnce) {
      Pack<T, 4> a[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) a[n] = pack_of<T>(p.anchor, p.anchors[q + n < end ? q + n : q], k, p.d);
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n)
        if (q + n < end) sum.add(p.weights[p.anchors[q + n]], a[n], y, k);
    }
  }

  // The full piece whose place is `place`, if there is one.
  TLA_DEVICE void sum_piece(int64_t place) const {
    // It begins among these positions, and so has the last of them. The row that stands there begins among them, too,
    // or before, whole pieces away.
    const int64_t low = place * kSharesOfPiece, high = low + kSharesOfPiece - 1;
    const int64_t row = p.picks[high];
    if (row < 0) return;
    int64_t at = begin_of(high);
    if (at < low) at += (low - at + kSharesOfPiece - 1) / kSharesOfPiece * kSharesOfPiece;
    if (!full(row, at)) return;
    for (int64_t k = 4 * thread_id(); k < p.d; k += 4 * kThreads) {
      ShareSum<T> sum;
      add(sum, pack_of<T>(p.pool, row, k, p.d), at, at + kSharesOfPiece, k);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (k + e < p.d) piece_at(at)[k + e] = sum.piece[e];
    }
  }

  // The row that begins at position q.
  TLA_DEVICE void sum_row(int64_t q) const {
    const int64_t row = p.picks[q];
    const bool begins = row >= 0 && (q == 0 || p.picks[q - 1] != row);
    if (!begins && !p.at_anchor) return;
    int64_t rest = q, end = q;
    if (begins) {
      while (full(row, rest)) rest += kSharesOfPiece;
      for (end = rest; end < p.b && p.picks[end] == row;) ++end;
    }
    for (int64_t k = 4 * thread_id(); k < p.d; k += 4 * kThreads) {
      ShareSum<T> sum;
      if (begins) {
#pragma unroll 4
        for (int64_t at = q; at < rest; at += kSharesOfPiece) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (k + e < p.d) sum.total[e] += piece_at(at)[k + e];
        }
        add(sum, pack_of<T>(p.pool, row, k, p.d), rest, end, k);
        sum.end_piece();
      }
      store4(p.grad, p.at_anchor ? p.anchors[q] : row, k, p.d, sum.total);
    }
  }
};

template <class T>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
sum_pieces_kernel(const SharesParams p) {
  const Shares<T> shares{p};
  for (int64_t place = block_id(); place < p.b / kSharesOfPiece; place += grid_blocks()) shares.sum_piece(place);
}

template <class T>
TLA_KERNEL(kThreads, kBlocksAtOnce<T>)
sum_rows_kernel(const SharesParams p) {
  const Shares<T> shares{p};
  for (int64_t q = block_id(); q < p.b; q += grid_blocks()) shares.sum_row(q);
}

template <class Launch>
void launch_sum_shares(const SharesParams& p, const BackwardPlan& plan, bool wide, const Launch& launch) {
  const auto both = [&](auto pieces, auto rows) {
    if (plan.pieces.blocks > 0) launch(pieces, plan.pieces, p);
    if (plan.rows.blocks > 0) launch(rows, plan.rows, p);
  };
  wide ? both(sum_pieces_kernel<double>, sum_rows_kernel<double>)
       : both(sum_pieces_kernel<float>, sum_rows_kernel<float>);
}

}  // namespace tla::cuda
