#include "search.h"

#include <optional>

#include "search_screened.h"
#include "search_tiles.h"

namespace tla::cpu {
namespace {

// The search of a task by a screen; what it leaves goes on with tiles, in blocks of their own size.
template <class T>
void screened_task(const screen::Unit& unit, const Search<T>& search, const Center& center, const PackedPool* pool,
                   int64_t first, int64_t count, int64_t begin, int64_t end, Pick<T>* out) {
  ScreenTask<T> task(unit, search, center, pool, first, count, out);
  const int64_t stopped = task.run(begin, end);
  task.write(out);
  if (stopped == end) return;
  const SearchPlan rest = plan_search(count, end - stopped, search.dim(), sizeof(T), 1, {.screen = false});
  for (int64_t i = 0; i < count; i += rest.anchor_block)
    tile_task(search, rest, first + i, std::min(rest.anchor_block, count - i), stopped, end, out + i);
}

}  // namespace

template <class T>
std::vector<Pick<T>> search(Metric metric, const Matrix& anchor, const Matrix& candidates,
                            const std::vector<int32_t>& codes, const std::vector<Query>& queries, bool farthest,
                            const PackedPool* packed) {
  const int64_t b = queries.size(), m = candidates.rows;
  const screen::Unit* const unit = metric == Metric::kChebyshev ? nullptr : packed ? &packed->unit() : screen_in_use();
  Screening screening;
  if (unit) screening = {true, packed ? kLeastScreened : unit->anchors};
  const SearchPlan plan = plan_search(b, m, anchor.cols, sizeof(T), torch::stable::get_num_threads(), screening);
  const Search<T> search{metric, anchor, candidates, codes, queries, farthest};
  std::optional<Center> center;
  if (plan.kind == SearchPlan::kScreened) center = packed ? packed->center() : Center(candidates, codes.data(), metric);
  std::vector<Pick<T>> picks(b * plan.splits);
  const int64_t tasks = plan.blocks * plan.splits;
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; ++t) {
      const int64_t split = t / plan.blocks, first = t % plan.blocks * plan.anchor_block;
      const int64_t begin = split * plan.split_size, end = std::min(m, begin + plan.split_size);
      const int64_t count = std::min(plan.anchor_block, b - first);
      Pick<T>* const out = picks.data() + split * b + first;
      if (center)
        screened_task(*unit, search, *center, packed, first, count, begin, end, out);
      else
        tile_task(search, plan, first, count, begin, end, out);
    }
  });
  for (int64_t split = 1; split < plan.splits; ++split)
    for (int64_t i = 0; i < b; ++i)
      if (better(picks[split * b + i], picks[i], farthest)) picks[i] = picks[split * b + i];
  picks.resize(b);
  return picks;
}

template std::vector<Pick<float>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                         const std::vector<Query>&, bool, const PackedPool*);
template std::vector<Pick<double>> search(Metric, const Matrix&, const Matrix&, const std::vector<int32_t>&,
                                          const std::vector<Query>&, bool, const PackedPool*);

}  // namespace tla::cpu
