// Barriers that count bytes, the tensor memory accelerator, and a warpgroup's products.
#include "shim_hopper.h"

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"
#ifdef TLA_SIMT_RACE
#include "race.h"
#endif

namespace tla::simt {
namespace {

// Where dynamic shared memory begins on the device: not aligned by more than was promised.
constexpr uint32_t kWindow = 0x410;
constexpr int kBoxColumns = 64, kLine = 128;  // of halves, and bytes

std::string text(const char* operation, const Site& site) {
  return std::string(operation) + " at " + site.file_name() + ":" + std::to_string(site.line());
}

struct Barrier {
  int arrivals = 0, pending = 0;
  int64_t bytes = 0;   // expected and not come
  uint32_t phase = 0;  // how many have ended
  bool fenced = false;
  Self owner;  // who initialised it
  std::vector<std::pair<int, int>> waiting;
#ifdef TLA_SIMT_RACE
  uint32_t agent = race::new_agent();  // all copies of a phase
  race::Knowledge coming, ended;
#endif
};

// A product that is under way: d is known to the shadow alone.
struct Product {
  uint64_t a, b;
  bool add;
  uint32_t group;
};
struct Warp {
  bool fenced = false;
  uint32_t groups = 0;  // committed
  std::deque<Product> products;
  float* d[kLanes] = {};
  float shadow[16][256];  // by rows and columns
  uint32_t done = 0;      // of `products`, into the shadow
#ifdef TLA_SIMT_RACE
  uint32_t agent = race::new_agent();
#endif
};

struct State {
  uint64_t launch = 0;
  std::map<std::pair<int, uint32_t>, Barrier> barriers;  // by block and address
  std::map<std::pair<int, int>, Warp> warps;             // by block and warp
};
State& state() {
  static State all;
  if (all.launch != machine::launch()) {
    all.barriers.clear();
    all.warps.clear();
    all.launch = machine::launch();
  }
  return all;
}

// Where the kernel called: what the race check says of an access.
const void* caller = nullptr;

int block_of_rank(int rank) { return self->block / machine::cluster_blocks() * machine::cluster_blocks() + rank; }

char* at_address(int block, uint32_t address, size_t bytes, const char* operation, Site site) {
  const machine::Window window = machine::window(block);
  if (window.gone) fail("%s: block %d has exited", text(operation, site).c_str(), block);
  if (address < kWindow || address - kWindow + bytes > window.bytes)
    fail("%s: %zu bytes at %u are not all in block %d's shared memory", text(operation, site).c_str(), bytes, address,
         block);
  return window.data + (address - kWindow);
}

Barrier& barrier_at(int block, uint32_t address, const char* operation, Site site) {
  const auto found = state().barriers.find({block, address});
  if (found == state().barriers.end()) fail("%s: no barrier was initialised there", text(operation, site).c_str());
  if (!found->second.fenced && (block != self->block || self->thread != found->second.owner.thread))
    fail("%s: the barrier's initialisation was not fenced", text(operation, site).c_str());
#ifdef TLA_SIMT_RACE
  race::atomic(at_address(block, address, 8, operation, site), 8, caller);
#endif
  return found->second;
}

void end_if_complete(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.arrivals;
  ++barrier.phase;
#ifdef TLA_SIMT_RACE
  race::learn(barrier.coming, barrier.agent, barrier.phase);
  barrier.ended = barrier.coming;
#endif
  for (const auto& [block, thread] : barrier.waiting) machine::wake(block, thread);
  barrier.waiting.clear();
}

void arrive(Barrier& barrier, const char* operation, Site site) {
  if (barrier.pending == 0) fail("%s: more arrivals than a phase has", text(operation, site).c_str());
#ifdef TLA_SIMT_RACE
  race::release(barrier.coming);
#endif
  --barrier.pending;
  end_if_complete(barrier);
}

// 16 bytes of a line in a tile that is swizzled by 128 bytes: bits 4 to 6 of an address are xored with bits 7 to 9.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

Warp& warp_of_self() { return state().warps[{self->block, self->thread / kLanes}]; }

// Chunk `chunk` of 16 bytes of row `row`, of what a descriptor says.
char* chunk_of(uint64_t descriptor, int row, int chunk) {
  const Site none;
  const uint32_t start = (descriptor & 0x3fff) << 4, step = (descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1 || descriptor >> 49 & 7) fail("a descriptor that is not of a tile swizzled by 128 bytes");
  if (start >> 7 & 7) fail("a descriptor of a tile that does not begin at a multiple of 1024");
  const uint32_t address = start + row / 8 * step + row % 8 * kLine + chunk * 16;
  return at_address(self->block, swizzled(address), 16, "wgmma", none);
}

void multiply(Warp& warp, const Product& product, int first_row) {
  float a[16][16], b[16][256];
  const auto load = [](uint64_t descriptor, int row, auto&& put) {
    for (int chunk = 0; chunk < 2; ++chunk) {
      uint16_t halves[8];
      std::memcpy(halves, chunk_of(descriptor, row, chunk), 16);
      for (int k = 0; k < 8; ++k) put(chunk * 8 + k, cuda::half_to_float(halves[k]));
    }
  };
  for (int r = 0; r < 16; ++r) load(product.a, first_row + r, [&](int k, float value) { a[r][k] = value; });
  for (int c = 0; c < 256; ++c) load(product.b, c, [&](int k, float value) { b[k][c] = value; });
  for (int r = 0; r < 16; ++r) {
    float sum[256];
    for (int c = 0; c < 256; ++c) sum[c] = product.add ? warp.shadow[r][c] : 0;
    for (int k = 0; k < 16; ++k)
      for (int c = 0; c < 256; ++c) sum[c] += a[r][k] * b[k][c];
    std::memcpy(warp.shadow[r], sum, sizeof(sum));
  }
}

// Calls f(a lane's accumulator, its place in the shadow).
template <class F>
void each_accumulator(Warp& warp, const F& f) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int n = 0; n < 128; ++n)
      f(warp.d[lane][n], warp.shadow[lane / 4 + n / 2 % 2 * 8][n / 4 * 8 + lane % 4 * 2 + n % 2]);
}
int first_row_of_warp() { return self->thread / kLanes % 4 * 16; }

}  // namespace

