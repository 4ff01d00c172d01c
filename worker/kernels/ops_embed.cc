#include <ATen/TensorOperators.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/differentiate.h"
#include "worker/kernels/norm_dropout.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

void touch_rows(Parameter& table, const at::Tensor& ids, std::int64_t skipped) {
  const at::Tensor on_cpu = ids.cpu();
  const std::int64_t* id = on_cpu.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> touched(id, id + on_cpu.size(0));
  std::erase(touched, skipped);
  touched.insert(touched.end(), table.touched_rows.begin(), table.touched_rows.end());
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  table.touched_rows = std::move(touched);
}

/// Adds the rows of `gradient` [tokens, width] to the rows `ids` of the table's gradient, in the order of the
/// tokens. A null or frozen table gets none.
void add_rows(Parameter* table, const at::Tensor& ids, const at::Tensor& gradient, std::int64_t skipped) {
  if (table == nullptr || !table->trained) return;
  if (!gradient.is_cpu()) {
    at::Tensor kept = gradient.to(at::kFloat);
    if (skipped >= 0) kept = kept * ids.ne(skipped).unsqueeze(1);
    table->grad.index_add_(0, ids, kept);
  } else {
    const at::Tensor wide = gradient.to(at::kFloat).contiguous();
    const std::int64_t tokens = ids.size(0), width = wide.size(1);
    const std::int64_t* id = ids.const_data_ptr<std::int64_t>();
    const float* from = wide.const_data_ptr<float>();
    float* to = table->grad.mutable_data_ptr<float>();
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (id[t] == skipped) continue;
      float* row = to + id[t] * width;
      for (std::int64_t i = 0; i < width; ++i) row[i] += from[t * width + i];
    }
  }
  if (table->is_table) touch_rows(*table, ids, skipped);
}

at::Tensor value_of(const Parameter* table) {
  return table == nullptr ? at::Tensor() : table->value;
}

}  // namespace

Var embed(Tape* tape, const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
          const at::Tensor& types, const Layout& layout, const Dropout& dropout, at::ScalarType compute_type) {
  const at::Tensor sum = reference::embed(module.words->value, ids, value_of(module.positions), positions,
                                          value_of(module.types), types, compute_type);
  bool trained = false;
  for (const Parameter* table : {module.words, module.positions, module.types}) {
    trained |= tape != nullptr && table != nullptr && table->trained;
  }
  const Var input = trained ? tape->track(sum) : Var(sum);
  if (trained) {
    tape->record([slot = input.slot, &module, ids, positions, types] {
      if (!slot->grad.defined()) return;
      add_rows(module.words, ids, slot->grad, module.padding_id);
      add_rows(module.types, types, slot->grad, -1);
      add_rows(module.positions, positions, slot->grad, module.padding_position);
    });
  }
  if (module.norm.weight != nullptr) return norm_dropout(tape, input, module.norm, layout, dropout);
  return worker::dropout(tape, input, layout, dropout);
}

}  // namespace finesweep::worker
