#include "tensorrt_engines.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "json.hpp"
#include "sha256.hpp"

namespace flowsr::detail {

namespace {

constexpr std::int64_t kSchema = 1;
constexpr const char* kRemedy = "; prune the bundle's engines to remove it";

[[noreturn]] void refuse(const std::string& message) { throw Error(Code::bundle, message); }

[[noreturn]] void refuse_damaged(const std::string& path, const std::string& reason) {
  refuse(path + " is damaged: " + reason + kRemedy);
}

/// Reads the members of a description; a missing or mistyped member makes it damaged.
class Description {
 public:
  Description(const Json& json, const std::string& path) : json_(json), path_(path) {}

  Description get(const std::string& name) const {
    const Json* found = json_.find(name);
    if (found == nullptr) refuse_damaged(path_, "it lacks " + name);
    return Description(*found, path_);
  }
  const Json& json() const { return json_; }
  std::string text(const std::string& name) const {
    const Json& value = get(name).json();
    if (!value.is(Json::Kind::string)) refuse_damaged(path_, name + " is no text");
    return value.text();
  }
  std::int64_t whole(const std::string& name) const {
    const auto value = get(name).json().whole();
    if (!value || *value < 0) refuse_damaged(path_, name + " is no whole number");
    return *value;
  }
  std::vector<std::int64_t> numbers(const std::string& name) const {
    std::vector<std::int64_t> result;
    for (const Json& item : get(name).json().items()) {
      const auto value = item.whole();
      if (!value || *value < 0) refuse_damaged(path_, name + " holds no whole number");
      result.push_back(*value);
    }
    return result;
  }

