// The vectorised quantisation against plain tensor operations, over odd sizes.

#include <ATen/Parallel.h>
#include <c10/util/StringUtil.h>
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <map>

#include "tests/kernels/support.h"
#include "worker/quantization/int8.h"
#include "worker/quantization/nf4.h"
#include "worker/quantization/nf4_bitsandbytes.h"
#include "worker/quantization/nf4_product.h"
#include "worker/quantization/nf4_reference.h"
#include "worker/quantization/rounding.h"

namespace finesweep::worker {
namespace {

using ::testing::HasSubstr;

constexpr at::ScalarType kFloats[] = {at::kFloat, at::kBFloat16, at::kHalf};

struct Shape {
  std::int64_t out, in;
};
/// One value; less than a block; blocks that fill rows, that span them, that begin in the middle of a byte.
const std::vector<Shape> kShapes = {{1, 1},  {1, 2},   {3, 5},   {1, 63},   {2, 64},
                                    {7, 65}, {33, 47}, {5, 129}, {64, 200}, {131, 77}};
const std::vector<std::int64_t> kBlockSizes = {1, 3, 16, 64, 100, 256, 4096};

/// Values of very different sizes, with rows and stretches of zeros.
at::Tensor matrix(Shape shape, int salt = 1) {
  at::Tensor w = numbers({shape.out, shape.in}, salt);
  w.mul_(at::pow(10.0, numbers({shape.out, 1}, salt + 7)));
  if (shape.out > 2) w.select(0, 1).zero_();
  if (w.numel() > 200) w.view({-1}).narrow(0, 64, 130).zero_();
  return w;
}

/// Equal, bit for bit, but for the payload of NaNs.
void expect_same_bits(const at::Tensor& mine, const at::Tensor& expected) {
  ASSERT_EQ(mine.sizes(), expected.sizes());
  ASSERT_EQ(mine.scalar_type(), expected.scalar_type());
  if (mine.is_floating_point()) {
    EXPECT_TRUE(at::equal(at::isnan(mine), at::isnan(expected)));
    EXPECT_TRUE(at::equal(at::nan_to_num(mine), at::nan_to_num(expected)));
  } else {
    EXPECT_TRUE(at::equal(mine, expected));
  }
}

void expect_same(const Nf4Tensor& mine, const Nf4Tensor& expected) {
  EXPECT_EQ(mine.shape, expected.shape);
  EXPECT_EQ(mine.dtype, expected.dtype);
  EXPECT_EQ(mine.block_size, expected.block_size);
  expect_same_bits(mine.packed, expected.packed);
  ASSERT_EQ(mine.nested.has_value(), expected.nested.has_value());
  if (!mine.nested) return expect_same_bits(mine.absmax, expected.absmax);
  expect_same_bits(mine.nested->codes, expected.nested->codes);
  expect_same_bits(mine.nested->absmax, expected.nested->absmax);
  EXPECT_EQ(mine.nested->offset, expected.nested->offset);
}

TEST(Nf4, quantising_gives_the_bytes_of_the_reference) {
  for (const Shape shape : kShapes) {
    for (const std::int64_t block_size : kBlockSizes) {
      for (const at::ScalarType type : kFloats) {
        for (const bool nested : {false, true}) {
          SCOPED_TRACE(
              c10::str(shape.out, "x", shape.in, " in blocks of ", block_size, " ", type, nested ? " nested" : ""));
          const at::Tensor w = matrix(shape).to(type);
          const Nf4Options options{block_size, nested};
          expect_same(quantize_nf4(w, options), reference::quantize_nf4(w, options));
        }
      }
    }
  }
}

TEST(Nf4, dequantising_gives_the_bits_of_the_reference) {
  for (const Shape shape : kShapes) {
    for (const std::int64_t block_size : kBlockSizes) {
      for (const bool nested : {false, true}) {
        const Nf4Tensor tensor = quantize_nf4(matrix(shape), {block_size, nested});
        expect_same_bits(block_scales(tensor), reference::block_scales(tensor));
        for (const at::ScalarType type : kFloats) {
          SCOPED_TRACE(
              c10::str(shape.out, "x", shape.in, " in blocks of ", block_size, " ", type, nested ? " nested" : ""));
          expect_same_bits(dequantize(tensor, type), reference::dequantize(tensor, type));
        }
      }
    }
  }
}

TEST(Nf4, one_thread_and_two_give_the_same_bytes) {
  const at::Tensor w = matrix({517, 301});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Nf4Tensor one = quantize_nf4(w, {15, true});
  const at::Tensor one_back = dequantize(one);
  at::set_num_threads(2);
  const Nf4Tensor two = quantize_nf4(w, {15, true});
  expect_same(two, one);
  expect_same_bits(dequantize(two), one_back);
  at::set_num_threads(threads);
}

TEST(Nf4, every_value_goes_to_a_nearest_level) {
  const at::Tensor w = matrix({33, 470});
  const Nf4Tensor tensor = quantize_nf4(w, {64, false});
  const at::Tensor scale = tensor.absmax.repeat_interleave(64).narrow(0, 0, w.numel());
  const at::Tensor levels = at::tensor(c10::ArrayRef<float>(nf4_levels(), 16), at::kFloat);
  const at::Tensor distances = (w.view({-1, 1}) - levels * scale.unsqueeze(1)).abs();
  const at::Tensor mine = (w - dequantize(tensor)).abs().view({-1});
  EXPECT_TRUE((mine <= distances.amin(1) + 1e-6 * scale).all().item<bool>());
}

TEST(Nf4, zeros_stay_zeros_and_a_matrix_without_values_is_possible) {
  for (const bool nested : {false, true}) {
    EXPECT_EQ(dequantize(quantize_nf4(at::zeros({3, 100}), {64, nested})).abs().max().item<float>(), 0);
    const Nf4Tensor empty = quantize_nf4(at::empty({0, 5}), {64, nested});
    EXPECT_EQ(empty.blocks(), 0);
    EXPECT_EQ(dequantize(empty).sizes(), at::IntArrayRef({0, 5}));
  }
  const Nf4Tensor zeros = quantize_nf4(at::zeros({2, 64}), {64, false});
  EXPECT_TRUE(zeros.packed.eq(0x77).all().item<bool>());
  EXPECT_EQ(zeros.absmax.abs().max().item<float>(), 0);
}

TEST(Nf4, a_block_with_nan_or_infinity_becomes_nan_and_no_other) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor w = numbers({5, 50}, 1);
    w[2][3] = value;    // in the block from 64 to 127
    w[4][49] = -value;  // in the short last block
    const at::Tensor back = dequantize(quantize_nf4(w, {64, false})).view({-1});
    EXPECT_TRUE(back.narrow(0, 64, 64).isnan().all().item<bool>());
    EXPECT_TRUE(back.narrow(0, 192, 58).isnan().all().item<bool>());
    EXPECT_FALSE(back.narrow(0, 0, 64).isnan().any().item<bool>());
    EXPECT_FALSE(back.narrow(0, 128, 64).isnan().any().item<bool>());
    expect_same(quantize_nf4(w, {64, false}), reference::quantize_nf4(w, {64, false}));
  }
}

