#include "worker/formats/gguf.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/gguf_bytes.h"
#include "tests/engine/temporary_folder.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const fs::path kSamples = fs::path(FINESWEEP_SOURCE_DIR) / "tests" / "engine" / "gguf_samples";

class Gguf : public ::testing::Test {
 protected:
  Result<GgufFile> open(const std::string& bytes) { return GgufFile::open(folder_.write("a.gguf", bytes)); }
  Result<GgufFile> open(const GgufBytes& file) { return open(file.bytes()); }
  void expect_refused(const std::string& bytes, const std::string& reason) {
    const auto file = open(bytes);
    ASSERT_FALSE(file.ok()) << "accepted, but expected: " << reason;
    EXPECT_THAT(file.error().message, AllOf(HasSubstr("a.gguf"), HasSubstr(reason)));
  }
  void expect_refused(const GgufBytes& file, const std::string& reason) { expect_refused(file.bytes(), reason); }

  TemporaryFolder folder_;
};

TEST_F(Gguf, every_type_is_dequantised_to_the_bits_of_the_gguf_package) {
  const auto file = GgufFile::open(kSamples / "all_types.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto expected = SafetensorsFile::open(kSamples / "all_types.safetensors").value();
  EXPECT_EQ(file->names(), expected.names());
  for (const std::string& name : expected.names()) {
    EXPECT_EQ(file->find(name)->type->name, name);
    const at::Tensor answer = expected.tensor(name).value();
    const auto tensor = file->tensor(name);
    ASSERT_TRUE(tensor.ok()) << tensor.error().message;
    EXPECT_TRUE(tensor->equal(answer)) << name;
    const auto rounded = file->tensor(name, at::kBFloat16);
    ASSERT_TRUE(rounded.ok()) << rounded.error().message;
    EXPECT_TRUE(rounded->equal(answer.to(at::kBFloat16))) << name;
  }
}

TEST_F(Gguf, metadata_has_its_types) {
  const auto file = GgufFile::open(kSamples / "all_types.gguf").value();
  const auto integer = [&](const std::string& key) { return file.value<std::int64_t>("sample." + key).value(); };
  EXPECT_EQ(file.header().version, 3);
  EXPECT_EQ(integer("uint8"), 200);
  EXPECT_EQ(integer("int8"), -100);
  EXPECT_EQ(integer("uint16"), 60000);
  EXPECT_EQ(integer("int16"), -30000);
  EXPECT_EQ(integer("uint32"), 4'000'000'000);
  EXPECT_EQ(integer("int32"), -2'000'000'000);
  EXPECT_EQ(integer("uint64"), std::int64_t{1} << 62);
  EXPECT_EQ(integer("int64"), -(std::int64_t{1} << 62));
  EXPECT_EQ(file.value<double>("sample.float32").value(), 0.5);
  EXPECT_EQ(file.value<double>("sample.float64").value(), 0.1);
  EXPECT_EQ(file.value<double>("sample.int8").value(), -100);
  EXPECT_TRUE(file.value<bool>("sample.bool").value());
  EXPECT_EQ(file.value<std::string>("sample.string").value(), "naïve\n\u2028");
  EXPECT_THAT(file.value<std::vector<std::string>>("sample.strings").value(), ElementsAre("a", "", "ÄÖ"));
  EXPECT_THAT(file.value<std::vector<std::int64_t>>("sample.integers").value(), ElementsAre(1, -2, 3));
  EXPECT_THAT(file.value<std::vector<double>>("sample.floats").value(), ElementsAre(0.5, -1.25));
  EXPECT_TRUE(file.has_value("sample.bools"));

  EXPECT_FALSE(file.value_if_present<std::string>("sample.missing").value().has_value());
  EXPECT_THAT(file.value<std::string>("sample.missing").error().message,
              AllOf(HasSubstr("all_types.gguf"), HasSubstr("no 'sample.missing'")));
  EXPECT_THAT(file.value<std::string>("sample.bool").error().message,
              HasSubstr("has a truth value as 'sample.bool', and text is expected"));
  EXPECT_THAT(file.value_if_present<std::int64_t>("sample.float32").error().message,
              HasSubstr("an integer is expected"));
}

TEST_F(Gguf, version_2_an_empty_list_nested_lists_and_another_alignment_are_read) {
  GgufBytes file;
  file.version = 2;
  file.alignment = 128;
  file.integer("general.alignment", 128);
  file.value("empty", 9, GgufBytes::list<std::string>(8, {}));
  file.value("nested", 9,
             GgufBytes::number<std::uint32_t>(9) + GgufBytes::number<std::uint64_t>(2) +
                 GgufBytes::list<std::int32_t>(5, {1, 2}) + GgufBytes::list<std::string>(8, {"x"}));
  file.tensor("scalar", {}, GgufBytes::number(2.5f));
  file.tensor("b", {2, 1, 3}, std::string(24, '\0'));
  const auto opened = open(file);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_TRUE(opened->value<std::vector<std::string>>("empty").value().empty());
  const auto& nested = std::get<std::vector<GgufValue>>(opened->header().metadata.at("nested").value);
  EXPECT_THAT(std::get<std::vector<std::int64_t>>(nested.at(0).value), ElementsAre(1, 2));
  EXPECT_EQ(opened->tensor("scalar").value().item<float>(), 2.5f);
  EXPECT_EQ(opened->tensor("b").value().sizes(), at::IntArrayRef({2, 1, 3}));
}

TEST_F(Gguf, what_is_no_gguf_file_is_refused) {
  expect_refused("", "ends within its header");
  expect_refused("GG", "ends within its header");
  expect_refused("PK\x03\x04" + std::string(40, '\0'), "does not begin with GGUF");
  GgufBytes file;
  file.version = 1;
  expect_refused(file, "version 1");
  file.version = 4;
  expect_refused(file, "version 4");
  file.version = 0x03000000;
  expect_refused(file, "big-endian");
  EXPECT_THAT(GgufFile::open(folder_.path() / "none.gguf").error().message, HasSubstr("No such file"));
  EXPECT_THAT(GgufFile::open(folder_.path()).error().message, HasSubstr("not a regular file"));
}

TEST_F(Gguf, hostile_counts_and_lengths_are_refused_without_allocating_them) {
  GgufBytes file;
  file.value_count = 1ull << 60;
  expect_refused(file, "ends within its header");
  file = {};
  file.tensor_count = ~0ull;
  expect_refused(file, "ends within its header");
  for (const std::uint64_t length : {~0ull, 1ull << 62, 100ull}) {
    file = {};
    file.value("text", 8, GgufBytes::number(length));
    expect_refused(file, "metadata key 'text': it ends within its header");
    file = {};
    file.value("list", 9, GgufBytes::number<std::uint32_t>(8) + GgufBytes::number(length));
    expect_refused(file, "metadata key 'list': it");
  }
  file = {};
  file.value("list", 9, GgufBytes::number<std::uint32_t>(10) + GgufBytes::number(1ull << 61));
  expect_refused(file, "metadata key 'list': it claims 2305843009213693952 elements");
}

TEST_F(Gguf, a_broken_value_is_refused_by_its_key) {
  GgufBytes file;
  file.value("odd", 13, "");
  expect_refused(file, "metadata key 'odd': it is of type 13");
  file = {};
  file.value("odd", 9, GgufBytes::number<std::uint32_t>(77) + GgufBytes::number<std::uint64_t>(0));
  expect_refused(file, "metadata key 'odd': it is an array of type 77");
  file = {};
  file.value("truth", 7, "\x02");
  expect_refused(file, "metadata key 'truth': it is a truth value");
  file = {};
  file.value("large", 10, GgufBytes::number(~0ull));
  expect_refused(file, "metadata key 'large': it is beyond 63 bits");
  file = {};
  file.integer("twice", 1);
  file.string("twice", "b");
  expect_refused(file, "metadata key 'twice' is there twice");
  std::string deep = GgufBytes::list<std::int32_t>(5, {1});
  for (int i = 0; i < 10; ++i)
    deep = GgufBytes::number<std::uint32_t>(9) + GgufBytes::number<std::uint64_t>(1) + deep;
  file = {};
  file.value("deep", 9, deep);
  expect_refused(file, "metadata key 'deep': it is an array within too many others");
}

TEST_F(Gguf, a_tensor_that_does_not_fit_is_refused_by_its_name) {
  const auto entry = [](std::vector<std::int64_t> shape, std::uint32_t type, std::uint64_t offset) {
    GgufBytes file;
    file.tensor("good", {8}, std::string(32, '\0'));
    file.tensor_at("bad", std::move(shape), type, offset);
    return file;
  };
  expect_refused(entry({1, 1, 1, 1, 1}, 0, 0), "tensor 'bad': it has 5 dimensions");
  expect_refused(entry({4, 0}, 0, 0), "tensor 'bad': its size 0");
  expect_refused(entry({-1}, 0, 0), "tensor 'bad': its size 18446744073709551615");
  expect_refused(entry({1ll << 40, 1ll << 40}, 0, 0), "tensor 'bad': its shape overflows");
  expect_refused(entry({1ll << 58}, 28, 0), "tensor 'bad' lies beyond the end");
  expect_refused(entry({(1ll << 62)}, 28, 0), "tensor 'bad': its shape overflows");
  expect_refused(entry({8}, 4, 0), "tensor 'bad': it is of type 4");
  expect_refused(entry({2, 48}, 3, 0), "tensor 'bad': its rows of 48 do not fill blocks of 32, as Q4_1 needs");
  expect_refused(entry({8}, 0, 4), "tensor 'bad' starts at 4, no multiple of 32");
  expect_refused(entry({8}, 0, 32), "tensor 'bad' lies beyond the end");
  expect_refused(entry({8}, 0, ~0ull - 31), "tensor 'bad' lies beyond the end");
  expect_refused(entry({9}, 0, 0), "tensor 'bad' lies beyond the end");
  expect_refused(entry({1}, 0, 0), "overlaps tensor");
  GgufBytes file;
  file.tensor("twice", {8}, std::string(32, '\0'));
  file.tensor("twice", {8}, std::string(32, '\0'));
  expect_refused(file, "tensor 'twice' is there twice");
  for (const std::uint32_t alignment : {0u, 24u}) {
    file = {};
    file.integer("general.alignment", alignment);
    expect_refused(file, "'general.alignment' is not a power of two");
  }
  file = {};
  file.string("general.alignment", "32");
  expect_refused(file, "'general.alignment' is not a power of two");
}

TEST_F(Gguf, every_beginning_of_a_file_is_refused_or_read_whole) {
  GgufBytes file;
  file.string("name", "value");
  file.value("list", 9, GgufBytes::list<std::string>(8, {"one", "two"}));
  file.tensor("a", {2, 3}, std::string(24, '\1'));
  const std::string whole = file.bytes();
  ASSERT_TRUE(open(whole).ok());
  // Behind the last tensor there is padding alone.
  for (std::size_t length = 0; length < whole.size() - 8; ++length)
    EXPECT_FALSE(open(whole.substr(0, length)).ok()) << length;
}

TEST_F(Gguf, a_type_that_cannot_be_decoded_opens_and_fails_when_it_is_asked_for) {
  GgufBytes file;
  file.tensor("other", {32}, std::string(18, '\0'), 20);
  const auto opened = open(file);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_THAT(opened->tensor("other").error().message,
              AllOf(HasSubstr("a.gguf"), HasSubstr("'other'"), HasSubstr("type IQ4_NL is not supported")));
  EXPECT_THAT(opened->tensor("none").error().message, HasSubstr("no such tensor"));
}

TEST_F(Gguf, a_file_that_shrinks_gives_an_error) {
  GgufBytes file;
  file.tensor("a", {1000}, std::string(4000, '\1'));
  const auto opened = open(file);
  ASSERT_TRUE(opened.ok());
  fs::resize_file(opened->path(), 200);
  EXPECT_THAT(opened->tensor("a").error().message, HasSubstr("became shorter"));
}

TEST_F(Gguf, names_in_messages_are_printable_and_bounded) {
  GgufBytes file;
  file.value(std::string("k\n\x1b[31m") + std::string(1000, 'x'), 13, "");
  const auto opened = open(file);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().message.find('\x1b'), std::string::npos);
  EXPECT_LT(opened.error().message.size(), 500);
}

}  // namespace
}  // namespace finesweep::worker
