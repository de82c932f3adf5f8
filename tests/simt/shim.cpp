// Fibers, their schedule, meetings and shared memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "machine.h"

#ifdef TLA_SIMT_RACE
#include "race.h"
#endif

#if !defined(__x86_64__) && !defined(TLA_SIMT_UCONTEXT)
#define TLA_SIMT_UCONTEXT
#endif
#ifdef TLA_SIMT_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define TLA_SIMT_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TLA_SIMT_ASAN
#endif
#endif
#ifdef TLA_SIMT_ASAN
// Frames move to the heap otherwise, where a fiber that never returns leaves them; leaks are looked for by stopping all
// threads, which containers forbid.
extern "C" {
const char* __asan_default_options() { return "detect_stack_use_after_return=0:detect_leaks=0"; }
// From <sanitizer/*.h>, which clang's packages leave out.
void __asan_unpoison_memory_region(const volatile void*, size_t);
void __sanitizer_start_switch_fiber(void** fake_stack_save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack_save, const void** bottom_old, size_t* size_old);
}
#endif

namespace tla::simt {

void fail(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("simt: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputs("\n", stderr);
  std::fflush(stderr);
  std::_Exit(kFailed);
}

const Self* self = nullptr;

namespace {

std::string text(const char* operation, const Site& site) {
  return std::string(operation) + " at " + site.file_name() + ":" + std::to_string(site.line()) + ":" +
         std::to_string(site.column());
}

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
// The function, too: instantiations of a template share their lines.
bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && same(a.file_name(), b.file_name()) &&
         same(a.function_name(), b.function_name());
}

struct Random {
  uint64_t state;
  uint64_t next() {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  uint32_t below(uint64_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
};

// Wins or loses comparisons, as a float, as a half and as bits: one pattern or another breaks what relies on it.
void poison_bytes(void* p, size_t bytes, uint64_t turn) {
  constexpr uint32_t kPatterns[] = {0x7fc17fc1, 0xffffffff, 0, 0x7f7f7f7f, 0xff7fff7f};
  const uint32_t pattern = kPatterns[turn % std::size(kPatterns)];
  for (size_t i = 0; i < bytes; ++i) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(pattern >> i % 4 * 8);
}

// --- Fibers ---------------------------------------------------------------------------------------------------------

#ifdef TLA_SIMT_UCONTEXT
using Context = ucontext_t;
void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }
void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#else
struct Context {
  void* stack_pointer;
};
extern "C" void tla_simt_switch(Context* from, Context* to);
asm(R"(
.text
.globl tla_simt_switch
.type tla_simt_switch, @function
tla_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tla_simt_switch, .-tla_simt_switch
)");
void switch_context(Context& from, Context& to) { tla_simt_switch(&from, &to); }
void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
  // Six registers, where to return to, and what the entry takes for its own return address: the stack is aligned as
  // after a call.
  void** top = reinterpret_cast<void**>(stack + bytes) - 8;
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(entry);
  context.stack_pointer = top;
}
#endif

#ifdef TLA_SIMT_ASAN
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif

// One mapping for all: the number of mappings is limited, and untouched pages cost nothing.
class Stacks {
 public:
  // Only while none is in use.
  void reserve(size_t count) {
    free_.clear();
    if (count > count_) {
      if (slab_) munmap(slab_, count_ * kStack);
      count_ = count;
      void* slab =
          mmap(nullptr, count_ * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (slab == MAP_FAILED) fail("no address space for %zu stacks", count_);
      slab_ = static_cast<char*>(slab);
    }
    for (size_t i = 0; i < count_; ++i) free_.push_back(slab_ + (count_ - 1 - i) * kStack);
  }
  char* take() {
    char* stack = free_.back();
    free_.pop_back();
#ifdef TLA_SIMT_ASAN
    // What the last fiber's outermost frames, which never returned, left behind.
    __asan_unpoison_memory_region(stack + kStack - 16384, 16384);
#endif
    return stack;
  }
  void give_back(char* stack) { free_.push_back(stack); }

 private:
  char* slab_ = nullptr;
  size_t count_ = 0;
  std::vector<char*> free_;
};
Stacks stacks;

// --- A launch's state -----------------------------------------------------------------------------------------------

struct Meeting {
  int members = 0, arrived = 0, gone = 0;
  // Of the first who came.
  const char* operation = nullptr;
  uint64_t argument = 0;
  Site site;
  Self first;
  Self left;  // one of those gone
};

struct Block;

struct Fiber : Self {
  Block* owner = nullptr;
  char* stack = nullptr;
  Context context;
  bool done = false;
  const char* operation = nullptr;  // it waits in, or null
  Site site;
  std::deque<std::pair<int, Copy>> copies;  // with the number of their group
  int groups = 0;                           // committed
#ifdef TLA_SIMT_ASAN
  void* fake_stack = nullptr;
#endif
};

struct Warp {
  Meeting meeting;
  uint32_t ready = ~0u;
  uint32_t epoch = 0, priority = 0;
  void* operands[kLanes];
};

struct Array {
  const void* place;
  const char* name;
  size_t bytes;
  char* data;
};

struct Block {
  int id = 0;
  int live = 0;
  bool started = false, exited = false;
  uint32_t ready = 0;  // warps with a lane that can run
  uint32_t epoch = 0, priority = 0;
  size_t ready_at = 0;
  Meeting meeting;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Array> arrays;
};

struct Cluster {
  Meeting meeting;
  uint16_t epoch = 0;
};

class Grid {
 public:
  Grid(uint64_t seed, int threads, LaunchShape shape, void (*body)(const void*), const void* call);
  void run();

  void arrive(Level level, const char* operation, uint64_t argument, Site site, void* operand,
              void (*all)(void* const*));
  void* shared_array(const void* place, const char* name, size_t bytes);
  void* dynamic_shared() { return dynamic_array(*current_->owner).data; }
  const void* cluster_peer(const void* shared, int rank, Site site);
  void maybe_yield() {
    if (random_.below(4) == 0) yield();
  }
  void main_of_fiber();
  Fiber& current() { return *current_; }
  uint64_t draw() { return random_.next(); }
  int cluster_blocks() const { return shape_.cluster; }
  Array& dynamic_array(Block& block);
  Block& block(int id) { return blocks_[id]; }
  void park(const char* operation, Site site) { wait(operation, site); }
  void wake(int block, int thread);
  void later(std::function<void()> event) { events_.push_back(std::move(event)); }

 private:
  enum class Order { kForward, kBackward, kRandom, kSkewed };

  Meeting& meeting(Level level);
  Cluster& cluster_of(const Block& block) { return clusters_[block.id / shape_.cluster]; }
  Array& array_of(Block& block, const void* place, const char* name, size_t bytes);
  void start_cluster();
  void release(Level level, bool orders_memory);
  void release_block(Block& block, bool tick);
  bool happen();
  void set_ready(Block& block);
  void unready(Block& block);
  Fiber* pick();
  template <class Item>
  uint32_t priority(Item& item, uint32_t id);
  void resume(Fiber& fiber);
  void yield();
  void wait(const char* operation, Site site);
  void leave();
  void retire(Block& block);
  void free_arrays(Block& block);
  [[noreturn]] void deadlock();
  void set_moment();

  uint64_t seed_;
  Random random_;
  int threads_;
  LaunchShape shape_;
  void (*body_)(const void*);
  const void* call_;
  Order order_, lanes_;
  bool whole_;       // all blocks at once
  int64_t at_once_;  // blocks otherwise
  int64_t live_blocks_ = 0, started_clusters_ = 0;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<uint32_t> start_order_;
  std::vector<Block*> ready_;
  std::vector<std::function<void()>> events_;
  Meeting meeting_;
  uint16_t epoch_ = 0;
  Fiber* current_ = nullptr;
  Block* favourite_ = nullptr;
  int patience_ = 0;
  uint64_t idle_ = 0;  // turns since anything got on
  Context host_;
#ifdef TLA_SIMT_ASAN
  const void* host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
#endif
};

Grid* grid = nullptr;
uint64_t arrays_made = 0, launches = 0;

Grid::Grid(uint64_t seed, int threads, LaunchShape shape, void (*body)(const void*), const void* call)
    : seed_(seed), random_{seed * 0x632be59bd9b4e019u + 1}, threads_(threads), shape_(shape), body_(body), call_(call) {
  if (threads < kLanes || threads > 1024 || threads % kLanes) fail("blocks of %d threads", threads);
  if (shape.cluster < 1 || shape.cluster > 8) fail("clusters of %d blocks", shape.cluster);
  if (shape.blocks < 1 || shape.blocks > std::numeric_limits<int>::max() || shape.blocks % shape.cluster)
    fail("%lld blocks in clusters of %d", static_cast<long long>(shape.blocks), shape.cluster);
  order_ = static_cast<Order>(random_.below(4));
  lanes_ = static_cast<Order>(random_.below(3));
  whole_ = shape.cooperative;
  at_once_ = whole_ ? shape.blocks : std::min<int64_t>(shape.blocks, shape.cluster * (1 + random_.below(4)));
  blocks_.resize(shape.blocks);
  for (int64_t i = 0; i < shape.blocks; ++i) blocks_[i].id = static_cast<int>(i);
  clusters_.resize(shape.blocks / shape.cluster);
  for (Cluster& cluster : clusters_) cluster.meeting.members = shape.cluster * threads;
  for (size_t i = 0; i < clusters_.size(); ++i) {
    start_order_.push_back(static_cast<uint32_t>(i));
    std::swap(start_order_[i], start_order_[random_.below(i + 1)]);
  }
  meeting_.members = static_cast<int>(std::min<int64_t>(shape.blocks * threads, std::numeric_limits<int>::max()));
  stacks.reserve((at_once_ + shape.cluster) * threads);
}

// What runs first is random, or keeps its place so long that everybody else falls far behind.
template <class Item>
uint32_t Grid::priority(Item& item, uint32_t id) {
  if (order_ == Order::kForward) return id;
  if (order_ == Order::kBackward) return ~id;
  if (order_ == Order::kRandom) return static_cast<uint32_t>(random_.next());
  return item.priority;
}

void Grid::start_cluster() {
  const uint32_t cluster = start_order_[started_clusters_++];
  for (int rank = 0; rank < shape_.cluster; ++rank) {
    Block& block = blocks_[static_cast<int64_t>(cluster) * shape_.cluster + rank];
    block.started = true;
    block.live = threads_;
    block.priority = random_.below(1u << 20);
    block.meeting.members = threads_;
    block.fibers = std::vector<Fiber>(threads_);
    block.warps = std::vector<Warp>(threads_ / kLanes);
    for (Warp& warp : block.warps) {
      warp.meeting.members = kLanes;
      warp.priority = random_.below(1u << 20);
    }
    for (int t = 0; t < threads_; ++t) {
      Fiber& fiber = block.fibers[t];
      static_cast<Self&>(fiber) = {t, block.id, static_cast<int>(shape_.blocks)};
      fiber.owner = &block;
      fiber.stack = stacks.take();
      // Tops at different distances from a page's start, or all would compete for the same lines of the cache.
      make_context(fiber.context, fiber.stack, kStack - t % 61 * 64, [] { grid->main_of_fiber(); });
    }
    ++live_blocks_;
    block.ready = block.warps.size() == 32 ? ~0u : (1u << block.warps.size()) - 1;
    set_ready(block);
  }
}

void Grid::set_ready(Block& block) {
  block.ready_at = ready_.size();
  ready_.push_back(&block);
}
void Grid::unready(Block& block) {
  ready_[block.ready_at] = ready_.back();
  ready_[block.ready_at]->ready_at = block.ready_at;
  ready_.pop_back();
}

Fiber* Grid::pick() {
  if (ready_.empty()) return nullptr;
  if (!favourite_ || !favourite_->ready || --patience_ <= 0) {
    patience_ = 1 + static_cast<int>(random_.below(order_ == Order::kRandom ? 8 : 256));
    if (order_ == Order::kSkewed && random_.below(8) == 0)
      ready_[random_.below(ready_.size())]->priority = random_.below(1u << 20);
    favourite_ =
        *std::min_element(ready_.begin(), ready_.end(), [](const Block* a, const Block* b) { return a->id < b->id; });
    if (order_ == Order::kRandom) {
      favourite_ = ready_[random_.below(ready_.size())];
    } else {
      for (Block* block : ready_)
        if (priority(*block, block->id) < priority(*favourite_, favourite_->id)) favourite_ = block;
    }
  }
  Block& block = *favourite_;
  int best = -1;
  uint32_t least = 0;
  for (uint32_t rest = block.ready; rest; rest &= rest - 1) {
    const int w = std::countr_zero(rest);
    const uint32_t at = priority(block.warps[w], w);
    if (best < 0 || at < least) best = w, least = at;
  }
  Warp& warp = block.warps[best];
  if (order_ == Order::kSkewed && random_.below(256) == 0) warp.priority = random_.below(1u << 20);
  int lane = 0;
  if (lanes_ == Order::kForward) {
    lane = std::countr_zero(warp.ready);
  } else if (lanes_ == Order::kBackward) {
    lane = 31 - std::countl_zero(warp.ready);
  } else {
    const int turn = static_cast<int>(random_.below(kLanes));
    lane = (std::countr_zero(std::rotr(warp.ready, turn)) + turn) % kLanes;
  }
  return &block.fibers[best * kLanes + lane];
}

void Grid::resume(Fiber& fiber) {
  current_ = &fiber;
  self = &fiber;
  set_moment();
#ifdef TLA_SIMT_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStack);
#endif
  switch_context(host_, fiber.context);
#ifdef TLA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
#ifndef TLA_SIMT_UCONTEXT
  if (static_cast<char*>(fiber.context.stack_pointer) < fiber.stack + 16384) fail("a stack overflows");
#endif
  current_ = nullptr;
  self = nullptr;
}

void Grid::yield() {
  Fiber& fiber = *current_;
#ifdef TLA_SIMT_ASAN
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, host_stack_, host_stack_bytes_);
#endif
  switch_context(fiber.context, host_);
#ifdef TLA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &host_stack_, &host_stack_bytes_);
#endif
}

void Grid::main_of_fiber() {
#ifdef TLA_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &host_stack_, &host_stack_bytes_);
#endif
  body_(call_);
  leave();
  yield();
  __builtin_unreachable();
}

void Grid::run() {
  while (true) {
    while (started_clusters_ < static_cast<int64_t>(clusters_.size()) && live_blocks_ + shape_.cluster <= at_once_)
      start_cluster();
    if (!events_.empty() && random_.below(16) == 0) happen();
    Fiber* fiber = pick();
    if (!fiber) {
      if (happen()) continue;
      if (live_blocks_ > 0) deadlock();
      break;
    }
    if (++idle_ > (uint64_t{1} << 22) + 64 * blocks_.size() * threads_)
      fail("no thread gets on: block %d thread %d has run for long and waits for something that does not come",
           fiber->block, fiber->thread);
    resume(*fiber);
    if (fiber->done) {
      stacks.give_back(fiber->stack);
      if (fiber->owner->live == 0) retire(*fiber->owner);
    }
  }
  for (Block& block : blocks_) free_arrays(block);
}

// One of the events that are due.
bool Grid::happen() {
  if (events_.empty()) return false;
  std::swap(events_[random_.below(events_.size())], events_.back());
  const std::function<void()> event = std::move(events_.back());
  events_.pop_back();
  idle_ = 0;
  event();
  return true;
}

void Grid::wake(int block, int thread) {
  Block& of = blocks_[block];
  if (!of.ready) set_ready(of);
  of.ready |= 1u << thread / kLanes;
  of.warps[thread / kLanes].ready |= 1u << thread % kLanes;
  idle_ = 0;
}

// --- Meetings -------------------------------------------------------------------------------------------------------

Meeting& Grid::meeting(Level level) {
  Block& block = *current_->owner;
  if (level == Level::kWarp) return block.warps[current_->thread / kLanes].meeting;
  if (level == Level::kBlock) return block.meeting;
  if (level == Level::kCluster) return cluster_of(block).meeting;
  return meeting_;
}

void Grid::arrive(Level level, const char* operation, uint64_t argument, Site site, void* operand,
                  void (*all)(void* const*)) {
  if (level == Level::kCluster && shape_.cluster == 1)
    fail("%s in a launch without clusters", text(operation, site).c_str());
  if (level == Level::kGrid && !shape_.cooperative)
    fail("%s in a launch that is not cooperative", text(operation, site).c_str());
  Meeting& m = meeting(level);
  if (m.gone > 0)
    fail("block %d thread %d waits in %s for block %d thread %d, which has exited", self->block, self->thread,
         text(operation, site).c_str(), m.left.block, m.left.thread);
  if (m.arrived == 0) {
    m.operation = operation;
    m.argument = argument;
    m.site = site;
    m.first = *self;
  } else if (!same(m.operation, operation) || !same(m.site, site)) {
    fail("block %d thread %d is in %s (%s), block %d thread %d in %s (%s)", m.first.block, m.first.thread,
         text(m.operation, m.site).c_str(), m.site.function_name(), self->block, self->thread,
         text(operation, site).c_str(), site.function_name());
  } else if (m.argument != argument) {
    fail("block %d threads %d and %d disagree in %s: %llu and %llu", self->block, m.first.thread, self->thread,
         text(operation, site).c_str(), static_cast<unsigned long long>(m.argument),
         static_cast<unsigned long long>(argument));
  }
  Warp& warp = current_->owner->warps[current_->thread / kLanes];
  if (level == Level::kWarp) warp.operands[current_->thread % kLanes] = operand;
  if (++m.arrived < m.members) return wait(operation, site);
  if (all) all(warp.operands);
  m.arrived = 0;
  // Shuffles and votes exchange registers; memory is ordered by warp_sync and wider barriers alone.
  release(level, all == nullptr);
  set_moment();
  if (random_.below(2)) yield();
}

void Grid::release_block(Block& block, bool tick) {
  if (tick) ++block.epoch;
  if (!block.ready) set_ready(block);
  for (size_t w = 0; w < block.warps.size(); ++w) {
    block.ready |= 1u << w;
    block.warps[w].ready = ~0u;
    ++block.warps[w].epoch;
  }
}

// All members run again, and know what the others did before. Narrower levels have met, too.
void Grid::release(Level level, bool orders_memory) {
  idle_ = 0;
  Block& block = *current_->owner;
#ifdef TLA_SIMT_RACE
  const int of_level = level == Level::kWarp ? kLanes : level == Level::kBlock ? threads_ : threads_ * shape_.cluster;
  const int at = block.id * threads_ + current_->thread;
  if (orders_memory && level != Level::kGrid) race::meet(at / of_level * of_level, of_level);
#endif
  const auto ticks = [](uint16_t& epoch) {
    if (++epoch == 0) fail("more meetings than the race check counts");
  };
  if (level == Level::kWarp) {
    Warp& warp = block.warps[current_->thread / kLanes];
    warp.ready = ~0u;
    if (orders_memory) ++warp.epoch;
    block.ready |= 1u << current_->thread / kLanes;
  } else if (level == Level::kBlock) {
    release_block(block, true);
  } else if (level == Level::kCluster) {
    ticks(cluster_of(block).epoch);
    const int first = block.id / shape_.cluster * shape_.cluster;
    for (int rank = 0; rank < shape_.cluster; ++rank) release_block(blocks_[first + rank], true);
  } else {
    ticks(epoch_);
    for (Cluster& cluster : clusters_) ticks(cluster.epoch);
    for (Block& each : blocks_) release_block(each, true);
  }
}

void Grid::wait(const char* operation, Site site) {
  Fiber& fiber = *current_;
  fiber.operation = operation;
  fiber.site = site;
  Block& block = *fiber.owner;
  Warp& warp = block.warps[fiber.thread / kLanes];
  warp.ready &= ~(1u << fiber.thread % kLanes);
  if (!warp.ready) block.ready &= ~(1u << fiber.thread / kLanes);
  if (!block.ready) unready(block);
  yield();
  fiber.operation = nullptr;
}

void Grid::leave() {
  Fiber& fiber = *current_;
  for (Level level : {Level::kWarp, Level::kBlock, Level::kCluster, Level::kGrid}) {
    Meeting& m = meeting(level);
    if (m.arrived > 0)
      fail("block %d thread %d exits while %d threads (block %d thread %d was the first) wait in %s", fiber.block,
           fiber.thread, m.arrived, m.first.block, m.first.thread, text(m.operation, m.site).c_str());
    ++m.gone;
    m.left = fiber;
  }
  fiber.done = true;
  idle_ = 0;
  Block& block = *fiber.owner;
  Warp& warp = block.warps[fiber.thread / kLanes];
  warp.ready &= ~(1u << fiber.thread % kLanes);
  if (!warp.ready) block.ready &= ~(1u << fiber.thread / kLanes);
  if (!block.ready) unready(block);
  --block.live;
}

void Grid::deadlock() {
  std::map<std::string, std::pair<int, const Fiber*>> waiting;
  for (const Block& block : blocks_)
    for (const Fiber& fiber : block.fibers)
      if (!fiber.done && fiber.operation) {
        auto& [count, first] = waiting[text(fiber.operation, fiber.site)];
        if (count++ == 0) first = &fiber;
      }
  std::string message = "deadlock:";
  for (const auto& [where, who] : waiting)
    message += " " + std::to_string(who.first) + " threads (block " + std::to_string(who.second->block) + " thread " +
               std::to_string(who.second->thread) + " is one) wait in " + where + ";";
  message.back() = '.';
  fail("%s", message.c_str());
}

#ifdef TLA_SIMT_RACE
void Grid::set_moment() {
  const Block& block = *current_->owner;
  const uint32_t thread =
      static_cast<uint32_t>(block.id) * static_cast<uint32_t>(threads_) + static_cast<uint32_t>(current_->thread);
  race::now = {thread,      block.warps[current_->thread / kLanes].epoch,
               block.epoch, cluster_of(block).epoch,
               epoch_,      race::clock_of(thread)};
}
#else
void Grid::set_moment() {}
#endif

// --- Shared memory --------------------------------------------------------------------------------------------------

Array& Grid::array_of(Block& block, const void* place, const char* name, size_t bytes) {
  for (Array& array : block.arrays)
    if (array.place == place) return array;
  size_t total = bytes, limit = shape_.shared_bytes > 0 ? 227 * 1024 : 48 * 1024;
  for (const Array& array : block.arrays) total += array.bytes;
  if (total > limit) fail("%zu bytes of shared memory with %s", total, name);
#ifdef TLA_SIMT_RACE
  char* data = static_cast<char*>(race::allocate(bytes, name, block.id, false));
#else
  char* data = static_cast<char*>(std::malloc(bytes));  // aligned by 16
#endif
  poison_bytes(data, bytes, seed_ + arrays_made++);
  block.arrays.push_back({place, name, bytes, data});
  return block.arrays.back();
}

Array& Grid::dynamic_array(Block& block) {
  static char place;
  if (shape_.shared_bytes <= 0) fail("a launch without dynamic shared memory");
  return array_of(block, &place, "dynamic memory", static_cast<size_t>(shape_.shared_bytes));
}

void* Grid::shared_array(const void* place, const char* name, size_t bytes) {
  return array_of(*current_->owner, place, name, bytes).data;
}

const void* Grid::cluster_peer(const void* shared, int rank, Site site) {
  if (shape_.cluster == 1) fail("%s in a launch without clusters", text("cluster_peer", site).c_str());
  if (rank < 0 || rank >= shape_.cluster) fail("%s of rank %d", text("cluster_peer", site).c_str(), rank);
  Block& own = *current_->owner;
  Block& peer = blocks_[own.id / shape_.cluster * shape_.cluster + rank];
  if (peer.exited) fail("%s: block %d has exited", text("cluster_peer", site).c_str(), peer.id);
  for (size_t i = 0; i < own.arrays.size(); ++i) {
    const Array& array = own.arrays[i];
    const char* at = static_cast<const char*>(shared);
    if (std::less_equal<>()(array.data, at) && std::less<>()(at, array.data + array.bytes))
      // The peer may not have come to its declaration yet; its array is there all the same.
      return array_of(peer, array.place, array.name, array.bytes).data + (at - array.data);
  }
  fail("%s of a pointer that is not into block %d's shared memory", text("cluster_peer", site).c_str(), own.id);
}

// All threads of the block have exited.
void Grid::retire(Block& block) {
  --live_blocks_;
  block.exited = true;
  block.fibers = {};
  block.warps = {};
  for (Array& array : block.arrays) {
#ifdef TLA_SIMT_RACE
    if (shape_.cluster > 1) race::leave(array.data, block.id, cluster_of(block).epoch);
#else
    poison_bytes(array.data, array.bytes, seed_ + arrays_made++);
#endif
  }
  // ASan knows freed memory. Otherwise a late peer finds poison, if not the race check.
#ifndef TLA_SIMT_ASAN
  if (shape_.cluster > 1) return;
#endif
  free_arrays(block);
}

void Grid::free_arrays(Block& block) {
  for (Array& array : block.arrays) {
#ifdef TLA_SIMT_RACE
    race::release(array.data);
#else
    std::free(array.data);
#endif
  }
  block.arrays.clear();
}

}  // namespace

// --- What shim.h declares -------------------------------------------------------------------------------------------

void meet(Level level, const char* operation, Site site) { grid->arrive(level, operation, 0, site, nullptr, nullptr); }
void meet_warp(const char* operation, uint64_t argument, void* operand, void (*all)(void* const*), Site site) {
  grid->arrive(Level::kWarp, operation, argument, site, operand, all);
}
void* shared_array(const void* place, const char* name, size_t bytes) { return grid->shared_array(place, name, bytes); }
void* dynamic_shared() { return grid->dynamic_shared(); }
const void* cluster_peer(const void* shared, int rank, Site site) { return grid->cluster_peer(shared, rank, site); }

uint64_t atomic(void* p, size_t bytes, uint64_t operand, uint64_t (*update)(uint64_t, uint64_t), Site site) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("%s: misaligned", text("atomic", site).c_str());
#ifdef TLA_SIMT_RACE
  race::atomic(p, bytes, __builtin_return_address(0));
#endif
  uint64_t old = 0;  // little-endian
  if (bytes == 4) {
    uint32_t* word = static_cast<uint32_t*>(p);
    old = *word;
    *word = static_cast<uint32_t>(update(old, operand));
  } else {
    uint64_t* word = static_cast<uint64_t*>(p);
    old = *word;
    *word = update(old, operand);
  }
  grid->maybe_yield();
  return old;
}

