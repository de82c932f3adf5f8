// The race and initialisation check: the callbacks that -fsanitize=thread plants at every access, without its library.
// Two accesses to the same bytes, one of them a write, by threads that have not met in between are a race whatever the
// schedule was; so is an access to a peer's shared memory that nothing keeps the peer from leaving before. Reads of
// what nobody wrote, and accesses beside the buffers, are found as well.
//
// Watched memory lies in one arena, whose pages name their region; anything else (stacks, constants) costs a
// comparison.
#include "race.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace tla::simt::race {

Moment now;

namespace {

constexpr size_t kArena = size_t{1} << 34, kPage = 256;
constexpr uint32_t kNobody = ~0u, kHost = ~0u - 1, kAtomic = 1u << 30, kAgent = 1u << 29;

struct Access : Moment {
  uint32_t pc = 0;  // the executable is linked at a fixed low address
  Access() : Moment{kNobody, 0, 0, 0, 0, 0} {}
  Access(const Moment& moment, uint32_t pc) : Moment(moment), pc(pc) {}
  bool is_atomic() const { return thread < kHost && thread & kAtomic; }
  uint32_t by() const { return thread >= kHost ? thread : thread & ~kAtomic; }
  bool is_agent() const { return thread < kHost && thread & kAgent; }
};

// The last write, and enough of the reads since then: the last one, and the last ones by another thread of its warp, by
// another warp of its block and by another block. A write that races with any read races with one of them, except among
// three and more blocks in clusters.
struct Cell {
  Access write;
  Access reads[4];
  std::vector<Access> agents;  // that read
};

struct Region {
  char* begin;
  size_t bytes, room;
  int block;
  bool gone;
  const char* name;
  size_t grain;  // bytes of a cell: the narrowest access so far
  std::vector<Cell> cells;
};

enum class Kind { kRead, kWrite, kAtomic };
constexpr const char* kNames[] = {"read", "write", "atomic"};

char* arena = nullptr;
Region** pages = nullptr;
size_t used = kPage;
std::multimap<size_t, char*> spare;
bool running = false;
uint32_t threads = 0, cluster = 0, blocks = 0, agents = 0;
std::vector<Knowledge> known;  // of every thread, from the first agent on
std::vector<uint32_t> clocks;

// Where a Knowledge has a thread of the running one's cluster, or an agent.
uint32_t place_in(uint32_t by) { return by & kAgent ? threads * cluster + (by & ~kAgent) : by % (threads * cluster); }
uint32_t at(const Knowledge& knowledge, uint32_t place) { return place < knowledge.size() ? knowledge[place] : 0; }
void raise(Knowledge& knowledge, uint32_t place, uint32_t clock) {
  if (place >= knowledge.size()) knowledge.resize(place + 1);
  knowledge[place] = std::max(knowledge[place], clock);
}
void join(Knowledge& to, const Knowledge& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

Region*& page_of(const void* p) { return pages[(static_cast<const char*>(p) - arena) / kPage]; }

// file:line of the call, with the functions it was inlined into.
std::string place(uint32_t pc) {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length < 0) return "?";
  path[length] = 0;
  char command[4300];
  std::snprintf(command, sizeof(command), "addr2line -Cipfe '%s' 0x%x 2>/dev/null", path, pc - 1);
  std::string out;
  if (FILE* pipe = popen(command, "r")) {
    char line[1024];
    while (std::fgets(line, sizeof(line), pipe)) out += "    " + std::string(line);
    pclose(pipe);
  }
  if (out.empty()) std::snprintf(command, sizeof(command), "    0x%x\n", pc - 1), out = command;
  return out;
}

std::string who(uint32_t thread) {
  if (thread == kHost) return "the host";
  if (thread & kAgent) return "what was asked for";
  return "block " + std::to_string(thread / threads) + " thread " + std::to_string(thread % threads);
}
std::string what(const Region& region, size_t at) {
  std::string out = "byte " + std::to_string(at) + " of ";
  if (region.block == kGlobal) return out + region.name + " of " + std::to_string(region.bytes) + " bytes";
  return out + "shared " + region.name + " of block " + std::to_string(region.block);
}

[[noreturn]] void report_race(const Region& region, size_t at, Kind kind, uint32_t pc, const Access& before,
                              Kind kind_before) {
  fail("race: %s\n  %s by %s\n%s  %s by %s\n%s", what(region, at).c_str(), kNames[static_cast<int>(kind)],
       who(now.thread).c_str(), place(pc).c_str(), kNames[static_cast<int>(kind_before)], who(before.by()).c_str(),
       place(before.pc).c_str());
}
[[noreturn]] void report(const char* problem, const std::string& where, Kind kind, size_t bytes, uint32_t pc) {
  fail("%s: %s\n  %s of %zu bytes by %s\n%s", problem, where.c_str(), kNames[static_cast<int>(kind)], bytes,
       who(now.thread).c_str(), place(pc).c_str());
}

// Whether `before` is known to have happened.
bool ordered(const Access& before) {
  const uint32_t by = before.by();
  if (by >= kHost || by == now.thread) return true;
  const bool told = !known.empty() && (before.is_agent() || by / threads / cluster == now.thread / threads / cluster) &&
                    at(known[now.thread], place_in(by)) > before.clock;
  if (told || before.is_agent()) return told;
  if (by / kLanes == now.thread / kLanes) return before.warp_epoch < now.warp_epoch;
  if (by / threads == now.thread / threads) return before.block_epoch < now.block_epoch;
  if (by / threads / cluster == now.thread / threads / cluster) return before.cluster_epoch < now.cluster_epoch;
  return before.grid_epoch < now.grid_epoch;
}

void add_read(Cell& cell, const Access& read) {
  if (read.is_agent()) {
    for (Access& r : cell.agents)
      if (r.thread == read.thread) return void(r = read);
    return cell.agents.push_back(read);
  }
  Access(&r)[4] = cell.reads;
  const uint32_t last = r[0].thread;
  if (last != kNobody && last != read.thread) {
    if (last / kLanes == read.thread / kLanes) {
      r[1] = r[0];
    } else if (last / threads == read.thread / threads) {
      r[2] = r[0];
    } else {
      r[3] = r[0];
      r[1] = r[2] = Access();
    }
  }
  r[0] = read;
}

void refine(Region& region, size_t grain) {
  std::vector<Cell> cells((region.bytes + grain - 1) / grain);
  for (size_t i = 0; i < cells.size(); ++i) cells[i] = region.cells[i * grain / region.grain];
  region.cells = std::move(cells);
  region.grain = grain;
}

void access(const void* p, size_t bytes, Kind kind, const void* return_address, const Moment* agent = nullptr) {
  const size_t offset = static_cast<size_t>(static_cast<const char*>(p) - arena);
  if (offset >= kArena || !running || !arena || bytes == 0) return;
  const uint32_t pc = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address));
  Region* found = page_of(p);
  if (!found) report("out of bounds", "no buffer is near", kind, bytes, pc);
  Region& region = *found;
  const size_t at = static_cast<size_t>(static_cast<const char*>(p) - region.begin);
  if (at + bytes > region.bytes) report("out of bounds", what(region, at), kind, bytes, pc);
  if (region.gone) report("the block has exited", what(region, at), kind, bytes, pc);
  const size_t narrow = (at | bytes) & -(at | bytes);
  if (narrow < region.grain) refine(region, narrow);
  for (size_t i = at / region.grain; i < (at + bytes) / region.grain; ++i) {
    Cell& cell = region.cells[i];
    if (cell.write.thread == kNobody && kind != Kind::kWrite)
      report("not initialised", what(region, i * region.grain), kind, bytes, pc);
    if (!ordered(cell.write) && !(kind == Kind::kAtomic && cell.write.is_atomic()))
      report_race(region, i * region.grain, kind, pc, cell.write,
                  cell.write.is_atomic() ? Kind::kAtomic : Kind::kWrite);
    if (kind == Kind::kRead) {
      add_read(cell, Access(agent ? *agent : now, pc));
      continue;
    }
    for (Access& read : cell.reads) {
      if (!ordered(read)) report_race(region, i * region.grain, kind, pc, read, Kind::kRead);
      read = Access();
    }
    for (const Access& read : cell.agents)
      if (!ordered(read)) report_race(region, i * region.grain, kind, pc, read, Kind::kRead);
    cell.agents.clear();
    cell.write = Access(agent ? *agent : now, pc);
    if (kind == Kind::kAtomic) cell.write.thread |= kAtomic;
  }
}

}  // namespace

