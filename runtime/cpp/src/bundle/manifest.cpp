#include "bundle/manifest.hpp"

#include <cmath>
#include <limits>
#include <set>

#include "upscaling/geometry.hpp"

namespace flowsr {

using namespace detail;

namespace {

constexpr int64_t kSchema = 1;
constexpr int64_t kLargest = int64_t{1} << 24;  // of what is counted in pixels or channels
constexpr int64_t kAnyBytes = std::numeric_limits<int64_t>::max();

/// Reads the keys of a manifest; names of keys are paths with dots.
class Keys {
 public:
  explicit Keys(const Json& root) : root_(root) {}

  const Json& get(const string& key) const {
    const Json* value = &root_;
    for (size_t begin = 0; begin <= key.size();) {
      const size_t end = std::min(key.find('.', begin), key.size());
      value = step(*value, key.substr(begin, end - begin));
      if (value == nullptr) refuse("bundle.json lacks " + key);
      begin = end + 1;
    }
    return *value;
  }

  int64_t whole(const string& key, int64_t least, int64_t most = kLargest) const {
    const Json& value = get(key);
    const auto number = value.whole();
    if (!number || *number < least) {
      refuse(key + " in bundle.json must be a whole number of at least " +
             std::to_string(least) + ", got " + value.shown());
    }
    if (*number > most) {
      refuse(key + " in bundle.json must be at most " + std::to_string(most) + ", got " +
             value.shown());
    }
    return *number;
  }

  double real(const string& key) const {
    const Json& value = get(key);
    const auto number = value.real();
    if (!number || *number < 0) {
      refuse(key + " in bundle.json must be a number of at least 0, got " + value.shown());
    }
    return *number;
  }

  bool flag(const string& key) const {
    const Json& value = get(key);
    if (!value.is(Json::Kind::boolean)) {
      refuse(key + " in bundle.json must be true or false, got " + value.shown());
    }
    return value.boolean();
  }

  string text(const string& key) const {
    const Json& value = get(key);
    if (!value.is(Json::Kind::string)) {
      refuse(key + " in bundle.json must be a string, got " + value.shown());
    }
    return value.text();
  }

 private:
  static const Json* step(const Json& value, const string& part) {
    if (!value.is(Json::Kind::array)) return value.find(part);
    const bool number =
        !part.empty() && part.find_first_not_of("0123456789") == string::npos;
    const size_t index = number ? std::stoul(part) : value.items().size();
    return index < value.items().size() ? &value.items()[index] : nullptr;
  }

