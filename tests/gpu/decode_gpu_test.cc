// The kernels for decoding beside their references, and what they generate beside what the CPU does. Skipped where
// libtorch sees no GPU.

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/gpu/gpu.h"
#include "tests/parity/fixtures.h"
#include "worker/generation/generate.h"
#include "worker/generation/token_choice.h"
#include "worker/kernels/cuda/module.h"
#include "worker/kernels/decode_attention.h"
#include "worker/kernels/gpu/decode.h"
#include "worker/kernels/reference.h"
#include "worker/models/pretrained.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

class DecodeOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
    at::manual_seed(20261126);
  }

  static at::Tensor random(std::vector<std::int64_t> shape, at::ScalarType type) {
    return at::randn(shape, at::TensorOptions(at::kFloat).device(at::kCUDA)).to(type);
  }
  static double bound(at::ScalarType type) { return type == at::kFloat ? 1e-5 : type == at::kHalf ? 3e-3 : 2e-2; }
  static void expect_near(const at::Tensor& mine, const at::Tensor& exact, at::ScalarType type) {
    ASSERT_TRUE(mine.defined());
    ASSERT_EQ(mine.sizes(), exact.sizes());
    const at::Tensor a = mine.to(at::kDouble), b = exact.to(at::kDouble);
    // One value may come out near zero from terms that are not: all are of the order of one.
    EXPECT_LE((a - b).norm().item<double>(), bound(type) * std::max(b.norm().item<double>(), 1.0));
  }
};

struct Module {
  Parameter weight, bias;
  LinearModule linear;

  Module(const at::Tensor& w, const at::Tensor& b) {
    weight.value = w;
    bias.value = b;
    linear.weight = &weight;
    if (b.defined()) linear.bias = &bias;
  }
};

struct Norm {
  Parameter weight, bias;
  NormModule module;

  Norm(const at::Tensor& w, const at::Tensor& b, NormKind kind) {
    weight.value = w;
    bias.value = b;
    module = {&weight, b.defined() ? &bias : nullptr, 1e-5, kind};
  }
};

TEST_F(DecodeOnGpu, products_of_few_tokens_are_those_of_the_reference) {
  struct Shape {
    std::int64_t in, out;
  };
  const Shape shapes[] = {{8, 1},      {32, 3},      {64, 2304},  {96, 50},     {576, 1536},  {768, 768},
                          {768, 2304}, {1000, 130},  {1536, 576}, {2048, 257},  {3072, 768},  {8192, 2048},
                          {104, 9},    {768, 50257}, {5632, 64},  {544, 20000}, {1600, 16390}};
  int computed = 0;
  for (const at::ScalarType type : kFloatTypes) {
    for (const Shape& shape : shapes) {
      const bool large = shape.in * shape.out > 4000000;
      for (const std::int64_t tokens : {1, 2, 3, 5, 8, 9, 16, 17, 33, 64}) {
        if (large && tokens != 1 && tokens != 8 && tokens < (shape.out > 16384 ? 16 : 64)) continue;
        for (const int form : {0, 1, 2, 3, 4, 5}) {
          SCOPED_TRACE(testing::Message() << tokens << " of " << shape.in << " to " << shape.out << " "
                                          << toString(type) << " form " << form);
          const bool is_gated = form == 3;
          const std::int64_t rows = is_gated ? 2 * shape.out : shape.out;
          const at::Tensor x = random({tokens, shape.in}, type) + 0.5;
          const Module module(random({rows, shape.in}, type) / std::sqrt(static_cast<double>(shape.in)),
                              form >= 4 ? at::Tensor() : random({rows}, type));
          const Norm layer(random({shape.in}, at::kFloat), random({shape.in}, at::kFloat), NormKind::layer);
          const Norm squares(random({shape.in}, at::kFloat), at::Tensor(), NormKind::root_mean_square);
          gpu::DecodeLinear what;
          if (form == 1 || form == 2 || form == 5) what.norm = &layer.module;
          if (form == 3) what.norm = &squares.module;
          if (form == 0 || form == 4) what.residual = random({tokens, shape.out}, type);
          if (form == 1) what.activation = Activation::gelu_tanh;
          if (form == 3) what.activation = Activation::silu;
          what.gated = is_gated;
          what.to_float = form == 2 || form == 5;
          const at::Tensor y = gpu::decode_linear(x, module.linear, what);
          const bool must = tokens <= 8 && shape.in % 32 == 0 && (!is_gated || type != at::kFloat) &&
                            (type != at::kFloat || tokens * shape.in <= 40000);
          if (!y.defined()) {
            EXPECT_FALSE(must);
            continue;
          }
          ++computed;

          at::Tensor input = x;
          if (what.norm != nullptr) {
            const NormModule& norm = *what.norm;
            input = reference::norm(x, norm.weight->value, norm.bias == nullptr ? at::Tensor() : norm.bias->value,
                                    norm.kind, norm.epsilon, {});
          }
          at::Tensor exact = at::matmul(input.to(at::kDouble), module.weight.value.to(at::kDouble).t());
          if (module.linear.bias != nullptr) exact = exact + module.bias.value.to(at::kDouble);
          exact = is_gated ? reference::gated(exact, what.activation) : reference::activate(exact, what.activation);
          if (what.residual.defined()) exact = exact + what.residual.to(at::kDouble);
          EXPECT_EQ(y.scalar_type(), what.to_float ? at::kFloat : type);
          expect_near(y, exact, type);
        }
      }
    }
  }
  EXPECT_GT(computed, 500);
}