void* allocate(size_t bytes, const char* name, int block, bool written) {
  const auto map = [](size_t size) {
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) fail("no address space for the race check");
    return p;
  };
  if (!arena) {
    pages = static_cast<Region**>(map(kArena / kPage * sizeof(Region*)));
    arena = static_cast<char*>(map(kArena));
  }
  // A page nobody owns ends every region, for what reads past the end.
  const size_t room = (bytes + kPage - 1) / kPage * kPage + kPage;
  char* begin = nullptr;
  if (auto it = spare.find(room); it != spare.end()) {
    begin = it->second;
    spare.erase(it);
  } else {
    begin = arena + used;
    used += room;
    if (used > kArena) fail("no room for the race check");
  }
  Region* region = new Region{begin, bytes, room, block, false, name, 16, std::vector<Cell>((bytes + 15) / 16)};
  if (written)
    for (Cell& cell : region->cells) cell.write.thread = kHost;
  for (size_t i = 0; i < room; i += kPage) page_of(begin + i) = region;
  return begin;
}

void release(void* p) {
  Region* region = page_of(p);
  for (size_t i = 0; i < region->room; i += kPage) page_of(region->begin + i) = nullptr;
  spare.emplace(region->room, region->begin);
  delete region;
}

void begin(int threads_of_block, int blocks_of_cluster, int blocks_of_grid) {
  threads = static_cast<uint32_t>(threads_of_block);
  cluster = static_cast<uint32_t>(blocks_of_cluster);
  blocks = static_cast<uint32_t>(blocks_of_grid);
  agents = 0;
  known.clear();
  clocks.clear();
  // Launches follow one another: what an earlier one wrote is there.
  Region* last = nullptr;
  for (size_t i = 0; i < used / kPage; ++i) {
    Region* region = pages ? pages[i] : nullptr;
    if (!region || region == last) continue;
    last = region;
    for (Cell& cell : region->cells) {
      if (cell.write.thread != kNobody) cell.write.thread = kHost;
      for (Access& read : cell.reads) read = Access();
      cell.agents.clear();
    }
  }
  running = true;
}
void end() { running = false; }

