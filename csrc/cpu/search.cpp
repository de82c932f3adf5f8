#include "search.h"

#include "search_amx.h"
#include "search_state.h"

namespace tla::cpu {
namespace {

// Queries [first, first + count) against candidates [begin, end), improving the picks in `out`.
template <class T>
void task(const Search<T>& search, const SearchPlan& plan, int64_t first, int64_t count, int64_t begin, int64_t end,
          Pick<T>* out) {
  const int64_t d = search.anchor.cols;
  Product<T> product = plan.kind == SearchPlan::kProduct ? Product<T>::of_blas(d) : Product<T>::of_sums();
  std::vector<T> buffer;
  const Block<T> block = search.gather_anchors(first, count, buffer);
  std::vector<Row<T>> rows = search.make_rows(block, first, count, product, out);
  Tile<T> tile(plan);
  for (int64_t c = begin; c < end; c += plan.tile) {
    const int64_t n = std::min(plan.tile, end - c);
    tile.load(search.metric, search.candidates, c, n, search.farthest, product);
    product.run(search.metric, block, count, tile.rows, n, d, tile.sums.data(), plan.tile);
    int64_t hits = 0;
    for (int64_t i = 0; i < count; ++i)
      hits += search.scan(rows[i], tile, product, tile.sums.data() + i * plan.tile, c, n);
    // Where candidates crowd within the bound (copies, collapsed features), sums that need no second look are faster.
    if (product.screens && c > begin && hits > count * n / 16) {
      product = Product<T>::of_sums();
      for (Row<T>& row : rows) row.set_limits(search.metric, product);
    }
  }
  for (int64_t i = 0; i < count; ++i) out[i] = rows[i].best;
}

// The same by the AMX unit; what it leaves goes on with products in float32, in blocks of their own size.
template <class T>
void screened_task(const Search<T>& search, const SearchPlan& plan, int64_t first, int64_t count, int64_t begin,
                   int64_t end, Pick<T>* out) {
  int64_t stopped = begin;
  if constexpr (sizeof(T) == 4) stopped = amx_task(search, plan, first, count, begin, end, out);
  if (stopped == end) return;
  const SearchPlan rest = plan_search(count, end - stopped, search.anchor.cols, sizeof(T), 1, true,
                                      {.wide = row_kernels<T>().wide, .amx = false});
  for (int64_t i = 0; i < count; i += rest.anchor_block)
    task(search, rest, first + i, std::min(rest.anchor_block, count - i), stopped, end, out + i);
}

}  // namespace

template <class T>
std::vector<Pick<T>> search(Metric metric, const Matrix& anchor, const Matrix& candidates,
                            const std::vector<int32_t>& codes, const std::vector<Query>& queries, bool farthest) {
  const int64_t b = queries.size(), m = candidates.rows;
  const SearchPlan plan =
      plan_search(b, m, anchor.cols, sizeof(T), torch::stable::get_num_threads(), metric != Metric::kChebyshev,
                  {.wide = row_kernels<T>().wide, .amx = sizeof(T) == 4 && amx_in_use()});
  const Search<T> search{metric, anchor, candidates, codes, queries, farthest};
  const auto run = plan.kind == SearchPlan::kAmx ? screened_task<T> : task<T>;
  std::vector<Pick<T>> picks(b * plan.splits);
  const int64_t tasks = plan.blocks * plan.splits;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      const int64_t split = t / plan.blocks, first = t % plan.blocks * plan.anchor_block;
      const int64_t begin = split * plan.split_size, end = std::min(m, begin + plan.split_size);
      run(search, plan, first, std::min(plan.anchor_block, b - first), begin, end, picks.data() + split * b + first);
    }
  });
  for (int64_t split = 1; split < plan.splits; ++split)
    for (int64_t i = 0; i < b; ++i)
      if (better(picks[split * b + i], picks[i], farthest)) picks[i] = picks[split * b + i];
  picks.resize(b);
  return picks;
}

template std::vector<Pick<float>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                         const std::vector<Query>&, bool);
template std::vector<Pick<double>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                          const std::vector<Query>&, bool);

}  // namespace tla::cpu