  const Json& root_;
};

std::optional<Scale> scale_of(const Keys& keys) {
  const Json& kind = keys.get("scale.kind");
  const string name = kind.is(Json::Kind::string) ? kind.text() : "";
  if (name == "any") return std::nullopt;
  if (name != "fixed") {
    refuse("scale.kind in bundle.json must be any or fixed, got " + kind.shown());
  }
  const string value = keys.text("scale.value");
  try {
    return Scale(value);
  } catch (const Error& error) {
    refuse(string("scale.value in bundle.json: ") + error.what());
  }
}

bool is_eight_bit(const Keys& keys) {
  const Json* io = keys.get("picture").find("io");
  if (io == nullptr) return false;
  const string name = io->is(Json::Kind::string) ? io->text() : "";
  if (name != "float32" && name != "uint8") {
    refuse("picture.io in bundle.json must be float32 or uint8, got " + io->shown());
  }
  return name == "uint8";
}

bool is_guarded(const Json& root, const Keys& keys) {
  return root.find("guard") != nullptr && keys.flag("guard");
}

vector<Latent> latents_of(const Keys& keys, const string& list = "latents") {
  const Json& listed = keys.get(list);
  if (!listed.is(Json::Kind::array)) {
    refuse(list + " in bundle.json must be a list, got " + listed.shown());
  }
  vector<Latent> latents;
  std::set<string> names = {"input", "geometry"};
  for (size_t i = 0; i < listed.items().size(); ++i) {
    const string key = list + "." + std::to_string(i);
    latents.push_back({keys.text(key + ".name"), keys.whole(key + ".channels", 1),
                       keys.whole(key + ".patch", 1)});
    if (!names.insert(latents.back().name).second) {
      refuse(list + " in bundle.json must have names of their own, got " +
             latents.back().name);
    }
  }
  return latents;
}

Halo halo_of(const Keys& keys, const string& kind) {
  Halo halo;
  halo.patch = keys.whole("tiling.patch", 1);
  halo.align = keys.whole("tiling.align", 1);
  if (halo.align % halo.patch != 0) {
    refuse("tiling.align in bundle.json must be a multiple of the patch " +
           std::to_string(halo.patch) + ", got " + std::to_string(halo.align));
  }
  if (!keys.get("tiling.ratio").is(Json::Kind::null)) {
    halo.ratio = keys.whole("tiling.ratio", 1);
  }
  halo.patches = keys.whole("tiling." + kind + "_patches", 0);
  if (halo.ratio && halo.patches > 0) {
    refuse("tiling." + kind + "_patches in bundle.json must be 0 with a ratio, got " +
           std::to_string(halo.patches));
  }
  halo.lr_align = keys.whole("tiling.lr_align", 1);
  halo.pixels = keys.whole("tiling." + kind + "_pixels", 0);
  return halo;
}

Memory memory_of(const Keys& keys) {
  Memory memory;
  memory.base_bytes = keys.real("memory.base_bytes");
  memory.bytes_per_pixel = keys.real("memory.bytes_per_pixel");
  memory.bytes_per_patch = keys.real("memory.bytes_per_patch");
  if (keys.get("memory").find("budget_bytes") != nullptr) {
    memory.budget_bytes = keys.whole("memory.budget_bytes", 1, kAnyBytes);
  }
  return memory;
}

/// Returns whether a name is a canonical path inside the bundle.
bool is_inside(const string& name) {
  if (name.find('\\') != string::npos || name.find('\0') != string::npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const string part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

FileEntry file_entry(const string& name, const Json& entry) {
  if (!is_inside(name) || name == "bundle.json") {
    refuse("file name in bundle.json must lie inside the bundle, got " + name);
  }
  if (!entry.is(Json::Kind::object)) {
    refuse("file " + name + " in bundle.json must be an object, got " + entry.shown());
  }
  const Json* digest = entry.find("sha256");
  if (digest == nullptr || !digest->is(Json::Kind::string) || digest->text().size() != 64) {
    refuse("sha256 of " + name + " in bundle.json must be 64 digits");
  }
  FileEntry result;
  result.sha256 = digest->text();
  for (char& c : result.sha256) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  const Json* precision = entry.find("precision");
  if (precision != nullptr && !precision->is(Json::Kind::null)) {
    if (!precision->is(Json::Kind::string)) {
      refuse("precision of " + name + " must be a string, got " + precision->shown());
    }
    result.precision = precision->text();
  }
  const Json* bytes = entry.find("bytes");
  const auto number = bytes == nullptr ? std::nullopt : bytes->whole();
  if (!number || *number < 0) {
    refuse("bytes of " + name + " in bundle.json must be a whole number");
  }
  result.bytes = *number;
  return result;
}

/// Refuses a file that is not listed, or that readers take for the graph of any size.
void check_listed(const string& key, const string& name, const Manifest& manifest) {
  const auto entry = manifest.files.find(name);
  const size_t stem = name.size() < 5 ? 0 : name.size() - 5;
  if (entry == manifest.files.end() || entry->second.precision ||
      name.substr(stem) != ".onnx") {
    refuse(key + " in bundle.json must be an ONNX file of files, which has no precision there, "
           "got '" + name + "'");
  }
}

SizeFixedGraph graph_of(const Keys& keys, const string& key, const Manifest& manifest) {
  SizeFixedGraph graph;
  graph.file = keys.text(key + ".file");
  graph.precision = keys.text(key + ".precision");
  const string scale = keys.text(key + ".scale");
  const Json& size = keys.get(key + ".lr_size");
  if (!size.is(Json::Kind::array) || size.items().size() != 2) {
    refuse(key + ".lr_size in bundle.json must be a list of height and width, got " +
           size.shown());
  }
  graph.source = {keys.whole(key + ".lr_size.0", 1, kMaxSide),
                  keys.whole(key + ".lr_size.1", 1, kMaxSide)};
  graph.batch = keys.whole(key + ".batch", 1);
  check_listed(key + ".file", graph.file, manifest);
  try {
    graph.target = scaled_size(graph.source, Scale(scale));
    if (manifest.scale && graph.target != scaled_size(graph.source, *manifest.scale)) {
      refuse(key + ".scale in bundle.json must be the scale " + manifest.scale->text() +
             ", got " + scale);
    }
  } catch (const Error& error) {
    if (error.code() == Code::bundle) throw;
    refuse(key + ".scale in bundle.json: " + error.what());
  }
  if (graph.source.height % manifest.multiple != 0 ||
      graph.source.width % manifest.multiple != 0) {
    refuse(key + ".lr_size in bundle.json must be multiples of " +
           std::to_string(manifest.multiple) + ", got " + size.shown());
  }
  return graph;
}

vector<SizeFixedGraph> graphs_of(const Json& root, const Keys& keys, const Manifest& manifest) {
  const Json* listed = root.find("graphs");
  if (listed == nullptr) return {};
  if (!listed->is(Json::Kind::array)) {
    refuse("graphs in bundle.json must be a list, got " + listed->shown());
  }
  vector<SizeFixedGraph> graphs;
  for (size_t i = 0; i < listed->items().size(); ++i) {
    graphs.push_back(graph_of(keys, "graphs." + std::to_string(i), manifest));
    const SizeFixedGraph& last = graphs.back();
    for (size_t j = 0; j < i; ++j) {
      const SizeFixedGraph& one = graphs[j];
      if (one.precision == last.precision && one.source == last.source &&
          one.target == last.target && one.batch == last.batch) {
        refuse("graphs in bundle.json must be of different precision, scale, size or batch, "
               "got '" + one.file + "' and '" + last.file + "'");
      }
    }
  }
  return graphs;
}

/// Returns the name of an ONNX file that readers do not take for the graph of any size.
string further_file(const Keys& keys, const string& key, const Manifest& manifest) {
  const string name = keys.text(key);
  check_listed(key, name, manifest);
  return name;
}

vector<StageGraphs> stages_of(const Json& root, const Keys& keys, const Manifest& manifest) {
  const Json* listed = root.find("stages");
  if (listed == nullptr) return {};
  if (!listed->is(Json::Kind::array)) {
    refuse("stages in bundle.json must be a list, got " + listed->shown());
  }
  vector<StageGraphs> stages;
  for (size_t i = 0; i < listed->items().size(); ++i) {
    const string key = "stages." + std::to_string(i);
    StageGraphs pair;
    pair.precision = keys.text(key + ".precision");
    pair.features = further_file(keys, key + ".features", manifest);
    pair.query = further_file(keys, key + ".query", manifest);
    for (const StageGraphs& one : stages) {
      if (one.precision != pair.precision) continue;
      refuse("stages in bundle.json must be of different precision, got " + pair.precision +
             " twice");
    }
    stages.push_back(pair);
  }
  if (!stages.empty() && (!manifest.geometry || manifest.eight_bit)) {
    refuse("stages in bundle.json must be absent without geometry or with uint8 images, got " +
           std::to_string(stages.size()));
  }
  return stages;
}

std::optional<LatentGraphs> latent_graphs_of(const Json& root, const Keys& keys,
                                             const Manifest& manifest) {
  if (root.find("latent_graphs") == nullptr) return std::nullopt;
  const string key = "latent_graphs", patch = key + ".patch";
  LatentGraphs graphs;
  const bool mixes = !keys.get(key + ".sample").is(Json::Kind::null);
  graphs.encode = further_file(keys, key + ".encode", manifest);
  if (mixes) graphs.sample = further_file(keys, key + ".sample", manifest);
  if (keys.get(key).find("latents") != nullptr) {
    graphs.latents = latents_of(keys, key + ".latents");
    if (graphs.latents.empty()) refuse(key + ".latents in bundle.json must be at least one, got []");
  } else {
    graphs.latents = {{"latent", keys.whole(key + ".channels", 1), keys.whole(patch, 1)}};
  }
  if (manifest.whole_only || manifest.eight_bit) {
    refuse(key + " in bundle.json must be absent from a graph of whole images or with uint8 "
           "images, got '" + graphs.encode + "'");
  }
  if (mixes != manifest.latents.empty()) {
    refuse(key + ".sample in bundle.json must be a file in a bundle with a learned prior, and "
           "null in any other, got '" + graphs.sample + "'");
  }
  for (const Latent& latent : graphs.latents) {
    if (manifest.halo.align % latent.patch == 0) continue;
    refuse(patch + " in bundle.json must be a divisor of the alignment " +
           std::to_string(manifest.halo.align) + ", got " + std::to_string(latent.patch));
  }
  return graphs;
}

/// Refuses keys that are valid by themselves but contradict each other.
void check_agreement(const Manifest& manifest) {
  const Halo& halo = manifest.halo;
  if (!manifest.scale && (halo.ratio || manifest.multiple > 1)) {
    refuse("tiling.ratio and picture.multiple in bundle.json need a fixed scale, got any");
  }
  if (halo.ratio && !manifest.scale->equals(*halo.ratio)) {
    refuse("tiling.ratio in bundle.json must be the scale " + manifest.scale->text() +
           ", got " + std::to_string(*halo.ratio));
  }
  if (!halo.ratio && !manifest.geometry && !manifest.whole_only) {
    refuse("tiling.whole_only in bundle.json must be true for a graph that has neither "
           "geometry nor a ratio, got false");
  }
  if (!manifest.scale && !manifest.geometry) {
    refuse("graph.geometry in bundle.json must be true for any scale, got false");
  }
  for (const Latent& latent : manifest.latents) {
    if (halo.align % latent.patch != 0) {
      refuse("tiling.align in bundle.json must be a multiple of the patch " +
             std::to_string(latent.patch) + " of " + latent.name + ", got " +
             std::to_string(halo.align));
    }
  }
  const int64_t step = halo.ratio.value_or(1) * manifest.multiple;
  if (halo.align % step != 0) {
    refuse("tiling.align in bundle.json must be a multiple of " + std::to_string(step) +
           ", the ratio times the picture's multiple, got " + std::to_string(halo.align));
  }
}

}  // namespace

[[noreturn]] void detail::refuse(const string& message) { throw Error(Code::bundle, message); }

Manifest detail::manifest_of(const Json& root) {
  if (!root.is(Json::Kind::object)) refuse("bundle.json must hold an object");
  const Keys keys(root);
  const int64_t schema = keys.whole("schema", 1, kAnyBytes);
  if (schema > kSchema) {
    refuse("bundle schema " + std::to_string(schema) + " is newer than this runtime reads (" +
           std::to_string(kSchema) + "); upgrade flowsr");
  }
  Manifest manifest;
  manifest.family = keys.text("family");
  manifest.scale = scale_of(keys);
  manifest.multiple = keys.whole("picture.multiple", 1);
  manifest.eight_bit = is_eight_bit(keys);
  manifest.guard = is_guarded(root, keys);
  manifest.geometry = keys.flag("graph.geometry");
  manifest.latents = latents_of(keys);
  manifest.halo = halo_of(keys, "halo");
  manifest.exact = halo_of(keys, "exact");
  if (!keys.get("tiling.seam_steps").is(Json::Kind::null)) keys.real("tiling.seam_steps");
  manifest.whole_only = keys.flag("tiling.whole_only");
  manifest.memory = memory_of(keys);
  const Json& files = keys.get("files");
  if (!files.is(Json::Kind::object)) refuse("files in bundle.json must be an object");
  for (const auto& [name, entry] : files.members()) {
    manifest.files.emplace(name, file_entry(name, entry));
  }
  check_agreement(manifest);
  manifest.graphs = graphs_of(root, keys, manifest);
  manifest.stages = stages_of(root, keys, manifest);
  manifest.latent_graphs = latent_graphs_of(root, keys, manifest);
  return manifest;
}

int64_t Memory::estimate(int64_t pixels, int64_t patches) const {
  const double growth = static_cast<double>(pixels) * bytes_per_pixel +
                        static_cast<double>(patches) * bytes_per_patch;
  const double bytes = std::ceil(base_bytes + growth);
  // 2^63 and above are more than any machine has.
  return bytes < 9.2e18 ? static_cast<int64_t>(bytes) : std::numeric_limits<int64_t>::max();
}

}  // namespace flowsr