TEST(Nf4, values_near_the_bounds_of_fp32_and_fp16_survive) {
  for (const float size : {1e-44f, 1e-39f, 1e-30f, 1e30f, 3e38f}) {
    const at::Tensor w = numbers({3, 70}, 3) * (size / 2);
    const at::Tensor back = dequantize(quantize_nf4(w, {64, false}));
    EXPECT_FALSE(back.isnan().any().item<bool>()) << size;
    expect_same_bits(back, reference::dequantize(reference::quantize_nf4(w, {64, false}), at::kFloat));
  }
  for (const float size : {1e-8f, 3e-8f, 1e-7f, 6e-5f, 60000.f, 65519.f, 65520.f, 1e6f}) {
    const Nf4Tensor tensor = quantize_nf4(numbers({3, 70}, 3) * size, {64, false});
    expect_same_bits(dequantize(tensor, at::kHalf), reference::dequantize(tensor, at::kHalf));
    expect_same_bits(dequantize(tensor, at::kBFloat16), reference::dequantize(tensor, at::kBFloat16));
  }
}

TEST(Nf4, bytes_count_what_is_kept) {
  const at::Tensor w = matrix({128, 320});  // 640 blocks, 3 nested
  EXPECT_EQ(quantize_nf4(w, {64, false}).bytes(), 128 * 320 / 2 + 640 * 4);
  EXPECT_EQ(quantize_nf4(w, {64, true}).bytes(), 128 * 320 / 2 + 640 + 3 * 4 + 4);
}

