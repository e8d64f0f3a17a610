#include "backends/verdicts.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#if defined(__unix__)
#include <unistd.h>
#endif

#include "bundle/json.hpp"
#include "bundle/sha256.hpp"

namespace flowsr::detail {

namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Returns the folder of the verdicts, which need not exist; empty without a home.
fs::path cache_folder() {
  fs::path base = environment("XDG_CACHE_HOME");
  if (!base.is_absolute()) {  // the specification: a relative path is ignored
    const fs::path home = environment("HOME");
    if (!home.is_absolute()) return {};
    base = home / ".cache";
  }
  return base / "flowsr-lp" / "self-tests";
}

fs::path path_of(const VerdictKey& key) {
  const fs::path folder = cache_folder();
  if (folder.empty()) return {};
  std::string text;
  for (const auto& [name, value] : key) text += name + "=" + value + "\n";
  return folder / (sha256(text).substr(0, 32) + ".json");
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result + "\"";
}

std::string text_of(const VerdictKey& key, const Verdict& verdict) {
  std::string text = "{\n \"schema\": 1,\n \"key\": {";
  std::string comma = "\n";
  for (const auto& [name, value] : key) {
    text += comma + "  " + quoted(name) + ": " + quoted(value);
    comma = ",\n";
  }
  return text + "\n },\n \"passed\": " + (verdict.passed ? "true" : "false") +
         ",\n \"measured\": " + quoted(verdict.measured) + "\n}\n";
}

bool is_for(const Json& json, const VerdictKey& key) {
  const Json* schema = json.find("schema");
  const Json* found = json.find("key");
  if (schema == nullptr || schema->whole() != 1 || found == nullptr) return false;
  if (found->members().size() != key.size()) return false;
  for (const auto& [name, value] : key) {
    const Json* member = found->find(name);
    if (member == nullptr || !member->is(Json::Kind::string) || member->text() != value) {
      return false;
    }
  }
  return true;
}

#if defined(__unix__)
long process() { return static_cast<long>(getpid()); }
#else
long process() { return 0; }
#endif

}  // namespace

std::optional<Verdict> kept_verdict(const VerdictKey& key) {
  std::ifstream file(path_of(key), std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream content;
  content << file.rdbuf();
  try {
    const Json json = Json::parse(content.str());
    const Json *passed = json.find("passed"), *measured = json.find("measured");
    const bool whole = is_for(json, key) && passed != nullptr &&
                       passed->is(Json::Kind::boolean) && measured != nullptr &&
                       measured->is(Json::Kind::string);
    if (!whole) return std::nullopt;
    return Verdict{passed->boolean(), measured->text()};
  } catch (const JsonError&) {
    return std::nullopt;
  }
}

void keep_verdict(const VerdictKey& key, const Verdict& verdict) {
  const fs::path path = path_of(key);
  if (path.empty()) return;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return;
  const fs::path fresh = path.string() + "." + std::to_string(process()) + ".tmp";
  {
    std::ofstream file(fresh, std::ios::binary | std::ios::trunc);
    file << text_of(key, verdict);
    file.close();
    if (!file) {
      fs::remove(fresh, error);
      return;
    }
  }
  fs::rename(fresh, path, error);
  if (error) fs::remove(fresh, error);
}

}  // namespace flowsr::detail
