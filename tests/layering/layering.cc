#include "tests/layering/layering.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <set>

namespace finesweep::tests {
namespace {

namespace fs = std::filesystem;

struct Include {
  int line = 0;
  std::string path;
  bool quoted = false;
};

bool has_prefix(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& p) { return text.starts_with(p); });
}

/// `folder` names the file itself or a folder above it.
bool lies_in(const std::string& file, const std::string& folder) {
  return file == folder || file.starts_with(folder + "/");
}

bool lies_in_any(const std::string& file, const std::vector<std::string>& folders) {
  return std::any_of(folders.begin(), folders.end(), [&](const std::string& f) { return lies_in(file, f); });
}

std::vector<Include> includes_of(const fs::path& path) {
  static const std::regex pattern(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"])");
  std::vector<Include> includes;
  std::ifstream in(path);
  std::string text;
  std::smatch match;
  for (int line = 1; std::getline(in, text); ++line) {
    if (std::regex_search(text, match, pattern)) includes.push_back({line, match[2], match[1] == "\""});
  }
  return includes;
}

/// File (by path from the root) → its includes. Skips hidden folders and the folders outside the rules.
std::map<std::string, std::vector<Include>> read_tree(const fs::path& root, const LayeringRules& rules) {
  static const std::set<std::string> extensions = {".h", ".hpp", ".cc", ".cpp", ".cu", ".cuh"};
  std::map<std::string, std::vector<Include>> tree;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::recursive_directory_iterator(); ++it) {
    const std::string name = fs::relative(it->path(), root).generic_string();
    if (it->is_directory() &&
        (it->path().filename().string().starts_with(".") || lies_in_any(name, rules.outside))) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file() && extensions.contains(it->path().extension().string())) {
      tree[name] = includes_of(it->path());
    }
  }
  return tree;
}

const FolderRule* rule_for(const std::string& file, const LayeringRules& rules) {
  const FolderRule* best = nullptr;
  for (const FolderRule& rule : rules.folders) {
    if (lies_in(file, rule.folder) && (!best || rule.folder.size() > best->folder.size())) best = &rule;
  }
  return best;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

/// Finds a library at the end of a chain of our own headers that starts in one file.
class Reach {
 public:
  Reach(const std::map<std::string, std::vector<Include>>& tree, const LibraryRule& library)
      : tree_(tree), library_(library) {}

  /// The chain from `file` to the library, as "a.h → b.h → <x>"; empty where there is none.
  const std::string& chain(const std::string& file) {
    auto [known, fresh] = chains_.try_emplace(file);
    if (!fresh) return known->second;
    auto found = tree_.find(file);
    if (found == tree_.end()) return known->second;
    for (const Include& include : found->second) {
      if (has_prefix(include.path, library_.headers)) {
        return known->second = "<" + include.path + ">";
      }
    }
    for (const Include& include : found->second) {
      if (!include.quoted) continue;
      const std::string rest = chain(include.path);
      if (!rest.empty()) return known->second = include.path + " → " + rest;
    }
    return known->second;
  }

 private:
  const std::map<std::string, std::vector<Include>>& tree_;
  const LibraryRule& library_;
  std::map<std::string, std::string> chains_;
};

}  // namespace

LayeringReport check_layering(const fs::path& root, const LayeringRules& rules) {
  const auto tree = read_tree(root, rules);
  LayeringReport report;
  for (const auto& [file, includes] : tree) {
    ++report.files;
    const FolderRule* rule = rule_for(file, rules);
    if (!rule) {
      report.violations.push_back(file + ": its folder has no row in the table of tests/layering/rules.cc");
      continue;
    }
    for (const Include& include : includes) {
      ++report.includes;
      if (!include.quoted || has_prefix(include.path, rule->may_include)) continue;
      const std::string where = file + ":" + std::to_string(include.line) + ": ";
      if (!fs::exists(root / include.path)) {
        report.violations.push_back(where + "\"" + include.path + "\" is no path from the root of the repository");
      } else {
        report.violations.push_back(where + rule->folder + " may not include \"" + include.path + "\", only " +
                                    join(rule->may_include));
      }
    }
  }
  for (const LibraryRule& library : rules.libraries) {
    Reach reach(tree, library);
    for (const auto& [file, includes] : tree) {
      if (lies_in_any(file, library.allowed_in) && !lies_in_any(file, library.except_in)) continue;
      const std::string& chain = reach.chain(file);
      if (!chain.empty()) {
        std::string allowed = join(library.allowed_in);
        if (!library.except_in.empty()) allowed += " without " + join(library.except_in);
        report.violations.push_back(file + ": reaches " + library.library + " (" + chain + "), which belongs in " +
                                    allowed);
      }
    }
  }
  return report;
}

}  // namespace finesweep::tests