void leave(void* p, int block, uint16_t cluster_epoch) {
  Region& region = *page_of(p);
  region.gone = true;
  for (size_t i = 0; i < region.cells.size(); ++i) {
    const auto check = [&](const Access& access, Kind kind) {
      const uint32_t by = access.by();
      if (by < kHost && !access.is_agent() && by / threads != static_cast<uint32_t>(block) &&
          access.cluster_epoch >= cluster_epoch)
        fail("race: %s\n  block %d may exit before the %s by %s\n%s", what(region, i * region.grain).c_str(), block,
             kNames[static_cast<int>(kind)], who(by).c_str(), place(access.pc).c_str());
    };
    check(region.cells[i].write, Kind::kWrite);
    for (const Access& read : region.cells[i].reads) check(read, Kind::kRead);
  }
}

void atomic(const void* p, size_t bytes, const void* pc) { access(p, bytes, Kind::kAtomic, pc); }
void write(const void* p, size_t bytes, const void* pc) { access(p, bytes, Kind::kWrite, pc); }

uint32_t new_agent() {
  if (known.empty()) known.resize(threads * blocks), clocks.assign(threads * blocks, 1);
  return kAgent | agents++;
}
void release(Knowledge& to) {
  join(to, known[now.thread]);
  raise(to, place_in(now.thread), ++clocks[now.thread]);
  now.clock = clocks[now.thread];
}
void acquire(const Knowledge& from) { join(known[now.thread], from); }
void learn(Knowledge& by, uint32_t agent, uint32_t clock) { raise(by, place_in(agent), clock); }
void learn(uint32_t agent, uint32_t clock) { learn(known[now.thread], agent, clock); }
void meet(int first_thread, int count) {
  if (known.empty()) return;
  Knowledge all;
  for (int t = first_thread; t < first_thread + count; ++t) {
    join(all, known[t]);
    raise(all, place_in(t), ++clocks[t]);
  }
  for (int t = first_thread; t < first_thread + count; ++t) known[t] = all;
}
uint32_t clock_of(uint32_t thread) { return clocks.empty() ? 0 : clocks[thread]; }
void access_of(uint32_t agent, uint32_t clock, const void* p, size_t bytes, bool writes, const void* pc) {
  Moment moment = now;
  moment.thread = agent;
  moment.clock = clock;
  access(p, bytes, writes ? Kind::kWrite : Kind::kRead, pc, &moment);
}

}  // namespace tla::simt::race

// --- What the compiler calls ----------------------------------------------------------------------------------------

namespace race = tla::simt::race;

#define TLA_READ_WRITE(bytes)                                                                                  \
  void __tsan_read##bytes(void* p) { race::access(p, bytes, race::Kind::kRead, __builtin_return_address(0)); } \
  void __tsan_write##bytes(void* p) { race::access(p, bytes, race::Kind::kWrite, __builtin_return_address(0)); }
#define TLA_UNALIGNED(bytes)                                                 \
  void __tsan_unaligned_read##bytes(void* p) {                               \
    race::access(p, bytes, race::Kind::kRead, __builtin_return_address(0));  \
  }                                                                          \
  void __tsan_unaligned_write##bytes(void* p) {                              \
    race::access(p, bytes, race::Kind::kWrite, __builtin_return_address(0)); \
  }

extern "C" {
TLA_READ_WRITE(1)
TLA_READ_WRITE(2)
TLA_READ_WRITE(4)
TLA_READ_WRITE(8)
TLA_READ_WRITE(16)
TLA_UNALIGNED(2)
TLA_UNALIGNED(4)
TLA_UNALIGNED(8)
TLA_UNALIGNED(16)
void __tsan_read_range(void* p, size_t bytes) {
  race::access(p, bytes, race::Kind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void* p, size_t bytes) {
  race::access(p, bytes, race::Kind::kWrite, __builtin_return_address(0));
}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  race::access(from, bytes, race::Kind::kRead, __builtin_return_address(0));
  race::access(to, bytes, race::Kind::kWrite, __builtin_return_address(0));
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  race::access(from, bytes, race::Kind::kRead, __builtin_return_address(0));
  race::access(to, bytes, race::Kind::kWrite, __builtin_return_address(0));
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  race::access(to, bytes, race::Kind::kWrite, __builtin_return_address(0));
  return std::memset(to, value, bytes);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
// Guards of function-local statics; kernels have atomic_add.
uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
}
