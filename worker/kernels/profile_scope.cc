#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

std::string_view operator_group_name(OperatorGroup group) {
  switch (group) {
    case OperatorGroup::attention:
      return "attention";
    case OperatorGroup::matrix_product:
      return "matrix products";
    case OperatorGroup::normalisation:
      return "normalisation";
    case OperatorGroup::activation:
      return "activation";
    case OperatorGroup::embedding:
      return "embedding";
    case OperatorGroup::loss:
      return "loss";
    case OperatorGroup::optimiser:
      return "optimiser";
    case OperatorGroup::data:
      return "data";
    case OperatorGroup::other:
      break;
  }
  return "other";
}

}  // namespace finesweep::worker
