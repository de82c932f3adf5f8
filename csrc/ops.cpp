// Every operator's schema. Kernels register themselves from cpu/ and cuda/; fake kernels and autograd are Python's.
//
// Shapes: anchor (B, D); positive (B, K, D), or a pool (N, D) where positive_index (B,) is given; candidates (M, D);
// negative (N, D) picked from by negative_index (B,), or (B, D) without it. Labels and indices are int64; -1 is "none".
// `screens`: the names of the ways that a large CUDA search may go beside tiles (common/plan_large.h).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(tla_ops, m) {
  m.def(
      "mine(Tensor anchor, Tensor candidates, Tensor labels, Tensor candidate_labels, Tensor? positive,"
      " Tensor? target_labels, Tensor? exclude, Tensor? uniform, str metric, str mining, bool same_class, bool fast,"
      " str screens=\"\", Tensor? packed=None)"
      " -> (Tensor distance, Tensor index)");
  // The candidates packed for a CPU's screen, for as many searches as they stay as they are: `packed` above; and rows
  // [first, first + count) of them packed again. (0,) where there is no such screen.
  m.def("pack_pool(Tensor candidates, str metric) -> Tensor");
  m.def("repack_pool(Tensor(a!) packed, Tensor candidates, int first, int count) -> ()");
  m.def(
      "triplet_adv_loss(Tensor anchor, Tensor positive, Tensor candidates, Tensor labels, Tensor candidate_labels,"
      " Tensor? target_labels, Tensor? exclude, Tensor? uniform, float margin, float weight, float norm_weight,"
      " str metric, str mining, str norm, str reduction, bool fast, str screens=\"\", Tensor? packed=None)"
      " -> (Tensor loss, Tensor negative_index, Tensor positive_distance, Tensor negative_distance)");
  m.def(
      "triplet_loss(Tensor anchor, Tensor positive, Tensor negative, Tensor? positive_index, Tensor? negative_index,"
      " float margin, float weight, float norm_weight, str metric, str norm, str reduction)"
      " -> (Tensor loss, Tensor positive_distance, Tensor negative_distance)");
  m.def(
      "triplet_loss_backward(Tensor grad, Tensor anchor, Tensor positive, Tensor negative, Tensor? positive_index,"
      " Tensor? negative_index, float margin, float weight, float norm_weight, str metric, str norm, str reduction,"
      " bool need_anchor, bool need_positive, bool need_negative, bool sparse) -> (Tensor, Tensor, Tensor)");
  m.def("cdist(Tensor x1, Tensor x2, str metric) -> Tensor");
  m.def(
      "cdist_backward(Tensor grad, Tensor x1, Tensor x2, str metric, bool need_x1, bool need_x2)"
      " -> (Tensor, Tensor)");
  // Makes the CPU kernels use "amx", "avx512_vnni", "avx512", "avx2_int16", "avx2" or "plain" code, "" for the best;
  // returns the one in use before. Process-wide: for tests and benchmarks.
  m.def("use_instruction_set(str name) -> str");
}
