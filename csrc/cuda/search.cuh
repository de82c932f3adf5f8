// The search of each anchor's candidate over tiles: keys in a team's shared memory, then in global memory, one a team.
#pragma once

#include "../common/plan.h"
#include "keys.cuh"
#include "tile.cuh"

namespace tla::cuda {

// Null where there is none.
struct Labels {
  const int64_t *own, *pool, *target, *exclude;
};

// (B, K, D): row k of anchor i.
struct Positives {
  Rows first;  // the K rows of anchor 0
  int64_t count = 0, step = 0;

  TLA_DEVICE Rows of(int64_t i) const { return shifted(first, i, step); }
};

struct SearchParams {
  Rows anchor, candidates;
  int64_t b = 0, m = 0;
  int d = 0;
  Labels labels;
  Positives positive;
  const double* uniform = nullptr;
  Metric metric;
  Mining mining;
  bool same_class = false;
  TilePlan plan;
  // Workspace, not initialised: keys [slots][partials][b]; squared norms of the candidates, if they are wanted; sums of
  // teams that meet in global memory.
  void* keys = nullptr;
  double* squares = nullptr;
  void* sums = nullptr;

  // A row keeps its best key among the candidates of other classes and of the class wanted, and under semihard the
  // farthest beside the nearest that is farther than the positive.
  TLA_HD bool semihard() const { return mining == Mining::kSemihard; }
  TLA_HD int slot(bool wanted, bool far) const { return (wanted ? 1 + semihard() : 0) + far; }
  TLA_HD bool random() const { return mining == Mining::kRandom; }  // one key, of the only pick there is
  TLA_HD bool targets() const { return labels.target != nullptr && !random(); }
  TLA_HD int slots() const { return (1 + semihard()) * (1 + targets()); }
  TLA_HD int64_t partials() const { return random() ? 1 : plan.teams_m; }
  // Whether the least key is the farthest candidate.
  TLA_HD bool farthest(bool far) const { return far || (same_class && mining == Mining::kHardest); }
  TLA_HD bool meets_in_grid() const { return plan.team > 1 && !plan.cluster; }
};

// Bytes of a search's workspace, in the order of SearchParams.
struct SearchBytes {
  int64_t keys, squares, sums;
};
inline SearchBytes search_bytes(const SearchParams& p, bool wide, bool squares) {
  const int part = p.plan.anchor_tile == 32 ? Shape<float, 32>::kPartSize : Shape<float, 64>::kPartSize;
  return {p.slots() * p.partials() * p.b * (wide ? 16 : 8),
          squares && !p.random() ? p.m * static_cast<int64_t>(sizeof(double)) : 0,
          p.meets_in_grid() ? int64_t{p.plan.teams} * kParts * part * static_cast<int64_t>(sizeof(float)) : 0};
}

// What row i may pick.
struct Rule {
  int64_t own, target, exclude;
  bool same_class, has_target;

  TLA_DEVICE Rule(const SearchParams& p, int64_t i)
      : own(p.labels.own[i]),
        target(p.labels.target != nullptr ? p.labels.target[i] : own),
        exclude(p.labels.exclude != nullptr ? p.labels.exclude[i] : -1),
        same_class(p.same_class),
        has_target(target != own) {}
  TLA_DEVICE bool open(int64_t j, int64_t label) const { return label != kNeverLabel && j != exclude; }
  TLA_DEVICE bool other(int64_t j, int64_t label) const { return open(j, label) && (label == own) == same_class; }
  TLA_DEVICE bool wanted(int64_t j, int64_t label) const { return has_target && open(j, label) && label == target; }
};

// Row i's pick from the keys of all teams.
template <class T>
struct Pick {
  T distance;
  int64_t index;
};
template <class T>
TLA_DEVICE Pick<T> pick_of(const SearchParams& p, int64_t i) {
  const Key<T>* keys = static_cast<const Key<T>*>(p.keys);
  for (int wanted = p.targets(); wanted >= 0; --wanted)
    for (int far = 0; far <= p.semihard(); ++far) {
      Key<T> best = Key<T>::none();
#pragma unroll 8
      for (int64_t t = 0; t < p.partials(); ++t) {
        const Key<T> key = keys[(p.slot(wanted, far) * p.partials() + t) * p.b + i];
        if (key < best) best = key;
      }
      if (best.exists()) return {best.distance(p.farthest(far)), best.index()};
    }
  return {from_bits(Key<T>::kInfinity), -1};
}

// The distance to the nearest positive; NaN where one is NaN or there is none, so that semihard falls back to hardest.
template <class Op, class T>
TLA_DEVICE T nearest_positive(const SearchParams& p, int64_t i) {
  const Rows rows = p.positive.of(i);
  T nearest = from_bits(p.positive.count > 0 ? Key<T>::kInfinity : Key<T>::kNaN);
  for (int64_t k = 0; k < p.positive.count; ++k) {
    const T distance = warp_pair<Op, T>(p.metric, p.anchor, i, rows, k, p.d).distance;
    if (distance != distance || distance < nearest) nearest = distance;
    if (nearest != nearest) break;
  }
  return nearest;
}

// A random pick of row i, by a warp: the floor(u n)-th of its n allowed candidates. Returns its squared norm, or -1.
template <class Op, class T>
TLA_DEVICE double pick_at_random(const SearchParams& p, int64_t i) {
  const Rule rule(p, i);
  const auto allowed = [&](int64_t j, bool wanted) {
    const int64_t label = j < p.m ? p.labels.pool[j] : kNeverLabel;
    return ballot(wanted ? rule.wanted(j, label) : rule.other(j, label));
  };
  int64_t others = 0, of_target = 0;
  for (int64_t j = lane_id(); j - lane_id() < p.m; j += kWarp) {
    others += count_set(allowed(j, false));
    if (rule.has_target) of_target += count_set(allowed(j, true));
  }
  const int64_t count = of_target > 0 ? of_target : others;
  Key<T> key = Key<T>::none();
  double square = -1;
  if (count > 0) {
    int64_t rank = static_cast<int64_t>(std::floor(p.uniform[i] * count));
    rank = rank < 0 ? 0 : rank < count ? rank : count - 1;
    int64_t picked = -1;
    for (int64_t j = lane_id(); picked < 0; j += kWarp) {
      unsigned bits = allowed(j, of_target > 0);
      const int here = count_set(bits);
      if (rank < here) {
        for (; rank > 0; --rank) bits &= bits - 1;
        picked = j - lane_id() + first_set(bits);
      }
      rank -= here;
    }
    const Pair<T> pair = warp_pair<Op, T>(p.metric, p.anchor, i, p.candidates, picked, p.d);
    key = Key<T>::of(pair.distance, picked, p.farthest(false));
    square = pair.sums.y2;
  }
  if (lane_id() == 0) static_cast<Key<T>*>(p.keys)[i] = key;
  return square;
}

template <class Op, class T, class S>
struct TileSearch {
  const SearchParams& p;
  T* tile;
  T* shared;
  Key<T>* best;  // [4][kA], each entry kept by one lane
  T* bounds;     // [kA]

