// The tile kernels, compiled once an instruction set behind row_kernels_impl.h, whose sums these are: logical vectors
// of 64 bytes, of which each lane is a chain of fused steps, joined in halves. Here a chain is computed for a tile of
// pairs at a time, and chains are joined as soon as the halves of their sum are there.
#include "tile_kernels.h"

namespace tla::cpu::TLA_ISA {
namespace {

// Chains in the order in which a sum by halves needs them: 0, n/2, n/4, 3n/4, ...
template <class T>
constexpr int chain(int order) {
  int lane = 0;
  for (int bit = 1; bit < kLanes<T>; bit *= 2) lane = lane * 2 + (order & bit ? 1 : 0);
  return lane;
}

// The halves of a and b, lane by lane in turns: the step of a transposition of which log2(n) make all of it.
template <class N, class M, int n, int kFirst>
[[gnu::always_inline]] inline N interleave(N a, N b) {
#if defined(__clang__)
  N r;
  for (int i = 0; i < n; ++i) r[i] = (i % 2 ? b : a)[kFirst + i / 2];
  return r;
#else
  M order;
  for (int i = 0; i < n; ++i) order[i] = i % 2 * n + kFirst + i / 2;
  return __builtin_shuffle(a, b, order);
#endif
}

// Columns [0, n) of kCount rows, of which those beyond `count` are zeros, as n vectors.
template <class T, int kCount>
[[gnu::always_inline]] inline void transpose(const T* rows, int64_t stride, int64_t count,
                                             typename Native<T>::type (&v)[TLA_VECTOR_BYTES / sizeof(T)]) {
  using N = typename Native<T>::type;
  using M = typename Native<T>::mask;
  constexpr int n = TLA_VECTOR_BYTES / sizeof(T);
#pragma GCC unroll 16
  for (int r = 0; r < n; ++r) v[r] = r < kCount && r < count ? load_native<N>(rows + r * stride) : N{};
#pragma GCC unroll 4
  for (int step = 1; step < n; step *= 2) {
    N w[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      w[2 * i] = interleave<N, M, n, 0>(v[i], v[i + n / 2]);
      w[2 * i + 1] = interleave<N, M, n, n / 2>(v[i], v[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
}

// n columns of kWidth rows, column i to out[chain(column + i) * steps * kWidth].
template <class T, int kWidth, int kRow = 0>
[[gnu::always_inline]] inline void pack_columns(const T* rows, int64_t stride, int64_t count, int column, int64_t steps,
                                                bool last, T* out) {
  using N = typename Native<T>::type;
  constexpr int n = TLA_VECTOR_BYTES / sizeof(T), here = std::min(n, kWidth - kRow);
  N v[n];
  transpose<T, here>(rows + kRow * stride, stride, count - kRow, v);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    T* const to = out + chain<T>(column + i) * steps * kWidth + kRow;
    // Lanes of no row reach into the chain's next step, which is written later.
    std::memcpy(to, &v[i], (last ? here : n) * sizeof(T));
  }
  if constexpr (kRow + n < kWidth) pack_columns<T, kWidth, kRow + n>(rows, stride, count, column, steps, last, out);
}

template <class T, int kWidth>
void pack_rows(const T* rows, int64_t stride, int64_t count, int64_t d, T* out) {
  constexpr int lanes = kLanes<T>, n = TLA_VECTOR_BYTES / sizeof(T);
  for (int64_t begin = 0; begin < d; begin += kPiece) {
    const int64_t steps = (std::min(d - begin, kPiece) + lanes - 1) / lanes;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t k = begin + t * lanes;
      T* const to = out + t * kWidth;
      if (k + lanes <= d) {
        for (int part = 0; part < kParts; ++part) {
          const T* const from = rows + k + part * n;
          if (t + 1 < steps)
            pack_columns<T, kWidth>(from, stride, count, part * n, steps, false, to);
          else
            pack_columns<T, kWidth>(from, stride, count, part * n, steps, true, to);
        }
        continue;
      }
      for (int lane = 0; lane < lanes; ++lane)
        for (int64_t r = 0; r < kWidth; ++r)
          to[chain<T>(lane) * steps * kWidth + r] = r < count && k + lane < d ? rows[r * stride + k + lane] : T(0);
    }
    out += steps * lanes * kWidth;
  }
}

template <class T>
void pack(const T* rows, int64_t stride, int64_t count, int64_t width, int64_t d, T* out) {
  if (width == TLA_PANEL_ROWS)
    pack_rows<T, TLA_PANEL_ROWS>(rows, stride, count, d, out);
  else
    pack_rows<T, kPanelAnchors<T>>(rows, stride, count, d, out);
}

// A tile of kRows candidates and kColumns vectors of anchors, of a piece of D.
template <class T, class Op, int kRows, int kColumns>
[[gnu::noinline]] void piece_tile(const T* a, const T* c, int64_t steps, bool first, T* out) {
  using N = typename Native<T>::type;
  constexpr int n = TLA_VECTOR_BYTES / sizeof(T), depth = sizeof(T) == 4 ? 4 : 3;
  constexpr int64_t width = kPanelAnchors<T>, ahead = 24;
  N waiting[depth][kRows][kColumns];
  for (int order = 0; order < kLanes<T>; ++order) {
    N acc[kRows][kColumns] = {};
    const T* pa = a + order * steps * width;
    const T* pc = c + order * steps * kRows;
    for (int64_t t = 0; t < steps; ++t, pa += width, pc += kRows) {
      // Anchors come from the second-level cache, whose own prefetching is too late.
      __builtin_prefetch(pa + ahead * width);
      if constexpr (kColumns * TLA_VECTOR_BYTES > 64) __builtin_prefetch(pa + ahead * width + 64 / sizeof(T));
      N x[kColumns];
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) x[v] = load_native<N>(pa + v * n);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const N y = pc[r] - N{};
#pragma GCC unroll 8
        for (int v = 0; v < kColumns; ++v) Op::step(acc[r][v], x[v], y);
      }
    }
    int level = 0;
    for (int bit = order; bit & 1; bit >>= 1, ++level)
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kColumns; ++v) {
          N sum = waiting[level][r][v];
          Op::join(sum, acc[r][v]);
          acc[r][v] = sum;
        }
    if (order + 1 < kLanes<T>) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kColumns; ++v) waiting[level][r][v] = acc[r][v];
      continue;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kColumns; ++v) {
        N sum = acc[r][v];
        T* to = out + r * width + v * n;
        if (!first) {
          sum = load_native<N>(to);
          Op::join(sum, acc[r][v]);
        }
        std::memcpy(to, &sum, sizeof(sum));
      }
  }
}

