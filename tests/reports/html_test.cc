#include "reports/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/html_text.h"
#include "reports/page_resources.h"
#include "tests/reports/markup.h"
#include "tests/reports/sample_runs.h"

namespace finesweep::reports {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string page_of(const RunData& data) {
  const Analysis analysis = analyze(data);
  return html_report(analysis, charts_of(analysis));
}

std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const std::size_t from = text.find(begin);
  if (from == std::string::npos) return "";
  const std::size_t to = text.find(end, from + begin.size());
  return text.substr(from + begin.size(), to - from - begin.size());
}

Json data_in(const std::string& page) {
  return Json::parse(between(page, "<script type=\"application/json\" id=\"data\">", "</script>"));
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Page, holds_the_data_of_its_charts) {
  const std::string page = page_of(study_run());
  EXPECT_EQ(markup_trouble(page), "");
  const Json data = data_in(page);
  EXPECT_EQ(data.at("sweep"), "study");
  std::vector<std::string> names;
  for (const Json& figure : data.at("figures")) names.push_back(figure.at("name").get<std::string>());
  EXPECT_THAT(names, testing::ElementsAre("Metrics against finetune.rank", "Quality against memory",
                                          "Quality against time", "Curves of finetune"));
  EXPECT_EQ(count(page, "<figure "), names.size());
  const Json& first = data.at("figures")[0].at("charts")[0];
  EXPECT_EQ(first.at("choice"), "test accuracy");
  EXPECT_EQ(first.at("series")[0].at("points")[2].at("x"), 8);
  EXPECT_NEAR(first.at("series")[0].at("points")[2].at("y").get<double>(), 0.88, 1e-12);
  const Json& curves = data.at("figures")[3].at("charts");
  EXPECT_EQ(curves[0].at("choice"), "training loss");
  EXPECT_EQ(curves[0].at("series").size(), 7u);
  EXPECT_EQ(curves[0].at("series")[0].at("points")[0].at("y_range").size(), 2u);
}

TEST(Page, has_the_tables_without_any_script) {
  const std::string page = page_of(mixed_run());
  for (const char* text :
       {"<h2>Comparison</h2>", "0.723 ± 0.014", "best use case", "highest quality", "data-value=\"24578\"",
        "<h2>Failures</h2>", "the loss of step 7 is not a number; lower the &quot;learning_rate&quot; | or clip",
        "<h2>All metrics</h2>", "<h2>Environment</h2>", "class=\"warnings\""})
    EXPECT_NE(page.find(text), std::string::npos) << text;
}

TEST(Page, needs_nothing_from_outside_and_allows_no_script_but_its_own) {
  const std::string page = page_of(grid_run());
  EXPECT_THAT(page, Not(testing::ContainsRegex("(src|href)=\"?(https?:)?//")));
  EXPECT_THAT(page, Not(HasSubstr("@import")));
  const std::string policy = between(page, "Content-Security-Policy\" content=\"", "\"");
  EXPECT_THAT(policy, AllOf(HasSubstr("default-src 'none'"), HasSubstr(script_hash(std::string(page_script()))),
                            HasSubstr(script_hash(std::string(chart_library())))));
  EXPECT_THAT(page, HasSubstr("<script>" + std::string(page_script()) + "</script>"));
  // of the empty string, from RFC 6234 by base64
  EXPECT_EQ(script_hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

TEST(Page, keeps_the_licence_of_what_it_inlines) {
  const std::string page = page_of(grid_run());
  for (const char* text : {"Chart.js v", "Chart.js Contributors", "Permission is hereby granted, free of charge",
                           "THE SOFTWARE IS PROVIDED \"AS IS\""})
    EXPECT_NE(page.find(text), std::string::npos) << text;
}

TEST(Page, hostile_text_stays_text) {
  const RunData hostile = hostile_run();
  const std::string page = page_of(hostile);
  EXPECT_EQ(markup_trouble(page), "");
  EXPECT_EQ(count(page, "<script"), 3u);
  EXPECT_EQ(count(page, "</script"), 3u);
  EXPECT_THAT(page, Not(HasSubstr("<img")));
  EXPECT_THAT(page, Not(HasSubstr("\x1b")));
  EXPECT_THAT(page, HasSubstr("&lt;/script&gt;&lt;img src=x onerror=&quot;"));
  const Json data = data_in(page);  // and what was put in comes out
  EXPECT_EQ(data.at("sweep"), hostile_texts()[0]);
}

TEST(Page, a_run_without_results_is_a_page_too) {
  RunData data = study_run();
  data.jobs.clear();
  const std::string page = page_of(data);
  EXPECT_EQ(markup_trouble(page), "");
  EXPECT_TRUE(data_in(page).at("figures").empty());
  EXPECT_THAT(page, HasSubstr("21 of 21 trials not finished"));
}

TEST(Page, heat_maps_have_each_cell) {
  const Json data = data_in(page_of(grid_run()));
  const Json& map = data.at("figures").back().at("charts")[0];
  EXPECT_EQ(data.at("figures").back().at("kind"), "heat_map");
  EXPECT_EQ(map.at("rows"), Json({1, 4, 16}));
  EXPECT_NEAR(map.at("panels")[0].at("cells")[2][3].at("value").get<double>(), 0.02 * 16 * 512 + 4, 1e-9);
  EXPECT_TRUE(map.at("panels")[1].at("cells")[2][3].is_null());
}

}  // namespace
}  // namespace finesweep::reports