  TLA_DEVICE int rank() const { return block_id() % p.plan.team; }
  TLA_DEVICE int team() const { return block_id() / p.plan.team; }
  TLA_DEVICE int warp() const { return thread_id() / kWarp; }
  TLA_DEVICE int64_t first_a(int b) const { return int64_t{b} * S::kA; }
  TLA_DEVICE int count_a(int b) const { return at_most(p.b - first_a(b), S::kA); }
  TLA_DEVICE int64_t first_c(int m) const { return int64_t{m} * S::kC; }
  TLA_DEVICE int count_c(int m) const { return at_most(p.m - first_c(m), S::kC); }
  TLA_DEVICE static int at_most(int64_t x, int most) { return x < most ? static_cast<int>(x) : most; }
  TLA_DEVICE bool norms() const { return is_cosine(p.metric) || p.squares != nullptr; }

  // A block decides about the anchors of its rank, a warp about every fourth of those.
  template <class F>
  TLA_DEVICE void each_anchor(int b, const F& f) {
    const int owned = S::kA / p.plan.team, end = (rank() + 1) * owned;
    for (int a = rank() * owned + warp(); a < end && a < count_a(b); a += kThreads / kWarp) f(a, first_a(b) + a);
  }

  TLA_DEVICE void begin(int b) {
    each_anchor(b, [&](int a, int64_t i) {
      if (lane_id() < p.slots()) best[lane_id() * S::kA + a] = Key<T>::none();
      if (p.semihard()) {
        const T bound = nearest_positive<Op, T>(p, i);
        if (lane_id() == 0) bounds[a] = bound;
      }
    });
    warp_sync();
  }

  TLA_DEVICE void sum(int b, int m) {
    const TileRows rows{p.anchor, p.candidates, first_a(b), first_c(m), count_a(b), count_c(m), p.d};
    PairTile<Op, T, S> pairs(rows, norms(), tile, shared);
    const int parts = kParts / p.plan.team;
    pairs.run(rank() * parts, parts, p.plan.team == 1);
  }

  TLA_DEVICE T* in_global(int r) const {
    return static_cast<T*>(p.sums) + (team() * p.plan.team + r) * kParts / p.plan.team * S::kPartSize;
  }
  // The sum of all parts of D, in their order. All are on their way before the first is added: a peer is far away.
  template <class Join>
  TLA_DEVICE T joined(int at) const {
    if (p.plan.team == 1) return shared[at];
    const int parts = kParts / p.plan.team;
    T part[kParts], total = 0;
    if (p.plan.cluster) {
#pragma unroll
      for (int q = 0; q < kParts; ++q) part[q] = cluster_peer(shared, q / parts)[q % parts * S::kPartSize + at];
    } else {
#pragma unroll
      for (int q = 0; q < kParts; ++q) part[q] = in_global(q / parts)[q % parts * S::kPartSize + at];
    }
#pragma unroll
    for (int q = 0; q < kParts; ++q) total = Join::join(total, part[q]);
    return total;
  }

