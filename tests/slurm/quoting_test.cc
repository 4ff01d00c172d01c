#include "slurm/quoting.h"

#include <gtest/gtest.h>

#include <random>

#include "slurm/command.h"

namespace finesweep::slurm {
namespace {

/// What bash makes of the words.
std::string through_bash(const std::vector<std::string>& texts) {
  std::string script = "printf '%s\\0'";
  for (const std::string& text : texts) script += " " + shell_word(text);
  const auto result = run_command({"bash", "-c", script});
  EXPECT_TRUE(result && result->exit_code == 0) << script;
  return result ? result->output : "";
}

std::string joined(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += text + std::string(1, '\0');
  return all;
}

TEST(Quoting, a_word_means_the_same_to_bash) {
  const std::vector<std::string> texts{"",
                                       "plain",
                                       "two words",
                                       "it's",
                                       "\"double\"",
                                       "$HOME ${x} $(touch pwned) `touch pwned`",
                                       "a\nb",
                                       "\n",
                                       "'\n'",
                                       "\\n\\",
                                       "\\'\n\\",
                                       "\t\r\n\x01\x7f",
                                       "!!",
                                       "*?[a-z]",
                                       "~root",
                                       "-n",
                                       "#x",
                                       "a;b|c&d>e<f(g){h}",
                                       "%j",
                                       "\n#SBATCH x",
                                       "ü → 名",
                                       "\x01"
                                       "23",
                                       "$'x'",
                                       "' ; touch pwned ; '"};
  EXPECT_EQ(through_bash(texts), joined(texts));
}

TEST(Quoting, a_word_stays_on_one_line) {
  EXPECT_EQ(shell_word("a\n#SBATCH --exclusive\r\n").find('\n'), std::string::npos);
  EXPECT_EQ(shell_word("a\r").find('\r'), std::string::npos) << "sbatch refuses carriage returns";
}

TEST(Quoting, random_bytes_come_back) {
  std::mt19937 random(7);
  std::vector<std::string> texts;
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (int length = static_cast<int>(random() % 40); length > 0; --length) {
      // Any byte but NUL; every second one of those that mean something to a shell.
      static constexpr std::string_view special = "'\"\\$`\n\r\t!#&;|<>(){}[]*?~ ";
      text += random() % 2 ? special[random() % special.size()] : static_cast<char>(1 + random() % 255);
    }
    texts.push_back(text);
  }
  EXPECT_EQ(through_bash(texts), joined(texts));
}

TEST(Quoting, a_job_name_has_nothing_to_quote) {
  EXPECT_EQ(job_name_of("lora-ranks_2.1"), "lora-ranks_2.1");
  EXPECT_EQ(job_name_of("it's $(x)\n#SBATCH"), "it-s-x-SBATCH");
  EXPECT_EQ(job_name_of(std::string(500, 'a')).size(), 80u);
}

}  // namespace
}  // namespace finesweep::slurm
