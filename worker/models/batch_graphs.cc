#include "worker/models/batch_graphs.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "worker/data/batch.h"
#include "worker/kernels/gpu/graph.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

/// Captured work takes host memory, and a run that meets ever new shapes gains nothing by keeping them all.
constexpr std::size_t kMostShapes = 64;

std::int64_t round_up(std::int64_t n, std::int64_t granule) {
  return (n + granule - 1) / granule * granule;
}

/// Up to the next of `parts` steps between two powers of two, at least of `least`.
std::int64_t bucket(std::int64_t n, std::int64_t parts, std::int64_t least) {
  const auto power =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1))));
  return round_up(std::max<std::int64_t>(n, 1), std::max(least, power / parts));
}

/// The shape that a layout is brought to.
struct LayoutShape {
  std::int64_t rows = 0, size = 0, longest = 0;
  bool even = false;

  explicit LayoutShape(const TokenLayout& layout) : rows(layout.rows) {
    even = layout.tokens() == layout.rows * layout.longest && layout.longest % 32 == 0;
    size = even ? layout.tokens() : bucket(layout.tokens(), 8, 16);
    longest = even ? layout.longest : bucket(std::max(layout.longest, size - layout.tokens()), 2, 32);
  }
  void append_to(std::vector<std::int64_t>& key) const {
    key.insert(key.end(), {rows, size, longest, even ? 1 : 0});
  }
};

/// Where an array of int64 stands.
struct Place {
  std::size_t begin = 0;
  std::int64_t count = 0;
};

/// Plain data in one run of pinned memory, and where each part of it lies.
class Package {
 public:
  template <typename T>
  std::size_t add(const T* values, std::size_t count) {
    const std::size_t begin = bytes_.size();
    bytes_.resize(begin + (count * sizeof(T) + 15) / 16 * 16);
    std::memcpy(bytes_.data() + begin, values, count * sizeof(T));
    return begin;
  }
  /// Int64 numbers, `size` of them, filled up with `filler`.
  std::size_t add(const at::Tensor& numbers, std::int64_t size, std::int64_t filler) {
    const at::Tensor source = numbers.to(at::kLong).contiguous();
    std::vector<std::int64_t> values(source.const_data_ptr<std::int64_t>(),
                                     source.const_data_ptr<std::int64_t>() + source.numel());
    values.resize(static_cast<std::size_t>(size), filler);
    return add(values.data(), values.size());
  }
  at::Tensor pinned() const {
    const at::Tensor copy =
        at::empty({static_cast<std::int64_t>(bytes_.size())}, at::TensorOptions(at::kByte).pinned_memory(true));
    std::memcpy(copy.mutable_data_ptr(), bytes_.data(), bytes_.size());
    return copy;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  std::vector<char> bytes_;
};

at::Tensor view_of(const at::Tensor& bytes, std::size_t begin, std::int64_t count, at::ScalarType type) {
  const auto size = static_cast<std::int64_t>(c10::elementSize(type));
  return bytes.narrow(0, static_cast<std::int64_t>(begin), count * size).view(type);
}

/// One side of a batch on its way to the device.
struct PackedTokens {
  LayoutShape shape;
  std::size_t layout = 0, ids = 0;
  std::int64_t layout_count = 0;
  std::optional<std::size_t> positions, types, places;
  std::optional<Place> streams;        // of a pack
  std::vector<std::int64_t> job_rows;  // of a pack