TEST(Nf4, products_with_quantised_weights_are_those_with_dequantised_ones) {
  const std::vector<Shape> shapes = {{1, 1}, {3, 5}, {33, 47}, {131, 77}, {64, 256}, {520, 1100}};
  for (const Shape shape : shapes) {
    for (const std::int64_t block_size : {std::int64_t{3}, std::int64_t{64}}) {
      const Nf4Tensor w = quantize_nf4(numbers({shape.out, shape.in}, 2), {block_size, block_size == 64});
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const at::Tensor whole = dequantize(w, type).to(at::kFloat);
        for (const std::int64_t tokens : {1, 2, 3, 4, 5, 8, 9, 33}) {
          SCOPED_TRACE(
              c10::str(tokens, " tokens, ", shape.out, "x", shape.in, " in blocks of ", block_size, " ", type));
          const at::Tensor x = numbers({tokens, shape.in}, 3).to(type),
                           dy = numbers({tokens, shape.out}, 4).to(type);
          const double most = type == at::kFloat ? 5e-6 : 1e-2;
          const at::Tensor y = product_with_nf4(x, w), dx = product_with_transposed_nf4(dy, w);
          EXPECT_EQ(y.scalar_type(), type);
          EXPECT_LE(relative_difference(y, at::mm(x.to(at::kFloat), whole.t())), most);
          EXPECT_LE(relative_difference(dx, at::mm(dy.to(at::kFloat), whole)), most);
        }
      }
    }
  }
}

TEST(Nf4, an_x_that_is_not_contiguous_is_multiplied_right) {
  const Nf4Tensor w = quantize_nf4(numbers({20, 130}, 2));
  const at::Tensor x = numbers({130, 6}, 3).t();
  EXPECT_LE(relative_difference(product_with_nf4(x, w), at::mm(x, dequantize(w).t())), 5e-6);
}

/// What is written is read back; `change` may spoil it.
Result<Nf4Tensor> read_back(const Nf4Tensor& tensor,
                            const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
  std::map<std::string, at::Tensor> file;
  for (const auto& [name, value] : nf4_to_bitsandbytes("w", tensor)) file[name] = value;
  change(file);
  return nf4_from_bitsandbytes("w", [&](std::string_view name) -> Result<at::Tensor> {
    const auto found = file.find(std::string(name));
    if (found == file.end()) return Error{"no tensor '" + std::string(name) + "'"};
    return found->second;
  });
}

at::Tensor text_tensor(const std::string& text) {
  const at::Tensor bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<std::uint8_t>());
  return bytes;
}

TEST(Nf4, what_is_written_for_bitsandbytes_is_read_back) {
  for (const Shape shape : kShapes) {
    for (const bool nested : {false, true}) {
      for (const at::ScalarType type : kFloats) {
        const Nf4Tensor tensor = quantize_nf4(matrix(shape).to(type), {48, nested});
        const auto back = read_back(tensor, [](auto&) {});
        ASSERT_TRUE(back.ok()) << back.error().message;
        expect_same(*back, tensor);
      }
    }
  }
}

