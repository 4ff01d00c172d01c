#include "worker/formats/host_copies.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <cstdint>
#include <map>

namespace finesweep::worker {

std::vector<std::pair<std::string, at::Tensor>> copies_on_host(
    const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  const at::NoGradGuard no_graph;
  std::map<std::pair<std::string, at::ScalarType>, std::vector<std::size_t>> alike;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const at::Tensor& tensor = tensors[i].second;
    alike[{tensor.device().str(), tensor.scalar_type()}].push_back(i);
  }
  auto copies = tensors;
  for (const auto& [kind, members] : alike) {
    std::vector<at::Tensor> flat;
    for (const std::size_t i : members) flat.push_back(tensors[i].second.reshape({-1}));
    const at::Tensor all = at::cat(flat).cpu();
    std::int64_t at = 0;
    for (const std::size_t i : members) {
      const at::Tensor& tensor = tensors[i].second;
      copies[i].second = all.narrow(0, at, tensor.numel()).view(tensor.sizes());
      at += tensor.numel();
    }
  }
  return copies;
}

}  // namespace finesweep::worker