  PackedTokens(const BatchInputs::Tokens& tokens, Package& package) : shape(*tokens.layout) {
    const std::vector<std::int32_t> numbers = device_layout_numbers(*tokens.layout, shape.size);
    layout = package.add(numbers.data(), numbers.size());
    layout_count = static_cast<std::int64_t>(numbers.size());
    if (tokens.layout->is_pack()) {
      const std::vector<std::int64_t> of_rows = device_streams(*tokens.layout);
      streams = {package.add(of_rows.data(), of_rows.size()), static_cast<std::int64_t>(of_rows.size())};
      job_rows = tokens.layout->job_rows;
    }
    ids = package.add(tokens.ids, shape.size, 0);
    if (tokens.positions.defined()) positions = package.add(tokens.positions, shape.size, 0);
    if (tokens.types.defined()) types = package.add(tokens.types, shape.size, 0);
    if (tokens.places.defined()) places = package.add(tokens.places, shape.size, tokens.spare_place);
  }
  void append_to(std::vector<std::int64_t>& key) const {
    shape.append_to(key);
    key.push_back((positions ? 1 : 0) + (types ? 2 : 0) + (places ? 4 : 0));
    key.insert(key.end(), job_rows.begin(), job_rows.end());
  }
  /// The same as the device reads it. A layout of its own for each pass: what one pass derives from it is not
  /// another's.
  BatchInputs::Tokens on_device(const TokenLayout& host, const at::Tensor& bytes) const {
    BatchInputs::Tokens tokens;
    const auto copy = std::make_shared<TokenLayout>(host);
    DeviceLayout device = device_layout_of(
        view_of(bytes, layout, layout_count, at::kInt),
        streams ? view_of(bytes, streams->begin, streams->count, at::kLong) : at::Tensor(), shape.rows, shape.size);
    device.longest = shape.longest;
    device.even = shape.even;
    copy->use(std::make_shared<const DeviceLayout>(std::move(device)));
    tokens.layout = copy;
    tokens.ids = view_of(bytes, ids, shape.size, at::kLong);
    if (positions) tokens.positions = view_of(bytes, *positions, shape.size, at::kLong);
    if (types) tokens.types = view_of(bytes, *types, shape.size, at::kLong);
    if (places) tokens.places = view_of(bytes, *places, shape.size, at::kLong);
    return tokens;
  }
};

/// A batch's inputs in one run of memory.
struct Packed {
  Package package;
  std::vector<std::int64_t> key;

  explicit Packed(const BatchInputs& inputs) : host_(inputs), tokens_(inputs.tokens, package) {
    tokens_.append_to(key);
    if (inputs.source.layout) {
      source_.emplace(inputs.source, package);
      source_->append_to(key);
    }
    add_labels(inputs);
    key.push_back(count_);
    key.push_back((index_ ? 1 : 0) + (has_labels_ ? 2 : 0));
    key.push_back(static_cast<std::int64_t>(labels_type_));
    if (inputs.teacher.defined()) key.push_back(inputs.teacher.size(1));
  }

  /// How many rows or tokens have a label.
  std::int64_t labelled() const { return count_; }

  BatchInputs on_device(const at::Tensor& bytes, const at::Tensor& teacher) const {
    BatchInputs inputs;
    inputs.of_tokens = host_.of_tokens;
    inputs.tokens = tokens_.on_device(*host_.tokens.layout, bytes);
    if (source_) inputs.source = source_->on_device(*host_.source.layout, bytes);
    if (has_labels_) inputs.labels = view_of(bytes, labels_, count_, labels_type_);
    if (index_) inputs.counted = view_of(bytes, *index_, count_, at::kLong);
    inputs.teacher = teacher;
    return inputs;
  }

 private:
  void add_labels(const BatchInputs& inputs) {
    if (!inputs.labels.defined()) return;
    has_labels_ = true;
    if (!inputs.of_tokens) {
      const at::Tensor labels = inputs.labels.contiguous();
      labels_type_ = labels.scalar_type();
      count_ = labels.numel();
      labels_ = package.add(static_cast<const char*>(labels.const_data_ptr()), labels.nbytes());
      return;
    }
    const at::Tensor labels = inputs.labels.contiguous();
    const std::int64_t* label = labels.const_data_ptr<std::int64_t>();
    std::vector<std::int64_t> index, chosen;
    for (std::int64_t t = 0; t < labels.numel(); ++t) {
      if (label[t] == ignored_label) continue;
      index.push_back(t);
      chosen.push_back(label[t]);
    }
    const std::int64_t size = tokens_.shape.size;
    const std::int64_t counted = bucket(static_cast<std::int64_t>(index.size()), 4, 16);
    if (4 * counted >= 3 * size && !inputs.indexed) {
      count_ = size;
      labels_ = package.add(labels, size, ignored_label);
      return;
    }
    count_ = counted;
    index.resize(static_cast<std::size_t>(counted), -1);
    chosen.resize(static_cast<std::size_t>(counted), ignored_label);
    labels_ = package.add(chosen.data(), chosen.size());
    index_ = package.add(index.data(), index.size());
  }

  const BatchInputs& host_;
  PackedTokens tokens_;
  std::optional<PackedTokens> source_;
  std::size_t labels_ = 0;
  std::optional<std::size_t> index_;
  std::int64_t count_ = 0;
  at::ScalarType labels_type_ = at::kLong;
  bool has_labels_ = false;
};

}  // namespace

