// Solves the problems that come in on standard input with the CUDA kernels' bodies.
#include "runner.h"

int main() {
  using namespace tla::simt;
  const std::map<std::string, void (*)(const Problem&)> operators = {
      {"mine", run_mine},
      {"mine_large", run_mine_large},
      {"mine_bank", run_mine_bank},
      {"triplet_adv_loss", run_triplet_adv_loss},
      {"triplet_loss", run_triplet_loss},
      {"triplet_loss_backward", run_triplet_loss_backward},
      {"cdist", run_cdist},
      {"cdist_backward", run_cdist_backward}};
  for (Problem problem; problem.read();) {
    operators.at(problem.text("operator"))(problem);
    std::puts("done");
    std::fflush(stdout);
  }
}