 private:
  const Json& json_;
  const std::string& path_;
};

Profile profile_of(const Json& json, const std::string& path) {
  Profile profile;
  for (const auto& [name, ranges] : json.members()) {
    const Description range(ranges, path);
    Range result{range.numbers("min"), range.numbers("opt"), range.numbers("max")};
    const std::size_t sides = name == "geometry" ? 10 : 4;
    if (result.min.size() != sides || result.max.size() != sides) {
      refuse_damaged(path,
                     "the range of " + name + " has not " + std::to_string(sides) + " sides");
    }
    profile.emplace(name, std::move(result));
  }
  return profile;
}

std::vector<int> numbers_of(const std::string& version) {
  std::vector<int> result;
  for (std::size_t at = 0; at < version.size();) {
    const std::size_t end = std::min(version.find('.', at), version.size());
    const std::string part = version.substr(at, end - at);
    const bool digits = !part.empty() && part.size() < 9 &&
                        part.find_first_not_of("0123456789") == std::string::npos;
    if (digits) result.push_back(std::stoi(part));
    at = end + 1;
  }
  return result;
}

/// A field of an engine that a device cannot use.
struct Misfit {
  std::string field, found, wanted;
};

std::vector<Misfit> misfits_of(const Description& key, const Rig& rig, const std::string& onnx,
                               const std::string& precision, bool version_compatible) {
  std::vector<Misfit> result;
  const auto compare = [&](const std::string& field, const std::string& wanted) {
    const std::string found = key.text(field);
    if (found != wanted) result.push_back({field, found.substr(0, 40), wanted.substr(0, 40)});
  };
  compare("onnx_sha256", onnx);
  compare("flavour", rig.flavour);
  compare("precision", precision);
  const std::string version = key.text("version");
  if (version != rig.version) {
    const std::vector<int> built = numbers_of(version), here = numbers_of(rig.version);
    const bool later = version_compatible && !built.empty() && !here.empty() &&
                       built[0] == here[0] && built <= here;
    if (!later) result.push_back({"version", version, rig.version});
  }
  const Json& devices = key.get("compute_capability").json();
  // A portable engine runs from 8.0 up; 9.0 (H100, H200) is no GPU of TensorRT for RTX.
  const bool missing = rig.flavour == "tensorrt_rtx" && rig.compute_capability == "9.0";
  bool runs = devices.items().empty() && !missing &&
              numbers_of(rig.compute_capability) >= std::vector<int>{8, 0};
  std::string names = rig.flavour == "tensorrt_rtx" ? "portable (8.0 up, no 9.0)"
                                                    : "portable (8.0 up)";
  for (const Json& device : devices.items()) {
    runs = runs || device.text() == rig.compute_capability;
    names = (&device == devices.items().data() ? "" : names + ", ") + device.text();
  }
  if (!runs) result.push_back({"compute_capability", names, rig.compute_capability});
  const Json& gpu = key.get("gpu_name").json();
  if (!gpu.is(Json::Kind::null) && gpu.text() != rig.gpu_name) {
    result.push_back({"gpu_name", gpu.text(), rig.gpu_name});
  }
  return result;
}

/// Reads a description; its checksum and its canonical text reveal any changed byte.
Json checked_json(const std::string& path) {
  const std::string text = read_file(path);
  try {
    Json json = Json::parse(text);
    const Json* checksum = json.find("seal");
    const std::string expected = sha256(json.without("seal").compact());
    if (checksum == nullptr || checksum->text() != expected) {
      refuse_damaged(path, "its checksum is wrong");
    }
    const std::int64_t schema = Description(json, path).whole("schema");
    if (schema > kSchema) {
      refuse(path + ": schema " + std::to_string(schema) +
             " is newer than this runtime reads (" + std::to_string(kSchema) +
             "); upgrade flowsr");
    }
    if (json.indented() + "\n" != text) refuse_damaged(path, "not as it was written");
    return json;
  } catch (const JsonError& error) {
    refuse_damaged(path, std::string("no description of an engine: ") + error.what());
  }
}

Engine engine_of(const Json& json, const std::string& description, const std::string& plan) {
  const Description root(json, description), key = root.get("key");
  const std::string digest = sha256(key.json().compact()).substr(0, 12);
  const std::string ending = "-" + digest + ".engine";
  if (plan.size() < ending.size() ||
      plan.compare(plan.size() - ending.size(), ending.size(), ending) != 0) {
    refuse(description + " describes another engine" + kRemedy);
  }
  Engine engine;
  engine.path = plan;
  engine.sha256 = root.get("engine").text("sha256");
  engine.bytes = root.get("engine").whole("bytes");
  engine.devices = key.get("compute_capability").json().items().size();
  const Json* compatible = key.get("options").json().find("version_compatible");
  engine.version_compatible = compatible != nullptr && compatible->boolean();
  for (const Json& profile : key.get("profiles").json().items()) {
    engine.profiles.push_back(profile_of(profile, description));
  }
  if (engine.profiles.empty()) engine.profiles.emplace_back();
  return engine;
}

/// Returns the descriptions of a bundle's engines by name.
std::vector<std::filesystem::path> descriptions(const std::string& folder) {
  std::error_code ignored;
  if (std::filesystem::is_symlink(folder, ignored)) {
    refuse(folder + " is a link; engines lie inside their bundle");
  }
  std::vector<std::filesystem::path> paths;
  if (!std::filesystem::is_directory(folder, ignored)) return paths;
  const std::string ending = ".engine.json";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > ending.size() && name[0] != '.' &&
        name.compare(name.size() - ending.size(), ending.size(), ending) == 0) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void check_no_link(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_symlink(path, ignored)) {
    refuse(path + " is a link; engines lie inside their bundle");
  }
}

}  // namespace

bool Range::covers(const std::vector<std::int64_t>& values) const {
  if (values.size() != min.size()) return false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < min[i] || values[i] > max[i]) return false;
  }
  return true;
}

std::string Engine::read() const {
  check_no_link(path);
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) refuse(path + " cannot be read: " + error.message());
  if (size != static_cast<std::uintmax_t>(bytes)) {
    refuse_damaged(path, std::to_string(size) + " bytes, its description says " +
                             std::to_string(bytes));
  }
  std::string plan = read_file(path);
  const std::string digest = detail::sha256(plan);
  if (digest != sha256) {
    refuse_damaged(path, "sha256 " + digest.substr(0, 12) + "…, its description says " +
                             sha256.substr(0, 12) + "…");
  }
  return plan;
}

