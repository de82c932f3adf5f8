// The race and initialisation check, as the shim calls it; only in a build with TLA_SIMT_RACE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "shim.h"

namespace tla::simt::race {

// Where a thread stands. Every meeting is of all members of its level, so that what another thread did is known to have
// happened when the narrowest level both belong to has met since: four counters do what vector clocks do.
struct Moment {
  uint32_t thread;  // in the grid
  uint32_t warp_epoch, block_epoch;
  uint16_t cluster_epoch, grid_epoch;
  uint32_t clock;  // of this thread's own releases
};
// Of the thread that runs.
extern Moment now;

constexpr int kGlobal = -1;

// Memory under watch. `block`: whose shared memory it is. `name` outlives it.
void* allocate(size_t bytes, const char* name, int block, bool written);
void release(void* p);

void begin(int threads, int cluster, int blocks);
void end();
// `block` has exited: who else looked at its memory, and has not met it since, may as well have come too late.
void leave(void* p, int block, uint16_t cluster_epoch);
void atomic(const void* p, size_t bytes, const void* pc);
void write(const void* p, size_t bytes, const void* pc);

// What happened beyond meetings: a barrier in shared memory hands on what those who arrived know to those who wait.
// Clocks are counted from the first agent of a launch on, within clusters. An agent does on its own what a thread asked
// for (a copy, a product): its accesses are known to have happened to who has learned of a later clock of it.
using Knowledge = std::vector<uint32_t>;
uint32_t new_agent();
void release(Knowledge& to);          // by the running thread
void acquire(const Knowledge& from);  // by the running thread
void learn(Knowledge& by, uint32_t agent, uint32_t clock);
void learn(uint32_t agent, uint32_t clock);
uint32_t clock_of(uint32_t thread);
// All of them have met.
void meet(int first_thread, int count);
// By an agent whom the running thread has asked.
void access_of(uint32_t agent, uint32_t clock, const void* p, size_t bytes, bool writes, const void* pc);

}  // namespace tla::simt::race