uint32_t shared_address(const void* shared) {
  const machine::Window window = machine::window(self->block);
  const char* at = static_cast<const char*>(shared);
  if (std::less<>()(at, window.data) || std::less<>()(window.data + window.bytes, at))
    fail("the address of something that is not in dynamic shared memory");
  return kWindow + static_cast<uint32_t>(at - window.data);
}
int cluster_rank() { return self->block % machine::cluster_blocks(); }

void barrier_init(uint64_t* barrier, int arrivals, Site site) {
  caller = __builtin_return_address(0);
  const uint32_t address = shared_address(barrier);
  if (address % 8 || arrivals < 1)
    fail("%s of %d arrivals at %u", text("barrier_init", site).c_str(), arrivals, address);
#ifdef TLA_SIMT_RACE
  race::write(barrier, 8, caller);
#endif
  Barrier& b = state().barriers[{self->block, address}] = Barrier();
  b.arrivals = b.pending = arrivals;
  b.owner = *self;
}
void fence_barrier_init() {
  for (auto& [where, barrier] : state().barriers)
    if (where.first == self->block && barrier.owner.thread == self->thread) barrier.fenced = true;
}
void barrier_expect(uint64_t* barrier, int bytes, Site site) {
  caller = __builtin_return_address(0);
  Barrier& b = barrier_at(self->block, shared_address(barrier), "barrier_expect", site);
  b.bytes += bytes;
  arrive(b, "barrier_expect", site);
}
void barrier_arrive(uint64_t* barrier, int rank, Site site) {
  caller = __builtin_return_address(0);
  if (rank < 0 || rank >= machine::cluster_blocks()) fail("%s of rank %d", text("barrier_arrive", site).c_str(), rank);
  const int block = block_of_rank(rank);
  const uint32_t address = shared_address(barrier);
  at_address(block, address, 8, "barrier_arrive", site);
  arrive(barrier_at(block, address, "barrier_arrive", site), "barrier_arrive", site);
}
void barrier_wait(uint64_t* barrier, int parity, Site site) {
  caller = __builtin_return_address(0);
  Barrier& b = barrier_at(self->block, shared_address(barrier), "barrier_wait", site);
  while (static_cast<int>(b.phase & 1) == parity) {
    b.waiting.emplace_back(self->block, self->thread);
    machine::park("barrier_wait", site);
  }
#ifdef TLA_SIMT_RACE
  race::acquire(b.ended);
#endif
}

