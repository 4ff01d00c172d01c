#include "sweeps/sweep.h"

#include <algorithm>
#include <utility>

#include "sweeps/data_info.h"
#include "sweeps/model_info.h"
#include "sweeps/overrides.h"
#include "sweeps/pipeline.h"
#include "sweeps/planner.h"
#include "sweeps/values.h"
#include "sweeps/yaml_reader.h"

namespace finesweep::sweeps {

namespace fs = std::filesystem;

namespace {

fs::path absolute_folder(const fs::path& folder) {
  return (folder.is_absolute() ? folder : fs::current_path() / folder).lexically_normal();
}

/// Puts absolute paths in place of relative ones and leaves all else, comments too. Nothing where a path is written
/// in a way that cannot be found in the text.
std::optional<std::string> patched(std::string_view text, std::vector<PathResolver::Edit> edits) {
  std::sort(edits.begin(), edits.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
  std::string out;
  std::size_t done = 0;
  for (const PathResolver::Edit& edit : edits) {
    std::size_t offset = edit.offset;
    if (offset < done) continue;  // an alias: its anchor was changed
    if (offset < text.size() && (text[offset] == '"' || text[offset] == '\'')) ++offset;
    if (text.substr(std::min(offset, text.size()), edit.from.size()) != edit.from) return std::nullopt;
    out += text.substr(done, offset - done);
    out += edit.to;
    done = offset + edit.from.size();
  }
  return out + std::string(text.substr(done));
}

/// The text for the run directory: the user's own with its comments where that can be kept, else written anew.
/// Nothing where it would be larger than a sweep file may be.
std::optional<std::string> resolved_text(const Node& root, std::string_view original, const SweepRequest& request,
                                         const PathResolver& paths) {
  auto says_the_same = [&](const std::string& text) {
    Diagnostics ignored;
    const auto again = read_yaml(text, 0, ignored);
    return again && !ignored.has_errors() && same_value(*again, root);
  };
  if (request.overrides.empty()) {
    auto text = patched(original, paths.edits());
    const Node* name = root.find("name");
    if (text && name && !says_the_same(*text)) *text = "name: " + write_yaml(*name) + *text;
    if (text && says_the_same(*text)) return *std::move(text);
  }
  std::string header = "# As given to finesweep";
  for (const std::string& override_text : request.overrides) {
    std::string line = override_text;
    std::replace_if(
        line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, ' ');
    header += (header.ends_with("finesweep") ? ", with --set " : " --set ") + line;
  }
  std::string text = header + ".\n" + write_yaml(root);
  return says_the_same(text) ? std::optional<std::string>(std::move(text)) : std::nullopt;
}

}  // namespace

SweepParse parse_sweep_text(std::string_view text, const SweepRequest& request, SweepFiles& files) {
  SweepParse parse;
  Diagnostics diagnostics;
  auto root = read_yaml(text, 0, diagnostics);
  if (root) {
    const bool readable = !diagnostics.has_errors();
    for (std::size_t i = 0; i < request.overrides.size(); ++i)
      apply_override(*root, request.overrides[i], static_cast<int>(i) + 1, diagnostics);
    PathResolver paths(absolute_folder(request.file).parent_path(), absolute_folder(request.override_base));
    const SweepDeclaration declaration = read_declaration(*root, request.file, paths, diagnostics);
    ModelCatalog models(files);
    DataCatalog data(files);
    Plan plan;
    // Where words are wrong the configurations are still looked at, so that all is reported together; without a
    // pipeline, or where part of the text is no YAML of ours, there are none.
    if (!declaration.steps.empty() && readable)
      plan = make_plan(declaration, models, data, request.most_trials, diagnostics);
    if (!diagnostics.has_errors()) {
      // The run directory's copy has another file name.
      if (!root->find("name"))
        root->entries.insert(root->entries.begin(),
                             {"name", root->mark, Node::scalar(declaration.name, root->mark)});
      if (auto kept = resolved_text(*root, text, request, paths))
        parse.sweep = ParsedSweep{std::move(plan), *std::move(kept)};
      else
        diagnostics.error(Mark{}, "", "too large to be kept with absolute paths; make it smaller than 1024 KiB");
    }
  }
  parse.diagnostics = diagnostics.sorted();
  return parse;
}

SweepParse parse_sweep(const SweepRequest& request, SweepFiles& files) {
  const fs::path path = absolute_folder(request.file);
  SweepParse parse;
  auto fail = [&](std::string message) {
    parse.diagnostics.push_back({Severity::error, Mark{}, "", std::move(message)});
    return parse;
  };
  if (!is_plain_utf8(path.native())) return fail("its path is not UTF-8; rename the file or its folder");
  const auto info = files.info(path);
  if (info.kind == SweepFiles::Kind::missing) return fail("no such file");
  if (info.kind == SweepFiles::Kind::directory) return fail("is a folder; give the sweep file");
  const YamlLimits limits;
  const auto text = files.read_start(path, limits.bytes + 1);
  if (!text) return fail(text.error().message);
  return parse_sweep_text(*text, request, files);
}

}  // namespace finesweep::sweeps