std::vector<Engine> matching_engines(const Bundle& bundle, const std::string& precision,
                                     const Rig& rig) {
  const std::string model = bundle.model_name(precision);
  const std::string onnx = bundle.manifest().files.at(model).sha256;
  std::vector<Engine> result;
  std::vector<Misfit> nearest;
  std::string nearest_name;
  for (const auto& path : descriptions(bundle.path() + "/engines")) {
    const std::string description = path.string();
    const std::string plan = description.substr(0, description.size() - 5);  // less .json
    std::error_code ignored;
    if (!std::filesystem::exists(plan, ignored)) continue;
    check_no_link(description);
    const Json json = checked_json(description);
    Engine engine = engine_of(json, description, plan);
    const Description key = Description(json, description).get("key");
    const std::vector<Misfit> misfits =
        misfits_of(key, rig, onnx, precision, engine.version_compatible);
    if (misfits.empty()) {
      result.push_back(std::move(engine));
    } else if (nearest.empty() || misfits.size() < nearest.size()) {
      nearest = misfits, nearest_name = path.filename().stem().string();
    }
  }
  if (result.empty()) {
    std::string reasons = nearest.empty() ? "it holds no engine at all" : nearest_name + ":";
    for (const Misfit& each : nearest) {
      reasons += (&each == nearest.data() ? " " : ", ") + each.field + " is " + each.found +
                 ", wanted " + each.wanted;
    }
    refuse(bundle.path() + " has no engine of " + model + " for " + rig.flavour + " " +
           rig.version + " on " + rig.gpu_name + " (" + rig.compute_capability +
           "): " + reasons + "; build an engine for this device");
  }
  std::stable_sort(result.begin(), result.end(), [](const Engine& a, const Engine& b) {
    return (a.devices == 0 ? 99 : a.devices) < (b.devices == 0 ? 99 : b.devices);
  });
  return result;
}

bool EngineLimits::Bounds::covers(const Extent& extent) const {
  const auto inside = [](const Span& span, std::int64_t value) {
    return span.least <= value && value <= span.most;
  };
  return inside(lr_size, extent.lr_size()) && inside(out_size, extent.out_size()) &&
         inside(source, extent.source) && inside(target, extent.target) &&
         inside(lr_begin, extent.lr_begin) && inside(out_begin, extent.out_begin);
}

EngineLimits::Bounds EngineLimits::bounds_of(const Profile& profile,
                                             const std::vector<Latent>& latents, int axis) {
  Bounds bounds;
  const auto side = static_cast<std::size_t>(axis);
  const auto input = profile.find("input");
  if (input != profile.end()) {
    bounds.lr_size = {input->second.min.at(2 + side), input->second.max.at(2 + side)};
  }
  const auto geometry = profile.find("geometry");
  if (geometry != profile.end()) {
    const auto span = [&](std::size_t place) {
      return Span{geometry->second.min.at(place + side), geometry->second.max.at(place + side)};
    };
    bounds.source = span(0), bounds.target = span(2), bounds.lr_begin = span(4);
    bounds.out_begin = span(6), bounds.out_size = span(8);
  }
  for (const Latent& latent : latents) {
    const auto cells = profile.find(latent.name);
    if (cells == profile.end()) continue;
    const std::int64_t least = (cells->second.min.at(2 + side) - 1) * latent.patch + 1;
    const std::int64_t most = cells->second.max.at(2 + side) * latent.patch;
    bounds.out_size.least = std::max(bounds.out_size.least, least);
    bounds.out_size.most = std::min(bounds.out_size.most, most);
  }
  return bounds;
}

EngineLimits::EngineLimits(const std::vector<Engine>& engines,
                           const std::vector<Latent>& latents) {
  for (const Engine& engine : engines) {
    for (const Profile& profile : engine.profiles) {
      const auto input = profile.find("input");
      const bool one = input == profile.end() ||
                       (input->second.min[0] <= 1 && input->second.max[0] >= 1);
      if (!one) continue;  // it takes no single picture
      for (const int axis : {0, 1}) {
        bounds_[axis].push_back(bounds_of(profile, latents, axis));
      }
    }
  }
}

MatchingProfiles EngineLimits::matching_profiles(int axis,
                                                 const std::vector<Piece>& pieces) const {
  MatchingProfiles result;
  for (const Piece& piece : pieces) {
    std::vector<bool> takes;
    for (const Bounds& bounds : bounds_[axis]) takes.push_back(bounds.covers(piece.extent));
    result.insert(std::move(takes));
  }
  return result;
}

}  // namespace flowsr::detail