  TLA_DEVICE void publish_in_global() {
    block_sync();
    for (int part = 0; part < kParts / p.plan.team; ++part) {
      const T* from = shared + part * S::kPartSize;
      T* to = in_global(rank()) + part * S::kPartSize;
      for (int n = thread_id(); n < S::kA * S::kC; n += kThreads) {
        const int at = n / S::kC * S::kSums + n % S::kC;
        to[at] = from[at];
      }
      if (norms() && thread_id() < S::kRows) to[S::kA * S::kSums + thread_id()] = from[S::kA * S::kSums + thread_id()];
    }
  }

  TLA_DEVICE void score(int b, int m) {
    for (int c = lane_id(); c < S::kC; c += kWarp) {
      const int64_t j = first_c(m) + c;
      const bool there = c < count_c(m);
      const int64_t label = there ? p.labels.pool[j] : kNeverLabel;
      const T y2 = norms() ? joined<Dot>(S::kA * S::kSums + S::kA + c) : T(0);
      if (p.squares != nullptr && b == 0 && rank() == 0 && warp() == 0) keep_square(j, there, y2);
      each_anchor(b, [&](int a, int64_t i) {
        const Sums<T> sums{joined<Op>(a * S::kSums + c), norms() ? joined<Dot>(S::kA * S::kSums + a) : T(0), y2};
        const T distance = lane_distance(p.metric, sums, there, p.anchor, i, p.candidates, j, p.d);
        offer(a, Rule(p, i), j, label, distance);
      });
    }
  }
  TLA_DEVICE void keep_square(int64_t j, bool there, T y2) {
    double square = y2;
    for (unsigned odd = ballot(there && !square_holds(y2)); odd != 0; odd &= odd - 1) {
      const int lane = first_set(odd);
      const double exact = exact_square(p.candidates, j - lane_id() + lane, p.d);
      if (lane_id() == lane) square = exact;
    }
    if (there) p.squares[j] = square;
  }
  TLA_DEVICE void offer(int a, const Rule& rule, int64_t j, int64_t label, T distance) {
    const bool farther = !p.semihard() || !(distance <= bounds[a]);
    for (int wanted = 0; wanted <= p.targets(); ++wanted) {
      const bool allowed = wanted ? rule.wanted(j, label) : rule.other(j, label);
      for (int far = 0; far <= p.semihard(); ++far) {
        const bool in = allowed && (far || farther);
        const Key<T> key = warp_least(in ? Key<T>::of(distance, j, p.farthest(far)) : Key<T>::none());
        Key<T>& kept = best[p.slot(wanted, far) * S::kA + a];
        if (lane_id() == 0 && key < kept) kept = key;
      }
    }
  }

  TLA_DEVICE void end(int b, int team_m) {
    warp_sync();
    Key<T>* keys = static_cast<Key<T>*>(p.keys);
    each_anchor(b, [&](int a, int64_t i) {
      if (lane_id() < p.slots()) keys[(lane_id() * p.partials() + team_m) * p.b + i] = best[lane_id() * S::kA + a];
    });
    warp_sync();
  }
};

// Every block of a cooperative launch calls this: teams search, the blocks behind them run `rows`. At its end all keys
// are there for everyone.
template <class Op, class T, class S, class F>
TLA_DEVICE void search(const SearchParams& p, const F& rows) {
  TLA_SHARED(T, tile, S::kRows * S::kStride);
  TLA_SHARED(T, shared, S::kMaxShared * S::kPartSize);
  TLA_SHARED(Key<T>, best, 4 * S::kA);
  TLA_SHARED(T, bounds, S::kA);
  static_assert(
      sizeof(T) * (S::kRows * S::kStride + S::kMaxShared * S::kPartSize + S::kA) + sizeof(Key<T>) * 4 * S::kA <=
          kTileSharedBytes - kOtherSharedBytes,
      "plan.h counts on it");
  TileSearch<Op, T, S> s{p, tile, shared, best, bounds};
  const bool in_team = block_id() < p.plan.teams * p.plan.team;
  if (!in_team) rows();
  if (p.plan.team > 1) {
    // Such teams have one tile each.
    const int b = in_team ? s.team() / p.plan.teams_m : 0, m = in_team ? s.team() % p.plan.teams_m : 0;
    if (in_team) {
      s.begin(b);
      s.sum(b, m);
    }
    if (!p.plan.cluster) {
      if (in_team) s.publish_in_global();
      grid_sync();
    } else if (in_team) {
      cluster_sync();
    }
    if (in_team) {
      s.score(b, m);
      s.end(b, m);
    }
  } else if (in_team) {
    const int team_m = s.team() % p.plan.teams_m;
    for (int b = s.team() / p.plan.teams_m; b < p.plan.tiles_b; b += p.plan.teams_b) {
      s.begin(b);
      for (int m = team_m; m < p.plan.tiles_m; m += p.plan.teams_m) {
        s.sum(b, m);
        block_sync();
        s.score(b, m);
        block_sync();  // nobody reads these sums any more
      }
      s.end(b, team_m);
    }
  }
  // Until here a cluster's blocks read each other's memory.
  grid_sync();
}

}  // namespace tla::cuda
