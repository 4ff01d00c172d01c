#pragma once

#include <ATen/core/Tensor.h>

namespace finesweep::worker {

// Products of a GPU are several times faster where the rows of a matrix are a multiple of eight, and vocabularies
// are of any size. So large matrices there are made with up to seven rows of zeros behind their own.

/// Of this shape and, on a GPU, with such room behind it; the room is 0.
at::Tensor empty_with_spare_rows(at::IntArrayRef shape, const at::TensorOptions& options);
/// The same of another type or device: a copy, or x itself where nothing is to be done.
at::Tensor to_with_spare_rows(const at::Tensor& x, const at::TensorOptions& options);
/// The matrix together with its room; undefined where it was not made so.
at::Tensor with_spare_rows(const at::Tensor& x);

}  // namespace finesweep::worker