template <class T, class Op>
void sums_of(const T* a, const T* c, int64_t count, int64_t d, T* out) {
  constexpr int n = TLA_VECTOR_BYTES / sizeof(T);
  constexpr int64_t width = kPanelAnchors<T>;
  for (int64_t k = 0; k < d; k += kPiece) {
    const int64_t steps = (std::min(d - k, kPiece) + kLanes<T> - 1) / kLanes<T>;
    for (int64_t i = 0; i < count; i += TLA_PANEL_COLUMNS * n)
      if (count - i <= n)
        piece_tile<T, Op, TLA_PANEL_ROWS, 1>(a + i, c, steps, k == 0, out + i);
      else
        piece_tile<T, Op, TLA_PANEL_ROWS, TLA_PANEL_COLUMNS>(a + i, c, steps, k == 0, out + i);
    a += steps * kLanes<T> * width;
    c += steps * kLanes<T> * TLA_PANEL_ROWS;
  }
}

template <class T>
void sums(Sum sum, const T* a, const T* c, int64_t count, int64_t d, T* out) {
  if (sum == Sum::kDot)
    sums_of<T, Dot>(a, c, count, d, out);
  else if (sum == Sum::kSquaredDifference)
    sums_of<T, SquaredDifference>(a, c, count, d, out);
  else
    sums_of<T, MaxDifference>(a, c, count, d, out);
}

template <class T, bool kAbsolute>
uint32_t hits_of(const TileLimits<T>& limits, const TileCandidates& c, const T* s, int64_t lds, int64_t n,
                 uint32_t* masks) {
  constexpr int width = kPanelAnchors<T>;
  uint32_t all = 0;
  for (int64_t j = 0; j < n; ++j, s += lds) {
    const double weight = c.weight[j], square = c.square[j];
    const T rounded = static_cast<T>(weight);
    const int32_t code = c.code[j];
    int32_t hit[width], any = 0;
    // Few candidates get past a test in T.
    for (int i = 0; i < width; ++i) {
      const T score = rounded * (kAbsolute ? std::fabs(s[i]) : s[i]);
      any |= !(score > limits.near[i]) & ((limits.code[i] == code) == limits.equal[i]);
    }
    masks[j] = 0;
    if (any == 0) continue;
    for (int i = 0; i < width; ++i) {
      const double score = weight * static_cast<double>(kAbsolute ? std::fabs(s[i]) : s[i]);
      hit[i] = !(score > limits.high[i]) & !(score < limits.low[i]) & ((limits.code[i] == code) == limits.equal[i]) &
               !((s[i] == limits.seen_sum[i]) & (square == limits.seen_square[i]));
    }
    for (int i = 0; i < width; ++i) masks[j] |= static_cast<uint32_t>(hit[i]) << i;
    all |= masks[j];
  }
  return all;
}

