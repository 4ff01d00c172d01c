#pragma once

#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/device.h"

namespace finesweep::worker {

/// Prints what the first GPU was busy with over `count` calls: its time by kernel, for each of them.
inline void print_device_profile(const std::function<void()>& work, int count) {
  namespace profiler = torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const profiler::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  const std::set<ActivityType> activities = {ActivityType::CPU, ActivityType::CUDA};
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  for (int i = 0; i < count; ++i) work();
  synchronize(c10::Device(c10::kCUDA, 0));
  const auto result = profiler::disableProfiler();
  std::map<std::string, std::pair<double, int>> by_name;
  double total = 0;
  int launches = 0;
  for (const auto& event : result->events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    const double us = static_cast<double>(event.durationNs()) / 1e3 / count;
    by_name[event.name()].first += us;
    ++by_name[event.name()].second;
    total += us;
    ++launches;
  }
  std::vector<std::pair<std::string, std::pair<double, int>>> sorted(by_name.begin(), by_name.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.first > b.second.first; });
  std::printf("    %9.1f us in %d launches\n", total, launches / count);
  for (std::size_t i = 0; i < std::min<std::size_t>(sorted.size(), 32); ++i) {
    std::printf("    %9.1f us %5.1f x  %.110s\n", sorted[i].second.first,
                static_cast<double>(sorted[i].second.second) / count, sorted[i].first.c_str());
  }
  std::fflush(stdout);
}

}  // namespace finesweep::worker