TEST_F(DecodeOnGpu, what_adapters_change_or_few_bits_hold_is_left_to_others) {
  const at::Tensor x = random({1, 64}, at::kFloat);
  Module module(random({8, 64}, at::kFloat), {});
  EXPECT_TRUE(gpu::decode_linear(x, module.linear, {}).defined());
  module.linear.branches.emplace_back();
  EXPECT_FALSE(gpu::decode_linear(x, module.linear, {}).defined());
  module.linear.branches.clear();
  module.linear.scales.emplace_back();
  EXPECT_FALSE(gpu::decode_linear(x, module.linear, {}).defined());
  module.linear.scales.clear();
  EXPECT_FALSE(gpu::decode_linear(x.to(at::kBFloat16), module.linear, {}).defined());
  EXPECT_FALSE(gpu::decode_linear(x.cpu(), module.linear, {}).defined());
}

TEST_F(DecodeOnGpu, norms_gates_and_embeddings_are_those_of_the_reference) {
  for (const at::ScalarType type : kFloatTypes) {
    for (const std::int64_t width : {8, 48, 576, 768, 2048, 4096}) {
      for (const std::int64_t tokens : {1, 3, 64, 500}) {
        SCOPED_TRACE(testing::Message() << tokens << " of " << width << " " << toString(type));
        const at::Tensor x = random({tokens, width}, type) + 1;
        for (const NormKind kind : {NormKind::layer, NormKind::root_mean_square}) {
          const Norm norm(random({width}, at::kFloat),
                          kind == NormKind::layer ? random({width}, at::kFloat) : at::Tensor(), kind);
          expect_near(gpu::decode_norm(x, norm.module),
                      reference::norm(x, norm.weight.value, norm.bias.value, kind, 1e-5, {}), type);
        }
        const at::Tensor z = random({tokens, 2 * width}, type);
        for (const Activation activation :
             {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu, Activation::tanh}) {
          expect_near(gpu::decode_gate(z, activation), reference::gated(z.to(at::kDouble), activation), type);
        }
        EmbeddingModule embedding;
        Parameter words, positions;
        words.value = random({37, width}, type);
        positions.value = random({11, width}, type);
        embedding.words = &words;
        embedding.positions = &positions;
        const at::TensorOptions ids = at::TensorOptions(at::kLong).device(at::kCUDA);
        const at::Tensor id = at::randint(37, {tokens}, ids), place = at::randint(11, {tokens}, ids);
        expect_near(gpu::decode_embed(embedding, id, place, type),
                    reference::embed(words.value, id, positions.value, place, {}, {}, type), type);
      }
    }
  }
}

