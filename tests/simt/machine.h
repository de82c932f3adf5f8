// What the shim's other files ask of its machine (shim.cpp): the running launch, its blocks' memory and its fibers.
#pragma once

#include <functional>

#include "shim.h"

namespace tla::simt::machine {

uint64_t launch();  // a number of its own
int cluster_blocks();
uint64_t draw();
void poison(void* p, size_t bytes, uint64_t turn);

// The dynamic shared memory of a block, which may have exited.
struct Window {
  char* data;
  size_t bytes;
  bool gone;
};
Window window(int block);

// The running thread waits until somebody wakes it.
void park(const char* operation, Site site);
void wake(int block, int thread);
// Calls it after a while, in no order, at the latest when nobody else can go on.
void later(std::function<void()> event);

}  // namespace tla::simt::machine
