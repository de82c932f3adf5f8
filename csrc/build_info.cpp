// tla_ops._build_info: what was compiled, what this machine runs, and the launch plans. No torch header comes in here.
#include <pybind11/pybind11.h>

#include <string>

#include "common/cpu_features.h"
#include "common/plan_bank.h"
#include "common/plan_strips.h"

namespace py = pybind11;

namespace {

py::list split(const std::string& text, char separator = ',') {
  py::list items;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find(separator, begin);
    if (end == std::string::npos) end = text.size();
    if (end > begin) items.append(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

// What hardware has verified of these sources, as tla_ops/_evidence.py packs it: "capability:device:operators|...".
py::list verified() {
  py::list records;
  for (py::handle item : split(TLA_VERIFIED, '|')) {
    py::list fields = split(item.cast<std::string>(), ':');
    py::dict record;
    record["capability"] = fields[0];
    record["device"] = fields[1];
    record["operators"] = split(fields[2].cast<std::string>());
    records.append(record);
  }
  return records;
}

py::dict info() {
  py::list runs;
  for (py::handle isa : split(TLA_CPU_KERNELS))
    if (tla::cpu_runs(isa.cast<std::string>())) runs.append(isa);
  py::dict cpu;
  cpu["compiled"] = split(TLA_CPU_KERNELS);
  cpu["available"] = runs;
  cpu["in_use"] = runs[0];
  py::dict cuda;
  cuda["built"] = std::string(TLA_CUDA_ARCHITECTURES) != "";
  cuda["kernels"] = TLA_CUDA_KERNELS != 0;
  cuda["architectures"] = split(TLA_CUDA_ARCHITECTURES);
  cuda["toolkit"] = TLA_CUDA_TOOLKIT;
  cuda["reason"] = TLA_CUDA_REASON;
  cuda["sources_sha256"] = TLA_SOURCES_SHA256;
  py::dict result;
  result["version"] = TLA_VERSION;
  result["compiler"] = TLA_COMPILER;
  result["torch_abi"] = TLA_TORCH_ABI;
  result["cpu"] = cpu;
  result["cuda"] = cuda;
  result["verified"] = verified();
  return result;
}

py::dict plan_search(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, int64_t threads,
                     bool screen, int64_t least) {
  const tla::SearchPlan plan = tla::plan_search(anchors, candidates, dim, element_size, threads, {screen, least});
  py::dict result;
  result["anchor_block"] = plan.anchor_block;
  result["tile"] = plan.tile;
  result["blocks"] = plan.blocks;
  result["splits"] = plan.splits;
  result["split_size"] = plan.split_size;
  const char* kinds[] = {"sums", "tiles", "screened"};
  result["kind"] = kinds[plan.kind];
  return result;
}

void set_shape(py::dict& result, const tla::LaunchShape& shape) {
  result["blocks"] = shape.blocks;
  result["cluster"] = shape.cluster;
  result["cooperative"] = shape.cooperative;
  result["threads"] = tla::kThreads;
}

py::dict plan_tiles(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, bool tiles, int64_t rows,
                    int64_t multiprocessors, int capability) {
  const tla::TilePlan plan =
      tla::plan_tiles(anchors, candidates, dim, element_size, tiles, rows, {multiprocessors, capability});
  py::dict result;
  result["anchor_tile"] = plan.anchor_tile;
  result["candidate_tile"] = plan.candidate_tile;
  result["tiles_b"] = plan.tiles_b;
  result["tiles_m"] = plan.tiles_m;
  result["teams_b"] = plan.teams_b;
  result["teams_m"] = plan.teams_m;
  result["team"] = plan.team;
  result["row_blocks"] = plan.row_blocks;
  result["shared_bytes"] = tla::kTileSharedBytes;
  set_shape(result, plan.shape);
  return result;
}

py::dict plan_large(int64_t anchors, int64_t candidates, int64_t dim, int64_t element_size, int64_t candidate_size,
                    bool product, const std::string& screens, int64_t multiprocessors, int capability, bool in_place,
                    bool semihard) {
  const tla::LargeProblem problem{anchors, candidates, dim, element_size, candidate_size, product, in_place, semihard};
  const tla::Gpu gpu{multiprocessors, capability};
  const tla::Screen screen = tla::choose_screen(problem, tla::Screens(screens), gpu);
  py::dict result;
  result["screen"] = std::string(tla::kScreens[static_cast<int>(screen)]);
  if (screen == tla::Screen::kBank) {
    const tla::BankPlan plan = tla::plan_bank(candidates, dim, candidate_size, gpu);
    result["slices"] = plan.slices;
    result["resident"] = plan.resident;
    result["stages"] = plan.stages;
    result["capacity"] = plan.capacity;
    set_shape(result, plan.shape);
    result["threads"] = plan.shape.threads;
    result["shared_bytes"] = plan.shape.shared_bytes;
  } else if (screen != tla::Screen::kTiles) {
    const tla::LargePlan plan = tla::plan_large(problem, screen);
    result["anchor_chunk"] = plan.anchor_chunk;
    result["candidate_chunk"] = plan.candidate_chunk;
    result["capacity"] = plan.capacity;
    result["padded"] = plan.padded;
  }
  return result;
}

py::dict plan_strips(int64_t rows, int64_t columns, int padded, int64_t clusters) {
  const tla::Strips strips = tla::plan_strips(rows, columns, padded, clusters);
  py::dict result;
  result["pairs"] = strips.pairs;
  result["group"] = strips.group;
  result["tiles"] = strips.tiles;
  result["strips"] = strips.strips;
  result["strip"] = strips.strip;
  return result;
}

py::dict plan_rows(int64_t rows, int64_t element_size, int64_t multiprocessors, int capability) {
  py::dict result;
  set_shape(result, tla::plan_rows(rows, element_size > 4, {multiprocessors, capability}));
  return result;
}

py::dict plan_backward(int64_t anchors, int64_t pool_rows, bool picks, int64_t multiprocessors, int capability) {
  const tla::BackwardPlan plan =
      tla::plan_backward(anchors, pool_rows, tla::sorts_picks(anchors, picks), {multiprocessors, capability});
  py::dict result;
  result["sorted"] = plan.sorted;
  result["anchor_blocks"] = plan.anchor_blocks;
  result["piece_blocks"] = plan.pieces.blocks;
  result["row_blocks"] = plan.rows.blocks;
  set_shape(result, plan.shape);
  return result;
}

py::dict plan_cdist(int64_t n, int64_t b, int64_t m, int64_t element_size, int64_t multiprocessors, int capability) {
  const tla::CdistPlan plan = tla::plan_cdist(n, b, m, element_size > 4, {multiprocessors, capability});
  py::dict result;
  result["anchor_tile"] = plan.anchor_tile;
  set_shape(result, plan.shape);
  return result;
}

py::dict plan_cdist_backward(int64_t n, int64_t b, int64_t multiprocessors, int capability) {
  py::dict result;
  set_shape(result, tla::plan_cdist_backward(n, b, {multiprocessors, capability}));
  return result;
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "What was compiled into this installation of tla_ops, and how it plans its launches.";
  m.def("info", &info);
  m.def("plan_search", &plan_search, py::arg("anchors"), py::arg("candidates"), py::arg("dim"), py::arg("element_size"),
        py::arg("threads"), py::arg("screen"), py::arg("least") = tla::kLeastScreened);
  m.def("plan_tiles", &plan_tiles, py::arg("anchors"), py::arg("candidates"), py::arg("dim"), py::arg("element_size"),
        py::arg("tiles"), py::arg("rows"), py::arg("multiprocessors"), py::arg("capability"));
  m.def("plan_cdist", &plan_cdist, py::arg("n"), py::arg("b"), py::arg("m"), py::arg("element_size"),
        py::arg("multiprocessors"), py::arg("capability"));
  m.def("plan_cdist_backward", &plan_cdist_backward, py::arg("n"), py::arg("b"), py::arg("multiprocessors"),
        py::arg("capability"));
  m.def("plan_large", &plan_large, py::arg("anchors"), py::arg("candidates"), py::arg("dim"), py::arg("element_size"),
        py::arg("candidate_size"), py::arg("product"), py::arg("screens"), py::arg("multiprocessors"),
        py::arg("capability"), py::arg("in_place") = true, py::arg("semihard") = false);
  m.def("plan_strips", &plan_strips, py::arg("rows"), py::arg("columns"), py::arg("padded"), py::arg("clusters"));
  m.def("plan_rows", &plan_rows, py::arg("rows"), py::arg("element_size"), py::arg("multiprocessors"),
        py::arg("capability"));
  m.def("plan_backward", &plan_backward, py::arg("anchors"), py::arg("pool_rows"), py::arg("picks"),
        py::arg("multiprocessors"), py::arg("capability"));
}