namespace machine {

uint64_t launch() { return launches; }
int cluster_blocks() { return grid->cluster_blocks(); }
uint64_t draw() { return grid->draw(); }
void poison(void* p, size_t bytes, uint64_t turn) { poison_bytes(p, bytes, turn); }
Window window(int block) {
  Block& of = grid->block(block);
  if (of.exited) return {nullptr, 0, true};
  const Array& array = grid->dynamic_array(of);
  return {array.data, array.bytes, false};
}
void park(const char* operation, Site site) { grid->park(operation, site); }
void wake(int block, int thread) { grid->wake(block, thread); }
void later(std::function<void()> event) { grid->later(std::move(event)); }

}  // namespace machine

void poison(Sixteen& data) { poison_bytes(&data, sizeof(data), grid->draw()); }
void send(const Copy& copy) { grid->current().copies.emplace_back(grid->current().groups, copy); }
void commit_copies() { ++grid->current().groups; }
bool arrived(int groups, Copy& copy) {
  Fiber& fiber = grid->current();
  if (fiber.copies.empty() || fiber.copies.front().first >= fiber.groups - groups) return false;
  copy = fiber.copies.front().second;
  fiber.copies.pop_front();
  return true;
}

void Launch::run(LaunchShape shape, void (*body)(const void*), const void* call) const {
  if (grid) fail("a launch within a launch");
  const int size = shape.threads != kThreads ? shape.threads : threads;
  Grid one(seed, size, shape, body, call);
  grid = &one;
  ++launches;
#ifdef TLA_SIMT_RACE
  race::begin(size, shape.cluster, static_cast<int>(shape.blocks));
#endif
  one.run();
#ifdef TLA_SIMT_RACE
  race::end();
#endif
  grid = nullptr;
}

Buffer Buffer::input(const void* data, size_t bytes) {
#ifdef TLA_SIMT_RACE
  void* p = race::allocate(bytes, "input", race::kGlobal, true);
#else
  void* p = std::malloc(bytes);
#endif
  if (bytes > 0 && data) std::memcpy(p, data, bytes);
  if (bytes > 0 && !data) std::memset(p, 0, bytes);
  return Buffer(p, bytes);
}
Buffer Buffer::output(size_t bytes, uint64_t seed) {
#ifdef TLA_SIMT_RACE
  void* p = race::allocate(bytes, "output", race::kGlobal, false);
#else
  void* p = std::malloc(bytes);
#endif
  poison_bytes(p, bytes, seed);
  return Buffer(p, bytes);
}
Buffer Buffer::sparse(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail("no address space for %zu bytes", bytes);
  Buffer buffer(p, bytes);
  buffer.mapped_ = true;
  return buffer;
}
Buffer::~Buffer() {
  if (!data_) return;
  if (mapped_) {
    munmap(data_, bytes_);
    return;
  }
#ifdef TLA_SIMT_RACE
  race::release(data_);
#else
  std::free(data_);
#endif
}

}  // namespace tla::simt
