#include "reports/profile_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

struct Mean {
  double ms = 0, share = 0, calls = 0;
  int n = 0;  // profiles that have the group
};
/// step and mode → configuration → group.
using Means = std::map<std::pair<std::string, std::string>, std::map<std::size_t, std::map<std::string, Mean>>>;

std::string cell_text(const Mean& mean) {
  const double n = mean.n;
  return fmt::format("{} ({:.0f} %, {} calls)", rounded(mean.ms / n), 100 * mean.share / n,
                     rounded(mean.calls / n));
}

}  // namespace

std::vector<ProfileTable> profile_tables(const Analysis& analysis) {
  Means means;
  std::map<std::pair<std::string, std::string>, std::set<int>> iterations;
  for (std::size_t c = 0; c < analysis.configurations.size(); ++c) {
    std::set<std::pair<std::string, JobId>> counted;
    for (const std::size_t t : analysis.configurations[c].trials)
      for (const TrialStep& step : analysis.trials[t].trial->steps) {
        const auto profiles = analysis.data->profiles.find(step.job);
        if (profiles == analysis.data->profiles.end() || !counted.emplace(step.name, step.job).second) continue;
        for (const Profile& profile : profiles->second)
          for (const Profile::Group& group : profile.groups) {
            const std::pair key(step.name, profile.mode);
            iterations[key].insert(profile.iterations);
            Mean& mean = means[key][c][group.name];
            mean.ms += group.ms;
            mean.share += group.share;
            mean.calls += group.calls;
            ++mean.n;
          }
      }
  }
  std::vector<ProfileTable> tables;
  for (const auto& [key, by_configuration] : means) {
    ProfileTable table;
    table.title = on_one_line(key.first + (key.second.empty() ? "" : ", " + key.second));
    const auto& counts = iterations.at(key);
    if (counts.size() == 1 && *counts.begin() > 0)
      table.title += fmt::format(" ({} iteration{})", *counts.begin(), *counts.begin() == 1 ? "" : "s");
    std::map<std::string, double> total;
    for (const auto& [configuration, groups] : by_configuration)
      for (const auto& [name, mean] : groups) total[name] += mean.ms / mean.n;
    for (const auto& [name, ms] : total) table.groups.push_back(name);
    std::ranges::stable_sort(table.groups, std::ranges::greater(),
                             [&](const auto& name) { return total.at(name); });
    for (const std::size_t c : analysis.ranking()) {
      const auto found = by_configuration.find(c);
      if (found == by_configuration.end()) continue;
      ProfileTable::Row row{analysis.configurations[c].label, {}};
      for (const std::string& group : table.groups) {
        const auto mean = found->second.find(group);
        if (mean == found->second.end())
          row.cells.emplace_back();
        else
          row.cells.push_back({cell_text(mean->second), mean->second.ms / mean->second.n});
      }
      table.rows.push_back(std::move(row));
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace finesweep::reports