TEST_F(DecodeOnGpu, attention_over_a_cache_is_the_reference_s_and_appends_the_same) {
  struct Form {
    std::int64_t heads, key_heads, size, window;
    bool turned;
  };
  const Form forms[] = {{12, 12, 64, 0, false}, {16, 16, 128, 5, false}, {9, 3, 64, 0, true},
                        {4, 1, 8, 0, true},     {2, 2, 24, 3, true},     {1, 1, 256, 0, false},
                        {8, 2, 128, 0, true},   {3, 3, 16, 256, false},  {5, 5, 40, 0, true}};
  for (const at::ScalarType type : kFloatTypes) {
    for (const Form& form : forms) {
      for (const std::int64_t rows : {1, 3, 33}) {
        for (const std::int64_t capacity : {1, 7, 192, 1500}) {
          if (type == at::kFloat && form.size > 128) continue;
          SCOPED_TRACE(testing::Message()
                       << rows << " rows of " << form.heads << "/" << form.key_heads << " x " << form.size
                       << " window " << form.window << " capacity " << capacity << " " << toString(type));
          AttentionOptions options;
          options.heads = form.heads;
          options.key_heads = form.key_heads;
          options.size = form.size;
          options.window = form.window;
          options.causal = true;
          const std::int64_t key_width = form.key_heads * form.size;
          const at::Tensor qkv = random({rows, form.heads * form.size + 2 * key_width}, type);
          // Beyond the tokens that it holds a cache is not even finite.
          at::Tensor cache =
              at::full({rows, capacity, 2 * key_width}, std::numeric_limits<float>::quiet_NaN(), qkv.options());
          const at::Tensor lengths = at::randint(capacity, {rows}, at::TensorOptions(at::kLong).device(at::kCUDA));
          lengths.select(0, 0).fill_(capacity - 1);
          const at::Tensor held = at::arange(capacity, lengths.options()).unsqueeze(0).lt(lengths.unsqueeze(1));
          cache = at::where(held.unsqueeze(2), random({rows, capacity, 2 * key_width}, type), cache);
          RotaryTable table;
          table.cosine = random({capacity, form.size / 2}, at::kFloat);
          table.sine = random({capacity, form.size / 2}, at::kFloat);
          const RotaryTable* rotary = form.turned ? &table : nullptr;
          CountedCache counted;
          counted.lengths = lengths;
          const at::Tensor mine_cache = cache.clone(), reference_cache = cache.clone();
          for (int time = 0; time < 3; ++time) {  // the second finds the workspace as the first left it
            counted.settled = time == 2;
            if (counted.settled) at::zeros({1}, qkv.options());  // begins when all before it has ended
            const at::Tensor mine = decode_attention(qkv, mine_cache, counted, options, rotary);
            const at::Tensor exact = reference::decode_attention(qkv, reference_cache, lengths, options, rotary);
            expect_near(mine, exact, type);
          }
          EXPECT_TRUE(at::allclose(mine_cache.to(at::kFloat), reference_cache.to(at::kFloat),
                                   type == at::kFloat ? 1e-5 : 1e-2, type == at::kFloat ? 1e-5 : 1e-2,
                                   /*equal_nan=*/true));
        }
      }
    }
  }
}

/// Chooses by the same logits on both devices, some steps.
void expect_same_choices(const GenerationOptions& options, const std::vector<at::Tensor>& logits) {
  const std::int64_t rows = logits[0].size(0), vocabulary = logits[0].size(1);
  TokenChoice here(c10::kCPU, rows, 16, vocabulary), there(c10::Device(c10::kCUDA, 0), rows, 16, vocabulary);
  const std::vector<std::int64_t> lengths(static_cast<std::size_t>(rows), 4);
  for (TokenChoice* choice : {&here, &there}) choice->begin(lengths, options, 1 << 20);
  for (std::size_t step = 0; step < logits.size(); ++step) {
    here.choose(logits[step], step > 0);
    there.choose(logits[step].to(at::kCUDA), step > 0);
  }
  const auto expected = here.answers(rows), found = there.answers(rows);
  for (std::size_t r = 0; r < expected.size(); ++r) {
    EXPECT_EQ(found[r][0].tokens, expected[r][0].tokens) << "row " << r;
    EXPECT_NEAR(found[r][0].score, expected[r][0].score, 1e-3 + 1e-4 * std::abs(expected[r][0].score));
  }
  EXPECT_EQ(there.remaining().item<std::int32_t>(), here.remaining().item<std::int32_t>());
  EXPECT_TRUE(at::equal(there.lengths().cpu(), here.lengths()));
  EXPECT_TRUE(at::equal(there.ids().cpu(), here.ids()));
}

TEST_F(DecodeOnGpu, tokens_are_chosen_as_on_the_host) {
  at::manual_seed(3);
  for (const std::int64_t vocabulary : {1, 5, 300, 2048, 2049, 50257}) {
    for (const bool coarse : {false, true}) {
      std::vector<at::Tensor> logits;
      for (int step = 0; step < 8; ++step) {
        at::Tensor one = at::randn({5, vocabulary}) * 3;
        if (coarse) one = one.round();  // many are equal
        logits.push_back(one);
      }
      SCOPED_TRACE(testing::Message() << vocabulary << (coarse ? " coarse" : ""));
      GenerationOptions options;
      options.max_new_tokens = 7;
      options.end_ids = {0, 3};
      options.seed = 11;
      options.first_row = 2;
      expect_same_choices(options, logits);
      options.do_sample = true;
      for (const std::int64_t top_k : {0, 1, 2, 50, 1024, 3000}) {
        for (const double top_p : {1.0, 0.95, 0.5, 1e-9}) {
          for (const double temperature : {1.0, 0.7, 1.9, 1e-4}) {
            SCOPED_TRACE(testing::Message() << "top_k " << top_k << " top_p " << top_p << " at " << temperature);
            options.sampling = {temperature, top_k, top_p};
            expect_same_choices(options, logits);
          }
        }
      }
    }
  }
}