TEST(Nf4, bytes_in_a_tensor_of_another_dtype_are_read) {
  const Nf4Tensor tensor = quantize_nf4(matrix({8, 64}));
  const auto back = read_back(tensor, [](auto& file) {
    file["w"] = file["w"].view({-1}).view(at::kBFloat16).view({-1, 1});
  });
  ASSERT_TRUE(back.ok()) << back.error().message;
  expect_same(*back, tensor);
}

TEST(Nf4, a_tensor_that_does_not_fit_its_state_is_refused) {
  const Nf4Tensor tensor = quantize_nf4(matrix({8, 100}));
  const auto refused = [&](const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
    const auto back = read_back(tensor, change);
    return back ? std::string("accepted") : back.error().message;
  };
  const std::string state = nf4_state_name("w");
  const auto with_state = [&](const std::string& json) {
    return refused([&](auto& file) { file[state] = text_tensor(json); });
  };
  EXPECT_THAT(refused([&](auto& file) { file.erase(state); }),
              HasSubstr("no tensor 'w.quant_state.bitsandbytes__nf4'"));
  EXPECT_THAT(refused([](auto& file) { file.erase("w.absmax"); }), HasSubstr("no tensor 'w.absmax'"));
  EXPECT_THAT(refused([](auto& file) { file["w"] = file["w"].narrow(0, 0, 399); }),
              HasSubstr("has 399 bytes instead of 400"));
  EXPECT_THAT(refused([](auto& file) { file["w.absmax"] = file["w.absmax"].narrow(0, 0, 12); }),
              HasSubstr("w.absmax has 12 elements instead of 13"));
  EXPECT_THAT(refused([](auto& file) { file["w.absmax"] = file["w.absmax"].to(at::kFloat); }),
              HasSubstr("another dtype"));
  EXPECT_THAT(refused([](auto& file) { file["w.nested_absmax"] = at::zeros({2}); }),
              HasSubstr("has 2 elements instead of 1"));
  EXPECT_THAT(refused([](auto& file) { file["w.quant_map"] = at::arange(16, at::kFloat); }),
              HasSubstr("levels of NF4"));
  EXPECT_THAT(with_state("{"), HasSubstr("no JSON object"));
  EXPECT_THAT(with_state(R"({"quant_type": "fp4"})"), HasSubstr("quant_type"));
  EXPECT_THAT(with_state(R"({"quant_type": "nf4", "blocksize": 0})"), HasSubstr("blocksize"));
  EXPECT_THAT(with_state(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float64"})"), HasSubstr("dtype"));
  EXPECT_THAT(
      with_state(
          R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2147483647, 2147483647, 9]})"),
      HasSubstr("possible shape"));
  EXPECT_THAT(with_state(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, -100]})"),
              HasSubstr("possible shape"));
  EXPECT_THAT(
      with_state(
          R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [8, 100], "nested_blocksize": 256, "nested_dtype": "float32"})"),
      HasSubstr("nested_offset"));
}

TEST(Nf4, the_state_is_spelled_as_python_spells_it) {
  const auto state_of = [](const at::Tensor& w, const Nf4Options& options) {
    const at::Tensor bytes = nf4_to_bitsandbytes("w", quantize_nf4(w, options)).back().second;
    return std::string(reinterpret_cast<const char*>(bytes.const_data_ptr<std::uint8_t>()),
                       static_cast<std::size_t>(bytes.numel()));
  };
  EXPECT_EQ(state_of(at::ones({2, 3}).to(at::kBFloat16), {32, false}),
            R"({"quant_type": "nf4", "blocksize": 32, "dtype": "bfloat16", "shape": [2, 3]})");
  const std::string nested =
      R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": )";
  EXPECT_EQ(state_of(at::full({4}, 2.0), {}), nested + "2.0}");
  EXPECT_EQ(state_of(at::full({4}, 0.1), {}), nested + "0.10000000149011612}");
  EXPECT_EQ(state_of(at::full({4}, 1e-5), {}), nested + "9.999999747378752e-06}");
  EXPECT_EQ(state_of(at::full({4}, 1e20), {}), nested + "1.0000000200408773e+20}");
  EXPECT_EQ(state_of(at::full({4}, 123456792.0), {}), nested + "123456792.0}");
  EXPECT_EQ(state_of(at::zeros({4}), {}), nested + "0.0}");
}

