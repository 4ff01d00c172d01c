// NF4 and INT8 against bitsandbytes' bytes, and files of whole models as bitsandbytes serialises them.

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "tests/parity/fixtures.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/weight_files.h"
#include "worker/quantization/int8.h"
#include "worker/quantization/nf4.h"
#include "worker/quantization/nf4_bitsandbytes.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using namespace finesweep::worker;

class File {
 public:
  explicit File(const fs::path& path) : file_(SafetensorsFile::open(path).value()) {}
  at::Tensor operator()(const std::string& name) const { return file_.tensor(name).value(); }
  bool contains(const std::string& name) const { return file_.contains(name); }
  const SafetensorsFile& file() const { return file_; }

 private:
  SafetensorsFile file_;
};

void expect_same(const at::Tensor& mine, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(mine.scalar_type(), expected.scalar_type()) << what;
  ASSERT_EQ(mine.numel(), expected.numel()) << what;
  EXPECT_TRUE(at::equal(mine.view({-1}), expected.reshape({-1}))) << what;
}

TEST(Nf4Parity, matrices_become_the_bytes_of_bitsandbytes_and_back) {
  const auto index = read_json(fixtures() / "nf4" / "index.json");
  const File file(fixtures() / "nf4" / "matrices.safetensors");
  expect_same(at::tensor(c10::ArrayRef<float>(nf4_levels(), 16), at::kFloat), file("nf4_code"), "levels");
  expect_same(dynamic_map(), file("dynamic_map"), "dynamic map");
  ASSERT_FALSE(index.at("matrices").empty());
  for (const auto& matrix : index.at("matrices")) {
    const auto name = matrix.at("name").get<std::string>();
    SCOPED_TRACE(name);
    const at::Tensor w = file(name + ".w");
    const auto block_size = index.at("blocksize").get<std::int64_t>();
    const Nf4Tensor plain = quantize_nf4(w, {block_size, false});
    EXPECT_EQ(plain.shape, matrix.at("shape").get<std::vector<std::int64_t>>());
    expect_same(plain.packed, file(name + ".packed"), "packed");
    expect_same(plain.absmax, file(name + ".absmax"), "absmax");
    expect_same(dequantize(plain), file(name + ".deq_f32"), "dequantised");
    expect_same(dequantize(plain, at::kBFloat16), file(name + ".deq_bf16"), "dequantised to bf16");

    const Nf4Tensor nested = quantize_nf4(w, {block_size, true});
    ASSERT_TRUE(nested.nested);
    expect_same(nested.packed, file(name + ".packed"), "packed, nested");
    if (matrix.at("nested_codes_defined").get<bool>()) {
      expect_same(nested.nested->codes, file(name + ".dq.absmax_u8"), "codes of absmax");
    }
    expect_same(nested.nested->absmax, file(name + ".dq.nested_absmax"), "nested absmax");
    EXPECT_EQ(nested.nested->offset, file(name + ".dq.offset").item<float>());
    expect_same(block_scales(nested), file(name + ".dq.absmax_f32"), "absmax, un-nested");
    expect_same(dequantize(nested), file(name + ".dq.deq_f32"), "dequantised, nested");
    expect_same(dequantize(nested, at::kBFloat16), file(name + ".dq.deq_bf16"), "dequantised to bf16, nested");
  }
}

TEST(Nf4Parity, whole_models_become_the_files_of_bitsandbytes) {
  int models = 0;
  for (const fs::path& folder : folders_in(fixtures() / "qlora")) {
    SCOPED_TRACE(folder.string());
    const auto expected = read_json(folder / "expected.json");
    const File base(folder / "base_nf4.safetensors");
    const File answers(folder / "expected.safetensors");
    const auto weights = WeightFiles::open(fixtures() / expected.at("base_model").get<std::string>()).value();
    const auto read = [&](std::string_view name) { return base.file().tensor(name); };

    std::vector<std::pair<std::string, at::Tensor>> written;
    int compared = 0;
    // GPT-2's Conv1D weights are [in, out], and are quantised as [out, in].
    const auto config = read_json(fixtures() / expected.at("base_model").get<std::string>() / "config.json");
    const bool transposed = config.at("model_type") == "gpt2";
    for (const auto& quantised : expected.at("quantised_modules")) {
      const auto module = quantised.get<std::string>();
      SCOPED_TRACE(module);
      const std::string name = module + ".weight";
      const auto stored = nf4_from_bitsandbytes(name, read);
      ASSERT_TRUE(stored.ok()) << stored.error().message;
      const at::Tensor w = weights.tensor(name).value();
      const Nf4Tensor mine = quantize_nf4(transposed ? w.t() : w, {stored->block_size, stored->nested.has_value()});
      EXPECT_EQ(mine.shape, stored->shape);
      for (auto& tensor : nf4_to_bitsandbytes(name, mine)) written.push_back(std::move(tensor));
      if (answers.contains("deq." + module)) {
        expect_same(dequantize(*stored), answers("deq." + module), "dequantised weight");
        ++compared;
      }
    }
    EXPECT_GT(compared, 0) << "no dequantised weight in " << folder;
    const fs::path copy =
        fs::temp_directory_path() / ("finesweep_nf4_" + std::to_string(::getpid()) + ".safetensors");
    ASSERT_TRUE(write_safetensors(copy, written, base.file().metadata()).ok());
    EXPECT_TRUE(read_text(copy) == read_text(folder / "base_nf4.safetensors")) << "the files differ";
    fs::remove(copy);
    ++models;
  }
  EXPECT_GT(models, 0);
}

TEST(Int8Parity, rows_become_the_reference_s_bytes_and_back) {
  const auto index = read_json(fixtures() / "int8" / "index.json");
  const File file(fixtures() / "int8" / "matrices.safetensors");
  ASSERT_FALSE(index.at("matrices").empty());
  for (const auto& matrix : index.at("matrices")) {
    const auto name = matrix.at("name").get<std::string>();
    SCOPED_TRACE(name);
    const at::Tensor w = file(name + ".w");
    const Int8Tensor mine = quantize_int8(w);
    expect_same(mine.codes, file(name + ".q"), "q");
    expect_same(mine.scale, file(name + ".scale"), "scale");
    expect_same(dequantize(mine), file(name + ".deq"), "dequantised");

    const at::Tensor rows = file(name + ".bnb_rows");
    const at::Tensor rounded = w.index_select(0, rows).to(at::kHalf);
    const auto stored = int8_from_bitsandbytes(file(name + ".bnb_fp16_q"), file(name + ".bnb_fp16_absmax"));
    ASSERT_TRUE(stored.ok()) << stored.error().message;
    // bitsandbytes rounds 1 / max before it multiplies by 127: a value in the middle of two codes may go to the
    // other.
    const at::Tensor apart = (quantize_int8(rounded).codes.to(at::kInt) - stored->codes.to(at::kInt)).abs();
    EXPECT_LE(apart.max().item<int>(), 1);
    EXPECT_LE(apart.sum().item<std::int64_t>(), 1 + rounded.numel() / 1000);
    expect_same(quantize_int8(rounded).scale, stored->scale, "scale of bitsandbytes");
  }
}

}  // namespace
}  // namespace finesweep::parity
