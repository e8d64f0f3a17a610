#include <filesystem>
#include <fstream>
#include <set>

#include "upscaling/geometry.hpp"
#include "bundle/manifest.hpp"
#include "bundle/onnx_file.hpp"
#include "backends/session.hpp"
#include "bundle/sha256.hpp"

namespace flowsr {

using namespace detail;

namespace {
constexpr std::uintmax_t kLargestManifest = 1 << 24;  // bytes; ours have some thousands
}

string detail::read_file(const string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || std::filesystem::is_directory(path)) refuse(path + " cannot be read");
  string data(static_cast<size_t>(file.tellg()), '\0');
  file.seekg(0);
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  if (!file) refuse(path + " cannot be read");
  return data;
}

Bundle::Bundle(string path, string text, Manifest manifest)
    : path_(std::move(path)), text_(std::move(text)), manifest_(std::move(manifest)) {}

bool Bundle::was_replaced() const {
  try {
    return open(path_).text_ != text_;
  } catch (const Error&) {
    return false;
  }
}

void Bundle::refuse_file(const string& message) const {
  if (was_replaced()) {
    throw Replaced(Code::bundle, "bundle " + path_ + " was replaced while it was read");
  }
  refuse(message);
}

Bundle Bundle::open(const string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) refuse("bundle " + path + " does not exist");
  if (!std::filesystem::is_directory(path, ignored)) {
    refuse("bundle " + path + " is not a directory");
  }
  const string name = path + "/bundle.json";
  if (!std::filesystem::exists(name, ignored)) {
    refuse(path + " is not a bundle: no bundle.json");
  }
  try {
    const auto size = std::filesystem::file_size(name, ignored);
    if (!ignored && size > kLargestManifest) {
      refuse(name + " has " + std::to_string(size) + " bytes, more than " +
             std::to_string(kLargestManifest));
    }
    const string text = read_file(name);
    return Bundle(path, text, manifest_of(Json::parse(text)));
  } catch (const JsonError& error) {
    refuse(name + " is not valid JSON: " + error.what());
  }
}

string Bundle::read(const string& name) const {
  const auto entry = manifest_.files.find(name);
  if (entry == manifest_.files.end()) refuse(path_ + " holds no " + name);
  const string path = path_ + "/" + name;
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) refuse_file(path + " cannot be read: " + error.message());
  const auto expected = static_cast<std::uintmax_t>(entry->second.bytes);
  string data;
  try {
    if (size == expected) data = read_file(path);
  } catch (const Error& fault) {
    refuse_file(fault.what());
  }
  if (size != expected || data.size() != expected) {
    refuse_file(path + " is damaged: " + std::to_string(size) + " bytes, bundle.json says " +
           std::to_string(expected));
  }
  const string digest = sha256(data);
  if (digest != entry->second.sha256) {
    refuse_file(path + " is damaged: sha256 " + digest.substr(0, 12) + "…, bundle.json says " +
           entry->second.sha256.substr(0, 12) + "…");
  }
  const bool model = name.size() >= 5 && name.compare(name.size() - 5, 5, ".onnx") == 0;
  if (model && !is_self_contained(data)) {
    refuse(path + " has data in another file, which nothing checks");
  }
  return data;
}

string Bundle::model_name(const string& precision) const {
  vector<string> names;
  std::set<string> present;
  for (const auto& [name, entry] : manifest_.files) {
    const bool model = name.size() >= 5 && name.compare(name.size() - 5, 5, ".onnx") == 0;
    if (!model || !entry.precision) continue;
    present.insert(*entry.precision);
    if (*entry.precision == precision) names.push_back(name);
  }
  if (names.empty()) {
    string all;
    for (const string& precision_name : present) all += (all.empty() ? "" : ", ") + precision_name;
    refuse(path_ + " holds no " + precision + " model; it has " +
           (all.empty() ? "no model at all" : all));
  }
  if (names.size() > 1) {
    refuse(path_ + " holds several " + precision + " models: " + names[0] + ", " + names[1]);
  }
  return names[0];
}

void Bundle::check_files() const {
  for (const auto& [name, entry] : manifest_.files) read(name);
}

Size Bundle::target(Size source, const Target& target) const {
  check_source(source);
  const std::optional<Size> requested = requested_size(source, target);
  if (!manifest_.scale) {
    if (!requested) throw Error(Code::usage, "give exactly one of scale and size");
    return *requested;
  }
  const Size own = scaled_size(source, *manifest_.scale);
  if (requested && *requested != own) {
    throw Error(Code::usage, "this model only supports scale " + manifest_.scale->text() +
                                 ", got " + size_text(*requested) + " for " +
                                 size_text(source));
  }
  return own;
}

}  // namespace flowsr