TEST(Int8, the_vectorised_code_gives_the_bits_of_the_reference) {
  for (const Shape shape : kShapes) {
    for (const at::ScalarType type : kFloats) {
      SCOPED_TRACE(c10::str(shape.out, "x", shape.in, " ", type));
      const at::Tensor w = matrix(shape).to(type);
      const Int8Tensor mine = quantize_int8(w), expected = reference::quantize_int8(w);
      EXPECT_EQ(mine.dtype, type);
      expect_same_bits(mine.codes, expected.codes);
      expect_same_bits(mine.scale, expected.scale);
      for (const at::ScalarType back : kFloats)
        expect_same_bits(dequantize(mine, back), reference::dequantize(expected, back));
    }
  }
}

TEST(Int8, rows_of_tiny_values_zeros_and_nan_are_kept_apart) {
  at::Tensor w = numbers({6, 37}, 5);
  w[0].mul_(1e-43);
  w[1].zero_();
  w[2][5] = std::numeric_limits<float>::quiet_NaN();
  w[3][5] = std::numeric_limits<float>::infinity();
  w[4].mul_(1e-33);
  const Int8Tensor tensor = quantize_int8(w);
  expect_same_bits(tensor.codes, reference::quantize_int8(w).codes);
  expect_same_bits(tensor.scale, reference::quantize_int8(w).scale);
  EXPECT_EQ(tensor.codes[0].abs().max().item<int>(), 127);
  EXPECT_EQ(tensor.codes[4].abs().max().item<int>(), 127);
  EXPECT_EQ(tensor.scale[1].item<float>(), 0);
  const at::Tensor back = dequantize(tensor);
  EXPECT_TRUE(back[2].isnan().all().item<bool>());
  EXPECT_TRUE(back[3].isnan().all().item<bool>());
  EXPECT_FALSE(back[5].isnan().any().item<bool>());
  EXPECT_EQ(tensor.bytes(), 6 * 37 + 6 * 4);
}

TEST(Int8, what_bitsandbytes_keeps_is_read_and_what_does_not_fit_is_refused) {
  const at::Tensor weight = at::tensor({127, -3, 0, 50}, at::kChar).view({2, 2}), scb = at::tensor({2.54f, 12.7f});
  const auto tensor = int8_from_bitsandbytes(weight, scb);
  ASSERT_TRUE(tensor.ok());
  EXPECT_TRUE(at::allclose(dequantize(*tensor), at::tensor({2.54f, -0.06f, 0.f, 5.f}).view({2, 2}), 1e-6, 1e-7));
  EXPECT_FALSE(int8_from_bitsandbytes(weight.to(at::kByte), scb).ok());
  EXPECT_FALSE(int8_from_bitsandbytes(weight, at::zeros({3})).ok());
}

TEST(Rounding, a_value_beyond_fp16_is_refused_and_others_are_rounded_to_even) {
  const at::Tensor w = at::tensor({1.0f, 1.00048828125f, 1.00146484375f, -65504.0f});
  const auto rounded = round_weight(w, at::kHalf);
  ASSERT_TRUE(rounded.ok());
  EXPECT_TRUE(rounded->to(at::kFloat).equal(at::tensor({1.0f, 1.0f, 1.001953125f, -65504.0f})));
  const auto refused = round_weight(at::tensor({1.0f, 70000.0f}), at::kHalf);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("70000"));
  EXPECT_TRUE(round_weight(at::tensor({1.0f, 70000.0f, INFINITY}), at::kBFloat16).ok());
}

}  // namespace
}  // namespace finesweep::worker
