#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace finesweep::tests {

/// A folder and what its files may include by "path/from/the/root.h". The longest `folder` that a file lies in
/// counts, so worker/agent can be held to more than worker, and one file can have a row of its own.
struct FolderRule {
  std::string folder;
  /// Path prefixes: "jobs/" for a whole folder, "storage/files.h" for one header.
  std::vector<std::string> may_include;
};

/// A library that only some folders may touch: neither directly nor through a header of ours.
struct LibraryRule {
  std::string library;
  /// Prefixes of the paths in its #include lines.
  std::vector<std::string> headers;
  std::vector<std::string> allowed_in;
  std::vector<std::string> except_in;
};

struct LayeringRules {
  std::vector<FolderRule> folders;
  std::vector<LibraryRule> libraries;
  /// Top-level folders in which the rules do not apply (they hold no part of the programs).
  std::vector<std::string> outside;
};

/// The table that the whole tree is held to.
const LayeringRules& layering_rules();

struct LayeringReport {
  int files = 0;
  int includes = 0;
  /// One line each: file:line and what is wrong.
  std::vector<std::string> violations;
};

/// Reads the #include lines of every C++ and CUDA file under `root`.
LayeringReport check_layering(const std::filesystem::path& root, const LayeringRules& rules);

}  // namespace finesweep::tests
