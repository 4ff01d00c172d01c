#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

#include "worker/kernels/cpu/embedding.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/norm_dropout.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"
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
  if (gpu::has_kernels(gradient)) {
    gpu::add_rows(gradient, ids, skipped, table->grad);
    return;  // the optimiser of a GPU does not ask which rows were touched
  }
  if (has_kernels(gradient)) {
    const at::Tensor from = gradient.contiguous();
    with_storage(from.scalar_type(), [&]<typename T>() {
      cpu::EmbeddingKernels<T>::add_rows(from.const_data_ptr<T>(), ids.const_data_ptr<std::int64_t>(), skipped,
                                         from.size(0), from.size(1), table->grad.mutable_data_ptr<float>());
    });
  } else {
    at::Tensor kept = gradient.to(at::kFloat);
    if (skipped >= 0) kept = kept * ids.ne(skipped).unsqueeze(1);
    table->grad.index_add_(0, ids, kept);
  }
  if (table->is_table) touch_rows(*table, ids, skipped);
}

at::Tensor value_of(const Parameter* table) {
  return table == nullptr ? at::Tensor() : table->value;
}

template <typename T>
cpu::TableRows<T> rows_of(const Parameter* table, const at::Tensor& ids) {
  if (table == nullptr) return {};
  return {table->value.const_data_ptr<T>(), ids.const_data_ptr<std::int64_t>()};
}

/// words[id] + types[type] + positions[position].
at::Tensor sum_of_rows(const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
                       const at::Tensor& types, at::ScalarType compute_type) {
  const at::Tensor& words = module.words->value;
  bool alike = (has_kernels(words) || gpu::has_kernels(words)) && words.scalar_type() == compute_type;
  for (const Parameter* table : {module.types, module.positions}) {
    alike &= table == nullptr || table->value.scalar_type() == compute_type;
  }
  if (!alike) {
    return reference::embed(words, ids, value_of(module.positions), positions, value_of(module.types), types,
                            compute_type);
  }
  if (gpu::has_kernels(words)) return gpu::sum_of_rows(module, ids, positions, types);
  const at::Tensor sum = at::empty({ids.size(0), words.size(1)}, words.options());
  with_storage(compute_type, [&]<typename T>() {
    cpu::EmbeddingKernels<T>::gather(rows_of<T>(module.words, ids), rows_of<T>(module.types, types),
                                     rows_of<T>(module.positions, positions), sum.mutable_data_ptr<T>(),
                                     sum.size(0), sum.size(1));
  });
  return sum;
}

}  // namespace

Var embed(Tape* tape, const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
          const at::Tensor& types, const Layout& layout, const Dropout& dropout, at::ScalarType compute_type) {
  const ProfileScope scope("embedding", OperatorGroup::embedding);
  at::Tensor sum = tape == nullptr ? gpu::decode_embed(module, ids, positions, compute_type) : at::Tensor();
  if (!sum.defined()) sum = sum_of_rows(module, ids, positions, types, compute_type);
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
    adds_to(tape, {module.words, module.types, module.positions});
  }
  if (module.norm.weight != nullptr) return norm_dropout(tape, input, module.norm, layout, dropout);
  return worker::dropout(tape, input, layout, dropout);
}

}  // namespace finesweep::worker
