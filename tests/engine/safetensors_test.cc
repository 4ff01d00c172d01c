#include "worker/formats/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "worker/formats/weight_files.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Safetensors : public ::testing::Test {
 protected:
  Safetensors() : folder_(fs::temp_directory_path() / ("finesweep_safetensors_" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
  }
  ~Safetensors() override { fs::remove_all(folder_); }

  fs::path write_raw(const std::string& header, const std::string& data, std::uint64_t claimed_bytes = UINT64_MAX) {
    const std::uint64_t bytes = claimed_bytes == UINT64_MAX ? header.size() : claimed_bytes;
    const fs::path path = folder_ / "raw.safetensors";
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&bytes), 8);
    file << header << data;
    return path;
  }

  void expect_refused(const std::string& header, const std::string& data, const std::string& reason) {
    auto file = SafetensorsFile::open(write_raw(header, data));
    ASSERT_FALSE(file.ok()) << header;
    EXPECT_THAT(file.error().message, HasSubstr(reason));
    EXPECT_THAT(file.error().message, HasSubstr("raw.safetensors"));
  }

  fs::path folder_;
};

TEST_F(Safetensors, what_is_written_is_read_back_with_every_dtype) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (auto type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong, at::kInt, at::kShort, at::kChar,
                    at::kByte, at::kBool}) {
    tensors.emplace_back(std::string("t.") + c10::toString(type), at::arange(6).reshape({2, 3}).to(type));
  }
  tensors.emplace_back("scalar", at::ones({}));
  tensors.emplace_back("empty", at::ones({0, 4}));
  tensors.emplace_back("transposed", at::arange(6.0).reshape({2, 3}).t());
  const auto path = folder_ / "all.safetensors";
  auto status = write_safetensors(path, tensors, {{"format", "pt"}});
  ASSERT_TRUE(status.ok()) << status.error().message;

  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    auto loaded = file->tensor(name);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_EQ(loaded->scalar_type(), tensor.scalar_type());
    EXPECT_TRUE(loaded->equal(tensor)) << name;
  }
}

TEST_F(Safetensors, a_file_of_the_reference_library_is_written_back_byte_for_byte) {
  const fs::path original = fs::path(FINESWEEP_SOURCE_DIR) / "tests/fixtures/models/bert/model.safetensors";
  auto file = SafetensorsFile::open(original);
  ASSERT_TRUE(file.ok()) << file.error().message;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& name : file->names()) tensors.emplace_back(name, file->tensor(name).value());
  ASSERT_TRUE(write_safetensors(folder_ / "copy.safetensors", tensors, file->metadata()).ok());
  const auto bytes = [](const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  EXPECT_TRUE(bytes(original) == bytes(folder_ / "copy.safetensors"));
}

TEST_F(Safetensors, a_hostile_header_is_refused_with_a_reason) {
  expect_refused("[]", "", "not a JSON object");
  expect_refused("{\"a\":", "", "not a JSON object");
  expect_refused("\xff\xfe", "", "not a JSON object");
  expect_refused(R"({"a":1})", "", "tensor 'a' is not described by an object");
  expect_refused(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", "1234", "tensor 'a' has no dtype");
  expect_refused(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", "1234", "tensor 'a' has no shape");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", "1234",
                 "tensor 'a' has no data_offsets");
  expect_refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "1234", "not a natural number");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", "1234", "not a natural number");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", "1234",
                 "overflows");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", "", "bytes, but");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234", "tensor 'a' has 4 bytes");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "1234", "run backwards");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "12", "beyond the end");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "12345678", "hole before tensor 'a'");
  expect_refused(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
      "123456", "tensor 'b' overlaps");
  expect_refused(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
      "1", "names 'a' twice");
  expect_refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "123", "belong to no tensor");
  expect_refused(R"({"__metadata__":{"a":1}})", "", "__metadata__");
  expect_refused(R"({"a":{"dtype":"U8","shape":[[[[[1]]]]],"data_offsets":[0,1]}})", "1", "nested too deeply");
  expect_refused(std::string(100'000, '['), "", "header");
}

TEST_F(Safetensors, a_header_length_beyond_the_file_or_the_bound_is_refused_without_allocating_it) {
  EXPECT_THAT(SafetensorsFile::open(write_raw("{}", "", 1ull << 62)).error().message, HasSubstr("at most 100 MB"));
  EXPECT_THAT(SafetensorsFile::open(write_raw("{}", "", 90'000'000)).error().message,
              HasSubstr("downloaded whole"));
  std::ofstream(folder_ / "short.safetensors") << "abc";
  EXPECT_THAT(SafetensorsFile::open(folder_ / "short.safetensors").error().message, HasSubstr("only 3 bytes"));
  EXPECT_THAT(SafetensorsFile::open(folder_ / "none.safetensors").error().message, HasSubstr("No such file"));
}

TEST_F(Safetensors, a_file_cut_at_any_byte_is_refused) {
  ASSERT_TRUE(write_safetensors(folder_ / "whole.safetensors", {{"a", at::ones({3})}, {"b", at::ones({2})}}).ok());
  const auto size = fs::file_size(folder_ / "whole.safetensors");
  for (std::uintmax_t length = 0; length < size; ++length) {
    fs::copy_file(folder_ / "whole.safetensors", folder_ / "cut.safetensors", fs::copy_options::overwrite_existing);
    fs::resize_file(folder_ / "cut.safetensors", length);
    EXPECT_FALSE(SafetensorsFile::open(folder_ / "cut.safetensors").ok()) << length;
  }
}

TEST_F(Safetensors, an_unknown_dtype_fails_only_when_it_is_asked_for) {
  auto file =
      SafetensorsFile::open(write_raw(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", "1234"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_THAT(file->tensor("a").error().message, HasSubstr("dtype F8_E4M3 is not supported"));
  EXPECT_THAT(file->tensor("b").error().message, HasSubstr("no such tensor"));
}

TEST_F(Safetensors, shards_are_presented_as_one_map) {
  auto weights = WeightFiles::open(fs::path(FINESWEEP_SOURCE_DIR) / "tests/fixtures/models/llama_sharded_bf16");
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  EXPECT_EQ(weights->files().size(), 3u);
  std::size_t in_shards = 0;
  for (const auto& file : weights->files()) in_shards += file.names().size();
  EXPECT_EQ(weights->names().size(), in_shards);
  for (const auto& name : weights->names()) EXPECT_EQ(weights->tensor(name)->scalar_type(), at::kBFloat16);
}

TEST_F(Safetensors, pickles_and_shards_outside_the_folder_are_refused) {
  std::ofstream(folder_ / "pytorch_model.bin") << "x";
  EXPECT_THAT(WeightFiles::open(folder_).error().message, HasSubstr("runs the code in it"));
  std::ofstream(folder_ / "model.safetensors.index.json") << R"({"weight_map":{"a":"../other.safetensors"}})";
  EXPECT_THAT(WeightFiles::open(folder_).error().message, HasSubstr("outside its folder"));
  EXPECT_THAT(WeightFiles::open(folder_ / "none").error().message, HasSubstr("not a directory"));
}

}  // namespace
}  // namespace finesweep::worker