void load_tile(void* shared, const cuda::TensorMap& map, int row, int column, uint64_t* barrier, int blocks,
               Site site) {
  caller = __builtin_return_address(0);
  const uint32_t address = shared_address(shared), of_barrier = shared_address(barrier);
  const uint32_t bytes = static_cast<uint32_t>(map.box_rows) * kLine;
  if (map.box_columns != kBoxColumns || map.box_rows < 1 || map.box_rows > 256 || address % 128 || map.stride % 8 ||
      reinterpret_cast<uintptr_t>(map.data) % 16 || blocks == 0 || blocks >> machine::cluster_blocks())
    fail("%s: a box of %d x %d halves to %u in blocks %x", text("load_tile", site).c_str(), map.box_rows,
         map.box_columns, address, static_cast<unsigned>(blocks));
  for (int rank = 0; rank < machine::cluster_blocks(); ++rank) {
    if (!(blocks >> rank & 1)) continue;
    const int block = block_of_rank(rank);
    char* to = at_address(block, address, bytes, "load_tile", site);
    [[maybe_unused]] Barrier& b = barrier_at(block, of_barrier, "load_tile", site);
#ifdef TLA_SIMT_RACE
    for (uint32_t n = 0; n < bytes; n += 16) race::access_of(b.agent, b.phase, to + n, 16, true, caller);
#endif
    machine::poison(to, bytes, machine::draw());
    machine::later([=, map_of_copy = map] {
      if (machine::window(block).gone) fail("block %d has exited, and a copy is on its way into it", block);
      for (int r = 0; r < map_of_copy.box_rows; ++r)
        for (int k = 0; k < kBoxColumns; ++k) {
          const int64_t i = int64_t{row} + r, j = int64_t{column} + k;
          const bool there = i >= 0 && i < map_of_copy.rows && j >= 0 && j < map_of_copy.columns;
          const uint16_t value = there ? map_of_copy.data[i * map_of_copy.stride + j] : 0;
          const uint32_t where = swizzled(address + r * kLine + k * 2) - address;
          std::memcpy(to + where, &value, 2);
        }
      Barrier& there = state().barriers.at({block, of_barrier});
      there.bytes -= bytes;
      end_if_complete(there);
    });
  }
}

void share_registers(int registers, Site site) {
  if (registers % 8 || registers < 24 || registers > 256)
    fail("%s: %d registers", text("registers", site).c_str(), registers);
  meet_warp("registers", static_cast<uint64_t>(registers), nullptr, [](void* const*) {}, site);
}

void wgmma_fence(Site site) {
  meet_warp("wgmma_fence", 0, nullptr, [](void* const*) { warp_of_self().fenced = true; }, site);
}
void wgmma_commit(Site site) {
  meet_warp("wgmma_commit", 0, nullptr, [](void* const*) { ++warp_of_self().groups; }, site);
}

void wgmma_wait(int groups, Site site) {
  int mine = groups;
  const auto all = [](void* const* operands) {
    Warp& warp = warp_of_self();
    const int under_way = *static_cast<const int*>(operands[0]);
    while (!warp.products.empty() && warp.products.front().group + under_way < warp.groups) {
      if (warp.done > 0)
        --warp.done;
      else
        multiply(warp, warp.products.front(), first_row_of_warp());
      warp.products.pop_front();
    }
    if (!warp.products.empty()) return;
    // Of those that were asked for and not committed nothing is known yet.
    if (warp.d[0] != nullptr) each_accumulator(warp, [](float& d, float& shadow) { d = shadow; });
    for (float*& d : warp.d) d = nullptr;
    warp.fenced = false;
  };
  meet_warp("wgmma_wait", static_cast<uint64_t>(groups), &mine, all, site);
#ifdef TLA_SIMT_RACE
  const Warp& warp = warp_of_self();
  if (warp.groups >= static_cast<uint32_t>(groups)) race::learn(warp.agent, warp.groups - groups);
#endif
}

void wgmma_m64n256k16_f16(float* d, uint64_t a, uint64_t b, bool add, Site site) {
  struct Operand {
    float* d;
    uint64_t a, b;
    bool add;
    const void* caller;
  } mine{d, a, b, add, __builtin_return_address(0)};
  const auto all = [](void* const* operands) {
    Warp& warp = warp_of_self();
    if (!warp.fenced) fail("wgmma without a fence before it, in block %d thread %d", self->block, self->thread);
    const Operand& first = *static_cast<const Operand*>(operands[0]);
    if (warp.d[0] == nullptr) {
      for (int lane = 0; lane < kLanes; ++lane) warp.d[lane] = static_cast<const Operand*>(operands[lane])->d;
      each_accumulator(warp, [](float& d, float& shadow) { shadow = d; });
      const uint64_t turn = machine::draw();
      for (float* of_lane : warp.d) machine::poison(of_lane, 128 * sizeof(float), turn);
    } else if (warp.d[0] != first.d) {
      fail("wgmma: other accumulators while products are under way");
    }
    warp.products.push_back({first.a, first.b, first.add, warp.groups});
#ifdef TLA_SIMT_RACE
    for (int chunk = 0; chunk < 2; ++chunk) {
      for (int r = 0; r < 16; ++r)
        race::access_of(warp.agent, warp.groups, chunk_of(first.a, first_row_of_warp() + r, chunk), 16, false,
                        first.caller);
      for (int c = 0; c < 256; ++c)
        race::access_of(warp.agent, warp.groups, chunk_of(first.b, c, chunk), 16, false, first.caller);
    }
#endif
    // At once, or at the wait.
    if (machine::draw() % 2 == 0)
      for (; warp.done < warp.products.size(); ++warp.done)
        multiply(warp, warp.products[warp.done], first_row_of_warp());
  };
  meet_warp("wgmma", a * 0x9e3779b97f4a7c15u ^ b * 2 ^ static_cast<uint64_t>(add), &mine, all, site);
}

}  // namespace tla::simt