template <class T>
uint32_t hits(const TileLimits<T>& limits, const TileCandidates& candidates, const T* s, int64_t lds, int64_t n,
              uint32_t* masks) {
  return limits.absolute ? hits_of<T, true>(limits, candidates, s, lds, n, masks)
                         : hits_of<T, false>(limits, candidates, s, lds, n, masks);
}

// Of kRows rows at a time, since a single chain waits for each of its steps.
template <class T, class Op, int kRows, bool kSquares>
void look_piece(const T* x, const T* const* rows, int64_t begin, int64_t d, T* sums, T* squares) {
  using N = typename Native<T>::type;
  constexpr int n = kLanes<T>, step = TLA_VECTOR_BYTES / sizeof(T);
  N sum[kRows][kParts] = {}, square[kRows][kParts] = {};
  const auto add = [&](const T* a, const T* const* c, int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      const N u = load_native<N>(a + p * step);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const N v = load_native<N>(c[r] + at + p * step);
        Op::step(sum[r][p], u, v);
        if constexpr (kSquares) Dot::step(square[r][p], v, v);
      }
    }
  };
  int64_t k = begin;
  for (; k + n <= d; k += n) add(x + k, rows, k);
  if (k < d) {
    T last[kRows + 1][n] = {};
    const T* padded[kRows];
    for (int64_t l = k; l < d; ++l) last[kRows][l - k] = x[l];
    for (int r = 0; r < kRows; ++r) {
      padded[r] = last[r];
      for (int64_t l = k; l < d; ++l) last[r][l - k] = rows[r][l];
    }
    add(last[kRows], padded, 0);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    sums[r] = reduce<T, Op>(sum[r]);
    if constexpr (kSquares) squares[r] = reduce<T, Dot>(square[r]);
  }
}

template <class T, class Op, int kRows, bool kSquares>
void look_rows(const T* x, const T* const* rows, int64_t d, T* sums, T* squares) {
  look_piece<T, Op, kRows, kSquares>(x, rows, 0, std::min(d, kPiece), sums, squares);
  for (int64_t k = kPiece; k < d; k += kPiece) {
    T sum[kRows], square[kRows];
    look_piece<T, Op, kRows, kSquares>(x, rows, k, std::min(d, k + kPiece), sum, square);
    for (int r = 0; r < kRows; ++r) {
      Op::join(sums[r], sum[r]);
      if constexpr (kSquares) Dot::join(squares[r], square[r]);
    }
  }
}

template <class T, class Op, bool kSquares>
void look_of(const T* x, const T* const* rows, int64_t n, int64_t d, T* sums, T* squares) {
  constexpr int kRows = 4;
  int64_t r = 0;
  for (; r + kRows <= n; r += kRows) look_rows<T, Op, kRows, kSquares>(x, rows + r, d, sums + r, squares + r);
  for (; r + 2 <= n; r += 2) look_rows<T, Op, 2, kSquares>(x, rows + r, d, sums + r, squares + r);
  for (; r < n; ++r) look_rows<T, Op, 1, kSquares>(x, rows + r, d, sums + r, squares + r);
}

template <class T, class Op>
void look_of(const T* x, const T* const* rows, int64_t n, int64_t d, T* sums, T* squares) {
  if (squares != nullptr) return look_of<T, Op, true>(x, rows, n, d, sums, squares);
  look_of<T, Op, false>(x, rows, n, d, sums, sums);
}

template <class T>
void look(Sum sum, const T* x, const T* const* rows, int64_t n, int64_t d, T* sums, T* squares) {
  if (sum == Sum::kDot)
    look_of<T, Dot>(x, rows, n, d, sums, squares);
  else if (sum == Sum::kSquaredDifference)
    look_of<T, SquaredDifference>(x, rows, n, d, sums, squares);
  else
    look_of<T, MaxDifference>(x, rows, n, d, sums, squares);
}

}  // namespace

extern const TileKernels<float> kFloatTiles;
extern const TileKernels<double> kDoubleTiles;
const TileKernels<float> kFloatTiles = {TLA_PANEL_ROWS, pack<float>, sums<float>, hits<float>, look<float>};
const TileKernels<double> kDoubleTiles = {TLA_PANEL_ROWS, pack<double>, sums<double>, hits<double>, look<double>};

}  // namespace tla::cpu::TLA_ISA
