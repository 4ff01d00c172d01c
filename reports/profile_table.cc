#include "reports/profile_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

enum class Place { host, device };

struct Mean {
  double ms = 0, share = 0, calls = 0;
  int n = 0;  // profiles that have the group
  void add(double more_ms, double more_share, double more_calls) {
    ms += more_ms;
    share += more_share;
    calls += more_calls;
    ++n;
  }
};

/// All of one table: configuration → group, by step, mode and place.
struct Gathered {
  std::map<std::size_t, std::map<std::string, Mean>> means;
  std::set<int> iterations;
};
using Key = std::tuple<std::string, std::string, Place>;

void gather(const Profile& profile, const std::string& step, std::size_t configuration,
            std::map<Key, Gathered>& all) {
  const double iterations = std::max(profile.iterations, 1);
  for (const Profile::Group& group : profile.groups) {
    const auto add = [&](Place place, double ms, double share) {
      Gathered& gathered = all[{step, profile.mode, place}];
      gathered.iterations.insert(profile.iterations);
      gathered.means[configuration][group.name].add(ms / iterations, share, group.calls / iterations);
    };
    add(Place::host, group.ms, group.share);
    if (group.device_ms && group.device_share) add(Place::device, *group.device_ms, *group.device_share);
  }
}

std::string title_of(const Key& key, const Gathered& gathered) {
  const auto& [step, mode, place] = key;
  std::string title = step;
  if (!mode.empty()) title += ", " + mode;
  if (place == Place::device) title += ", on the device";
  const int iterations = *gathered.iterations.begin();
  if (gathered.iterations.size() == 1 && iterations > 0)
    title += fmt::format(" ({} iteration{})", iterations, iterations == 1 ? "" : "s");
  return on_one_line(title);
}

ProfileTable table_of(const Analysis& analysis, const Key& key, const Gathered& gathered) {
  ProfileTable table;
  table.title = title_of(key, gathered);
  std::map<std::string, double> total;
  for (const auto& [configuration, groups] : gathered.means)
    for (const auto& [name, mean] : groups) total[name] += mean.ms / mean.n;
  for (const auto& [name, ms] : total) table.groups.push_back(name);
  std::ranges::stable_sort(table.groups, std::ranges::greater(), [&](const auto& name) { return total.at(name); });
  for (const std::size_t c : analysis.ranking()) {
    const auto found = gathered.means.find(c);
    if (found == gathered.means.end()) continue;
    ProfileTable::Row row{analysis.configurations[c].label, {}};
    for (const std::string& group : table.groups) {
      const auto mean = found->second.find(group);
      if (mean == found->second.end()) {
        row.cells.emplace_back();
        continue;
      }
      const Mean& sum = mean->second;
      const double calls = sum.calls / sum.n;
      row.cells.push_back({fmt::format("{} ({:.0f} %, {} call{})", rounded(sum.ms / sum.n), 100 * sum.share / sum.n,
                                       rounded(calls), calls == 1 ? "" : "s"),
                           sum.ms / sum.n});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

std::vector<ProfileTable> profile_tables(const Analysis& analysis) {
  std::map<Key, Gathered> all;
  for (std::size_t c = 0; c < analysis.configurations.size(); ++c) {
    std::set<std::pair<std::string, JobId>> counted;
    for (const std::size_t t : analysis.configurations[c].trials)
      for (const TrialStep& step : analysis.trials[t].trial->steps) {
        const auto profiles = analysis.data->profiles.find(step.job);
        if (profiles == analysis.data->profiles.end() || !counted.emplace(step.name, step.job).second) continue;
        for (const Profile& profile : profiles->second) gather(profile, step.name, c, all);
      }
  }
  std::vector<ProfileTable> tables;
  for (const auto& [key, gathered] : all) tables.push_back(table_of(analysis, key, gathered));
  return tables;
}

}  // namespace finesweep::reports