namespace {

/// What this process knows of works of one kind. One job at a time runs in it, on one thread.
struct KnownKind {
  /// How often the products of these sizes and this shape have been announced (RepeatedProducts).
  std::map<std::pair<std::string, std::vector<std::int64_t>>, std::int64_t> announced;
};

/// Null: of no kind.
KnownKind* known_kind(const BatchGraphs::Kind& kind) {
  static std::map<std::string, KnownKind> known;
  return kind.of.empty() ? nullptr : &known[std::string(kind.name) + " " + kind.of];
}

/// The first work of a shape may be captured: nothing needs to run before.
bool captures_first(KnownKind* known, const std::string& sizes, const std::vector<std::int64_t>& shape) {
  constexpr std::int64_t often = gpu::RepeatedProducts::kWorthTrying;
  if (known == nullptr || known->announced.empty()) return false;
  std::int64_t& announced = known->announced[{sizes, shape}];
  if (announced >= often) return true;
  const std::int64_t now = gpu::RepeatedProducts::current();
  if (now == 0 || announced + now >= often) return false;
  announced += now;
  return true;
}

}  // namespace

struct BatchGraphs::Shape {
  std::vector<std::int64_t> key;
  at::Tensor bytes, teacher;  // on the device: what the work reads
  at::Tensor result;          // what it left
  std::optional<CapturedGraph> graph;
  int runs = 0;  // as it is
  bool refused = false;
};

BatchGraphs::BatchGraphs(c10::Device device, Kind kind, int captured_from)
    : device_(device), kind_(std::move(kind)), captured_from_(captured_from) {}
BatchGraphs::~BatchGraphs() = default;

BatchGraphs::Shape& BatchGraphs::shape_of(const std::vector<std::int64_t>& key) {
  const auto found = std::find_if(shapes_.begin(), shapes_.end(), [&](const Shape& s) { return s.key == key; });
  if (found != shapes_.end()) {
    shapes_.splice(shapes_.begin(), shapes_, found);
  } else {
    if (shapes_.size() == kMostShapes) shapes_.pop_back();
    shapes_.emplace_front().key = key;
  }
  return shapes_.front();
}

at::Tensor BatchGraphs::run(const BatchInputs& inputs, const Work& work) {
  const Packed packed(inputs);
  Shape& shape = shape_of(packed.key);
  if (!shape.bytes.defined()) {
    shape.bytes = at::empty({packed.package.size()}, at::TensorOptions(at::kByte).device(device_));
  }
  shape.bytes.copy_(packed.package.pinned(), /*non_blocking=*/true);
  if (const at::Tensor& teacher = inputs.teacher; teacher.defined()) {
    if (!shape.teacher.defined())
      shape.teacher = at::zeros({packed.labelled(), teacher.size(1)}, teacher.options());
    shape.teacher.narrow(0, 0, teacher.size(0)).copy_(teacher);
  }
  // A captured result stands where every replay writes it.
  const auto compute = [&] { shape.result = work(packed.on_device(shape.bytes, shape.teacher)); };

  // A profile sees the operations of a pass, not those of a replay.
  const bool may_capture = CapturedGraph::available() && ScopeListener::of_thread() == nullptr && !shape.refused;
  if (!may_capture) {
    compute();
  } else if (shape.graph) {
    shape.graph->replay();
  } else {
    const bool is_due = ++shape.runs >= captured_from_;
    KnownKind* known = captured_from_ == 2 ? known_kind(kind_) : nullptr;
    Result<CapturedGraph> captured = is_due || captures_first(known, kind_.sizes, packed.key)
                                         ? CapturedGraph::capture(device_, compute)
                                         : Result<CapturedGraph>(Error{});
    if (captured) {
      shape.graph = std::move(*captured);
      shape.graph->replay();
    } else if (!is_due) {
      std::int64_t times = gpu::RepeatedProducts::current();
      if (known != nullptr) {
        std::int64_t& announced = known->announced[{kind_.sizes, packed.key}];
        times = announced += times == 0 ? gpu::RepeatedProducts::kWorthTrying : times;
      }
      const gpu::RepeatedProducts repeats(times);
      CapturedGraph::warm_up(device_, compute);
    } else {
      if (!refused_) {
        std::fprintf(stderr, "%s cannot be captured and runs more slowly: %s\n", kind_.name,
                     captured.error().message.c_str());
      }
      refused_ = shape.refused = true;
      compute();
    }
  }
  return shape.result;
}

std::int64_t BatchGraphs::captured() const {
  return std::count_if(shapes_.begin(), shapes_.end(), [](const Shape& shape) { return shape.graph.has_value(); });
}

}  // namespace finesweep::worker
