#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "jobs/result.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// Which of `teacher` layers a student of `student` layers takes: evenly spaced from the first to the last, layer i
/// being round(i · (teacher - 1) / (student - 1)), half up; one layer: the first. Of 12 a student of 6 takes 0, 2,
/// 4, 7, 9 and 11, as DistilBERT's initialisation does (https://arxiv.org/abs/1910.01108).
std::vector<std::int64_t> layers_of_student(std::int64_t teacher, std::int64_t student);

/// The model with so many of its layers (of an encoder-decoder, in each stack); embeddings, final norms and heads
/// are the teacher's. Weights share memory with the teacher's. The Error: it has fewer layers.
Result<std::shared_ptr<const Pretrained>> student_of_layers(const Pretrained& teacher, std::int64_t layers);

}  // namespace finesweep::worker
