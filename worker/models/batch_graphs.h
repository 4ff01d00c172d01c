#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "worker/models/batch_inputs.h"

namespace finesweep::worker {

/// Work over batches on a GPU, each shape captured once and replayed from then on.
///
/// A batch is brought to one of few shapes: its tokens are padded up to a multiple of a sixteenth to an eighth of
/// their number, with tokens of no row; where every row has the same length nothing is padded. Its numbers are
/// copied into memory that the captured work reads. In a pack the number of rows of each job is part of the shape.
/// The first work of a shape runs as it is, the second, or a later one, is captured. The first is captured too
/// where work of the kind has run in this process: libraries are there then, and to run as it is takes as long as a
/// capture, or much longer where another process has the device. Not where its products are now announced so often
/// that their kernels are to be chosen by their time (gpu/matmul.h). What cannot be captured runs as it is each
/// time, and stderr says so once.
class BatchGraphs {
 public:
  /// Of inputs on the device. What it returns, if anything, is its own: nothing else writes it.
  using Work = std::function<at::Tensor(const BatchInputs&)>;

  /// What the work is.
  struct Kind {
    const char* name;        // for messages: a literal
    std::string of = {};     // work of one name and this needs the same of libraries; empty: no other work does
    std::string sizes = {};  // of its products, beside the shapes of batches
  };
  /// The `captured_from`th work of a shape is captured; of 2, the first where it can be.
  BatchGraphs(c10::Device device, Kind kind, int captured_from = 2);
  ~BatchGraphs();
  BatchGraphs(const BatchGraphs&) = delete;
  BatchGraphs& operator=(const BatchGraphs&) = delete;

  /// `inputs` are on the CPU; `work` is always the same, and everything else that it reads stays where it is. The
  /// result is good until the next work, of any kind, that is captured or replayed.
  at::Tensor run(const BatchInputs& inputs, const Work& work);

  /// How many shapes are replayed.
  std::int64_t captured() const;

 private:
  struct Shape;
  Shape& shape_of(const std::vector<std::int64_t>& key);

  c10::Device device_;
  Kind kind_;
  int captured_from_;
  std::list<Shape> shapes_;  // the last used first
  bool refused_ = false;
};

}  // namespace finesweep::worker