class GenerationOnGpu : public DecodeOnGpu {
 protected:
  static std::unique_ptr<Model> load(const std::string& name, c10::Device device, Precision precision) {
    const at::ScalarType type = precision == Precision::fp32   ? at::kFloat
                                : precision == Precision::bf16 ? at::kBFloat16
                                                               : at::kHalf;
    auto pretrained = load_pretrained(parity::fixtures() / "models" / name, type, device);
    EXPECT_TRUE(pretrained.ok()) << (pretrained.ok() ? "" : pretrained.error().message);
    ModelOptions options;
    options.head = ModelHead::language_model;
    options.frozen = true;
    options.precision = precision;
    return std::move(*make_model(*pretrained, options));
  }

  static std::vector<std::vector<std::int64_t>> tokens_of(Generator& generator, const Prompts& prompts,
                                                          const GenerationOptions& options) {
    const auto answers = generator.generate(prompts, options);
    EXPECT_TRUE(answers.ok() && *answers);
    std::vector<std::vector<std::int64_t>> tokens;
    for (const auto& answer : **answers) tokens.push_back(answer[0].tokens);
    return tokens;
  }
};

constexpr const char* kFamilies[] = {"gpt2", "gpt_neo", "llama"};

TEST_F(GenerationOnGpu, all_families_continue_prompts_with_the_cpu_s_tokens) {
  for (const char* family : kFamilies) {
    const auto here = load(family, c10::kCPU, Precision::fp32);
    const auto there = load(family, c10::Device(c10::kCUDA, 0), Precision::fp32);
    Generator on_cpu(*here->language_model()), on_gpu(*there->language_model());
    RandomStream random(5, purpose::data_order);
    // The same generator with other prompts, options and numbers of rows, so that captured steps serve again.
    for (const std::int64_t rows : {3, 3, 1, 2, 9, 1, 4}) {
      Prompts prompts(static_cast<std::size_t>(rows));
      for (auto& prompt : prompts) {
        for (std::uint64_t i = 0; i < 2 + random.next_below(9); ++i) {
          prompt.push_back(static_cast<std::int64_t>(
              random.next_below(static_cast<std::uint64_t>(here->language_model()->vocabulary()))));
        }
        if (prompt.empty()) prompt.push_back(1);
      }
      for (const bool samples : {false, true}) {
        SCOPED_TRACE(testing::Message() << family << " " << rows << " rows" << (samples ? ", drawn" : ""));
        GenerationOptions options;
        options.max_new_tokens = 14;
        options.do_sample = samples;
        options.sampling.top_p = 0.95;
        options.seed = static_cast<std::uint64_t>(rows);
        const auto free = tokens_of(on_cpu, prompts, options);
        EXPECT_EQ(tokens_of(on_gpu, prompts, options), free);
        options.end_ids = {free[0][3]};
        EXPECT_EQ(tokens_of(on_gpu, prompts, options), tokens_of(on_cpu, prompts, options));
      }
    }
  }
}

TEST_F(GenerationOnGpu, low_precision_generates_and_weights_that_moved_are_followed) {
  for (const char* family : kFamilies) {
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      SCOPED_TRACE(family);
      const auto model = load(family, c10::Device(c10::kCUDA, 0), precision);
      Generator generator(*model->language_model());
      GenerationOptions options;
      options.max_new_tokens = 20;
      const Prompts prompts = {{5, 6, 7}, {9, 3}};
      const auto before = tokens_of(generator, prompts, options);
      for (int again = 0; again < 4; ++again) EXPECT_EQ(tokens_of(generator, prompts, options), before);
      // The same values elsewhere, and what stood where they were is spoilt.
      for (Parameter* parameter : model->parameters()) {
        if (!parameter->value.defined()) continue;
        const at::Tensor moved = parameter->value.clone();
        parameter->value.zero_();
        parameter->value = moved;
      }
      EXPECT_EQ(tokens_of(generator, prompts, options), before);
    }
  }
}

}  // namespace
}  // namespace finesweep::worker
