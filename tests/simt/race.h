// The race and initialisation check, as the shim calls it; only in a build with TLA_SIMT_RACE.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shim.h"

namespace tla::simt::race {

// Where a thread stands. Every meeting is of all members of its level, so that what another thread did is known to have
// happened when the narrowest level both belong to has met since: four counters do what vector clocks do.
struct Moment {
  uint32_t thread;  // in the grid
  uint32_t warp_epoch, block_epoch;
  uint16_t cluster_epoch, grid_epoch;
};
// Of the thread that runs.
extern Moment now;

constexpr int kGlobal = -1;

// Memory under watch. `block`: whose shared memory it is. `name` outlives it.
void* allocate(size_t bytes, const char* name, int block, bool written);
void release(void* p);

void begin(int threads, int cluster);
void end();
// `block` has exited: who else looked at its memory, and has not met it since, may as well have come too late.
void leave(void* p, int block, uint16_t cluster_epoch);
void atomic(const void* p, size_t bytes, const void* pc);

}  // namespace tla::simt::race
