#include "row_kernels.h"

#include <torch/csrc/stable/library.h>

#include <atomic>
#include <stdexcept>

#include "../common/cpu_features.h"
#include "screen.h"
#include "tile_kernels.h"

namespace tla::cpu {

#define TLA_DECLARE(isa)                         \
  namespace isa {                                \
  extern const RowKernels<float> kFloat;         \
  extern const RowKernels<double> kDouble;       \
  extern const TileKernels<float> kFloatTiles;   \
  extern const TileKernels<double> kDoubleTiles; \
  }
TLA_DECLARE(plain)
#ifdef TLA_HAVE_X86_KERNELS
TLA_DECLARE(avx2)
TLA_DECLARE(avx512)
#endif
#undef TLA_DECLARE

namespace {

struct Choice {
  const char* name;
  const RowKernels<float>* single;
  const RowKernels<double>* twice;
  const TileKernels<float>* single_tiles;
  const TileKernels<double>* twice_tiles;
  const screen::Unit* screen = nullptr;
};

const Choice kChoices[] = {
#ifdef TLA_HAVE_AMX
    {"amx", &avx512::kFloat, &avx512::kDouble, &avx512::kFloatTiles, &avx512::kDoubleTiles, &screen::kAmx},
#endif
#ifdef TLA_HAVE_VNNI
    {"avx512_vnni", &avx512::kFloat, &avx512::kDouble, &avx512::kFloatTiles, &avx512::kDoubleTiles, &screen::kVnni},
#endif
#ifdef TLA_HAVE_X86_KERNELS
    {"avx512", &avx512::kFloat, &avx512::kDouble, &avx512::kFloatTiles, &avx512::kDoubleTiles},
    {"avx2_int16", &avx2::kFloat, &avx2::kDouble, &avx2::kFloatTiles, &avx2::kDoubleTiles, &screen::kAvx2},
    {"avx2", &avx2::kFloat, &avx2::kDouble, &avx2::kFloatTiles, &avx2::kDoubleTiles},
#endif
    {"plain", &plain::kFloat, &plain::kDouble, &plain::kFloatTiles, &plain::kDoubleTiles},
};

const Choice* find(const std::string& name) {
  for (const Choice& choice : kChoices)
    if ((name.empty() || name == choice.name) && cpu_runs(choice.name)) return &choice;
  throw std::invalid_argument("this machine does not run the instruction set: " + name);
}

std::atomic<const Choice*>& in_use() {
  static std::atomic<const Choice*> choice{find("")};
  return choice;
}

}  // namespace

template <>
const RowKernels<float>& row_kernels<float>() {
  return *in_use().load(std::memory_order_relaxed)->single;
}
template <>
const RowKernels<double>& row_kernels<double>() {
  return *in_use().load(std::memory_order_relaxed)->twice;
}

template <>
const TileKernels<float>& tile_kernels<float>() {
  return *in_use().load(std::memory_order_relaxed)->single_tiles;
}
template <>
const TileKernels<double>& tile_kernels<double>() {
  return *in_use().load(std::memory_order_relaxed)->twice_tiles;
}

const screen::Unit* screen_in_use() { return in_use().load(std::memory_order_relaxed)->screen; }

const screen::Unit* screen_of(int64_t format) {
  for (const Choice& choice : kChoices)
    if (choice.screen && choice.screen->format == format && cpu_runs(choice.name)) return choice.screen;
  return nullptr;
}

std::string use_instruction_set(std::string name) { return in_use().exchange(find(name))->name; }

}  // namespace tla::cpu

STABLE_TORCH_LIBRARY_IMPL(tla_ops, CompositeExplicitAutograd, m) {
  m.impl("use_instruction_set", TORCH_BOX(&tla::cpu::use_instruction_set));
}
