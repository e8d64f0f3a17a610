#include "engines/engines.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include "bundle/json.hpp"
#include "bundle/sha256.hpp"

namespace flowsr::detail {

namespace {

constexpr std::int64_t kSchema = 1;
constexpr const char* kRemedy = "; prune the bundle's engines to remove it";

[[noreturn]] void refuse(const std::string& message) { throw Error(Code::bundle, message); }

[[noreturn]] void refuse_damaged(const std::string& path, const std::string& reason) {
  throw Damaged(path + " is damaged: " + reason + kRemedy);
}

[[noreturn]] void refuse_link(const std::string& path) {
  throw Damaged(path + " is a link; engines lie inside their bundle");
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

bool loads_in(const Engine& engine, const std::string& version) {
  if (engine.version == version || !engine.version_compatible) return engine.version == version;
  const std::vector<int> built = numbers_of(engine.version), here = numbers_of(version);
  return !built.empty() && !here.empty() && built[0] == here[0] && built <= here;
}

bool runs_on(const Engine& engine, const std::string& capability) {
  const auto& devices = engine.devices;
  if (!devices.empty()) {
    return std::find(devices.begin(), devices.end(), capability) != devices.end();
  }
  // A portable engine runs from 8.0 up; 9.0 (H100, H200) is no GPU of TensorRT for RTX.
  if (engine.flavour == "tensorrt_rtx" && capability == "9.0") return false;
  return numbers_of(capability) >= std::vector<int>{8, 0};
}

std::string devices_text(const Engine& engine) {
  if (engine.devices.empty()) {
    return engine.flavour == "tensorrt_rtx" ? "portable (8.0 up, no 9.0)" : "portable (8.0 up)";
  }
  std::string names;
  for (const std::string& device : engine.devices) names += (names.empty() ? "" : ", ") + device;
  return names;
}

std::vector<Misfit> misfits_of(const Engine& engine, const Rig& rig, const std::string& onnx,
                               const std::string& precision) {
  std::vector<Misfit> result;
  const auto compare = [&](const char* field, const std::string& found,
                           const std::string& wanted) {
    if (found != wanted) result.push_back({field, found.substr(0, 40), wanted.substr(0, 40)});
  };
  compare("onnx_sha256", engine.onnx_sha256, onnx);
  compare("flavour", engine.flavour, rig.flavour);
  compare("precision", engine.precision, precision);
  if (!loads_in(engine, rig.version)) compare("version", engine.version, rig.version);
  if (!runs_on(engine, rig.compute_capability)) {
    compare("compute_capability", devices_text(engine), rig.compute_capability);
  }
  if (!engine.gpu_name.empty()) {
    compare("gpu_name", engine.gpu_name, rig.gpu_name.empty() ? "any" : rig.gpu_name);
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

bool ends_with(const std::string& text, const std::string& ending) {
  return text.size() > ending.size() &&
         text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

Engine engine_of(const Json& json, const std::string& description, const std::string& plan) {
  const Description root(json, description), key = root.get("key");
  Engine engine;
  engine.flavour = key.text("flavour");
  const std::string digest = sha256(key.json().compact()).substr(0, 12);
  const char* suffix = engine.flavour == "inductor" ? ".pt2" : ".engine";
  if (!ends_with(plan, "-" + digest + suffix)) {
    throw Damaged(description + " describes another engine" + kRemedy);
  }
  engine.path = plan;
  engine.sha256 = root.get("engine").text("sha256");
  engine.bytes = root.get("engine").whole("bytes");
  engine.onnx_sha256 = key.text("onnx_sha256");
  engine.version = key.text("version");
  engine.precision = key.text("precision");
  for (const Json& device : key.get("compute_capability").json().items()) {
    engine.devices.push_back(device.text());
  }
  engine.gpu_name = key.get("gpu_name").json().text();  // "" of null
  const Json* compatible = key.get("options").json().find("version_compatible");
  engine.version_compatible = compatible != nullptr && compatible->boolean();
  for (const Json& profile : key.get("profiles").json().items()) {
    engine.profiles.push_back(profile_of(profile, description));
  }
  if (engine.profiles.empty()) engine.profiles.emplace_back();
  const Json& facts = root.get("facts").json();
  const Json* qualified = facts.find("qualified");
  engine.qualified = qualified != nullptr && qualified->boolean();
  if (engine.flavour != "inductor") return engine;
  for (const Json& tensor : root.get("facts").get("tensors").json().items()) {
    const Description item(tensor, description);
    if (!item.get("input").json().boolean()) continue;
    engine.inputs.push_back({item.text("name"), item.text("dtype")});
  }
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
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name[0] == '.') continue;
    if (ends_with(name, ".engine.json") || ends_with(name, ".pt2.json")) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void check_no_link(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_symlink(path, ignored)) refuse_link(path);
}

/// Returns the sizes that a profile bounds: a shape, or the values of what decides shapes.
std::vector<std::int64_t> sizes_of(const Input& input) {
  if (input.kind != Kind::int64) return input.shape;
  const auto* values = static_cast<const std::int64_t*>(input.data);
  return {values, values + input.bytes / sizeof(std::int64_t)};
}

/// Returns the inputs that a profile does not take.
std::vector<const Input*> outside(const Profile& profile, const std::vector<Input>& inputs) {
  std::vector<const Input*> result;
  for (const Input& input : inputs) {
    const auto range = profile.find(input.name);
    if (range != profile.end() && !range->second.covers(sizes_of(input))) {
      result.push_back(&input);
    }
  }
  return result;
}

std::string joined(const std::vector<std::int64_t>& sizes) {
  std::string text;
  for (const std::int64_t size : sizes) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text;
}

/// Orders engines so that those whose profiles take one size each come first: for it they
/// are the fastest.
std::vector<Engine> of_one_size_first(std::vector<Engine> engines) {
  std::stable_partition(engines.begin(), engines.end(), [](const Engine& engine) {
    const auto& all = engine.profiles;
    return std::all_of(all.begin(), all.end(), [](const Profile& profile) {
      const auto input = profile.find("input");
      return input != profile.end() && input->second.min == input->second.max;
    });
  });
  return engines;
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
  if (error) throw Damaged(path + " cannot be read: " + error.message());
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

std::string Engine::name() const {
  return "engines/" + std::filesystem::path(path).filename().string();
}

bool Engine::on_cpu() const {
  return std::any_of(devices.begin(), devices.end(),
                     [](const std::string& each) { return each.rfind("cpu-", 0) == 0; });
}

std::vector<Engine> all_engines(const Bundle& bundle) {
  std::vector<Engine> result;
  for (const auto& path : descriptions(bundle.path() + "/engines")) {
    const std::string description = path.string();
    const std::string plan = description.substr(0, description.size() - 5);  // less .json
    std::error_code ignored;
    if (!std::filesystem::exists(plan, ignored)) continue;
    check_no_link(description);
    result.push_back(engine_of(checked_json(description), description, plan));
  }
  return result;
}

std::vector<Engine> matching_engines(const Bundle& bundle, const std::string& precision,
                                     const Rig& rig) {
  const std::string model = bundle.model_name(precision);
  const std::string onnx = bundle.manifest().files.at(model).sha256;
  std::vector<Engine> result;
  std::vector<Misfit> nearest;
  std::string nearest_name;
  std::size_t others = 0;
  for (Engine& engine : all_engines(bundle)) {
    std::vector<Misfit> misfits = misfits_of(engine, rig, onnx, precision);
    if (misfits.empty()) {
      result.push_back(std::move(engine));
      continue;
    }
    if (!nearest.empty()) ++others;
    if (nearest.empty() || misfits.size() < nearest.size()) {
      nearest = std::move(misfits), nearest_name = engine.name();
    }
  }
  if (result.empty()) {
    std::string reasons = nearest.empty() ? "it holds no engine at all" : nearest_name + ":";
    for (const Misfit& each : nearest) {
      reasons += (&each == nearest.data() ? " " : ", ") + each.field + " is " + each.found +
                 ", wanted " + each.wanted;
    }
    if (others > 0) reasons += " (and " + std::to_string(others) + " others)";
    const std::string& place = rig.compute_capability;
    refuse(bundle.path() + " has no engine of " + model + " for " + rig.flavour + " " +
           rig.version + " on " +
           (rig.gpu_name.empty() ? place : rig.gpu_name + " (" + place + ")") + ": " + reasons +
           "; build an engine for this device");
  }
  const auto rank = [](const Engine& each) {
    return each.devices.empty() ? std::size_t{99} : each.devices.size();
  };
  std::stable_sort(result.begin(), result.end(), [&rank](const Engine& a, const Engine& b) {
    return rank(a) < rank(b);
  });
  return result;
}

EngineSelection::EngineSelection(const Bundle& bundle, const std::string& precision,
                                 const Rig& rig)
    : engines_(of_one_size_first(matching_engines(bundle, precision, rig))),
      limits_(engines_, bundle.manifest().latents) {}

std::string EngineSelection::hashes() const {
  std::string text;
  for (const Engine& engine : engines_) text += (text.empty() ? "" : " ") + engine.sha256;
  return text;
}

EngineSelection::Choice EngineSelection::choose(const std::vector<Input>& inputs) const {
  std::vector<const Input*> least;
  const Engine* nearest = nullptr;
  const Profile* bounds = nullptr;
  for (std::size_t i = 0; i < engines_.size(); ++i) {
    for (std::size_t k = 0; k < engines_[i].profiles.size(); ++k) {
      std::vector<const Input*> wrong = outside(engines_[i].profiles[k], inputs);
      if (wrong.empty()) return {i, k};
      if (nearest == nullptr || wrong.size() < least.size()) {
        least = std::move(wrong), nearest = &engines_[i], bounds = &engines_[i].profiles[k];
      }
    }
  }
  std::string reasons;
  for (const Input* input : least) {
    const Range& range = bounds->at(input->name);
    reasons += (reasons.empty() ? "" : "; ") + input->name + " is " + joined(sizes_of(*input)) +
               ", it takes " + joined(range.min) + " to " + joined(range.max);
  }
  refuse("no engine takes these sizes; nearest is " + nearest->name() + ": " + reasons +
         "; build an engine whose profile takes them");
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
