// The runtime of flowsr-lp in C++. Its sections follow the modules of Python's flowsr_runtime:
// scale, manifest, bundle, geometry, tiling, noise, pixels, channels, explosion, enlargement,
// upscaler.
// A backend is a source of its own, because it alone needs its library's headers.

#include "flowsr/flowsr.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <thread>
#include <type_traits>

#if defined(__linux__)
#include <sched.h>
#endif

#include "json.hpp"
#include "session.hpp"
#include "sha256.hpp"

namespace flowsr {

using detail::Input;
using detail::Json;
using detail::Kind;
using detail::Limits;
using detail::Output;
using detail::Session;
using detail::Takers;
using std::int64_t;
using std::size_t;
using std::string;
using std::vector;

namespace {

string text_of(Size size) {
  return std::to_string(size.height) + "x" + std::to_string(size.width);
}

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

int64_t floor_div(int64_t value, int64_t by) {
  return value / by - (value % by < 0 ? 1 : 0);
}

int64_t floor_to(int64_t value, int64_t step) { return floor_div(value, step) * step; }

template <class... Values>
string formatted(const char* form, Values... values) {
  char buffer[128];
  std::snprintf(buffer, sizeof buffer, form, values...);
  return buffer;
}

}  // namespace

// ---------------------------------------------------------------------------------------------
// Scale: decimals and fractions of any length, exact.

namespace {

using Words = vector<std::uint32_t>;

constexpr std::uint32_t kWord = 1000000000;
constexpr size_t kLongestScale = 1000;  // characters

void trim(Words& words) {
  while (!words.empty() && words.back() == 0) words.pop_back();
}

Words words_of(const string& digits) {
  Words words;
  for (size_t end = digits.size(); end > 0;) {
    const size_t begin = end > 9 ? end - 9 : 0;
    words.push_back(static_cast<std::uint32_t>(std::stoul(digits.substr(begin, end - begin))));
    end = begin;
  }
  trim(words);
  return words;
}

/// Returns words times a number below 2^32.
Words times(const Words& words, int64_t factor) {
  Words result;
  std::uint64_t carry = 0;
  for (const std::uint32_t word : words) {
    carry += std::uint64_t{word} * static_cast<std::uint64_t>(factor);
    result.push_back(static_cast<std::uint32_t>(carry % kWord));
    carry /= kWord;
  }
  for (; carry > 0; carry /= kWord) result.push_back(static_cast<std::uint32_t>(carry % kWord));
  trim(result);
  return result;
}

Words plus(const Words& a, const Words& b) {
  Words result;
  std::uint32_t carry = 0;
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    carry += (i < a.size() ? a[i] : 0) + (i < b.size() ? b[i] : 0);
    result.push_back(carry % kWord);
    carry /= kWord;
  }
  if (carry > 0) result.push_back(carry);
  return result;
}

bool at_most(const Words& a, const Words& b) {
  if (a.size() != b.size()) return a.size() < b.size();
  return !std::lexicographical_compare(b.rbegin(), b.rend(), a.rbegin(), a.rend());
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Returns whether a text holds a power of ten with three digits, which could fill the memory.
bool has_long_power(const string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != 'e' && text[i] != 'E') continue;
    size_t at = i + 1;
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
    while (at < text.size() && text[at] == '0') ++at;
    const size_t begin = at;
    while (at < text.size() && is_digit(text[at])) ++at;
    if (at - begin >= 3) return true;
  }
  return false;
}

/// A number as it is written: sign, digits around the point, what it is divided by, power.
struct Spelling {
  bool negative = false;
  string whole, decimals, divisor;
  int power = 0;
};

/// Reads what Python's Fraction reads, without underscores. Returns false for anything else.
bool read_number(const string& text, Spelling& result) {
  const char* spaces = " \t\n\r\f\v";
  size_t at = text.find_first_not_of(spaces);
  if (at == string::npos || text.size() > kLongestScale) return false;
  const size_t end = text.find_last_not_of(spaces) + 1;
  const auto peek = [&] { return at < end ? text[at] : '\0'; };
  const auto digits = [&] {
    const size_t begin = at;
    while (is_digit(peek())) ++at;
    return text.substr(begin, at - begin);
  };
  if (peek() == '+' || peek() == '-') result.negative = text[at++] == '-';
  result.whole = digits();
  if (peek() == '/' && !result.whole.empty()) {
    ++at;
    result.divisor = digits();
    return at == end && !result.divisor.empty();
  }
  if (peek() == '.') ++at, result.decimals = digits();
  if (result.whole.empty() && result.decimals.empty()) return false;
  if (peek() == 'e' || peek() == 'E') {
    ++at;
    const bool down = peek() == '-';
    if (down || peek() == '+') ++at;
    const string power = digits();
    if (power.empty()) return false;
    const size_t first = std::min(power.find_first_not_of('0'), power.size() - 1);
    result.power = std::stoi(power.substr(first)) * (down ? -1 : 1);
  }
  return at == end;
}

string shortest(double value) {
  char buffer[64];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);
  (void)error;  // every double fits
  return string(buffer, end);
}

}  // namespace

Scale::Scale(const string& text) : text_(text) {
  if (has_long_power(text)) {
    throw Error(Code::usage, "scale must be from 1 to " + std::to_string(kMaxSide) + ", got " +
                                 detail::one_line(text));
  }
  Spelling number;
  const bool read = read_number(text, number);
  const string zeros(static_cast<size_t>(std::abs(number.power)), '0');
  numerator_ = words_of(number.whole + number.decimals + (number.power > 0 ? zeros : ""));
  denominator_ = number.divisor.empty()
                     ? words_of("1" + string(number.decimals.size(), '0') +
                                (number.power < 0 ? zeros : ""))
                     : words_of(number.divisor);
  if (!read || denominator_.empty()) {
    throw Error(Code::usage,
                "scale must be a finite number, got " + detail::one_line(text));
  }
  if (number.negative || !at_most(denominator_, numerator_)) {
    throw Error(Code::usage, "scale must be at least 1, got " + detail::one_line(text));
  }
}

Scale::Scale(double value) : Scale(shortest(value)) {}

int64_t Scale::output_size(int64_t pixels) const {
  if (pixels < 1) {
    throw Error(Code::usage, "pixels must be at least 1, got " + std::to_string(pixels));
  }
  // The largest n with 2 n denominator <= 2 pixels numerator + denominator.
  int64_t low = 0, high = kMaxSide + 1;
  if (pixels <= kMaxSide) {
    const Words most = plus(times(numerator_, 2 * pixels), denominator_);
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (at_most(times(denominator_, 2 * middle), most)) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
  } else {
    low = high;
  }
  if (low > kMaxSide) {
    throw Error(Code::usage, "output sides must be at most " + std::to_string(kMaxSide) +
                                 " pixels, got more for " + std::to_string(pixels) +
                                 " at scale " + detail::one_line(text_));
  }
  return low;
}

bool Scale::equals(int64_t whole) const { return times(denominator_, whole) == numerator_; }

// ---------------------------------------------------------------------------------------------
// Manifest: bundle.json, schema 1, checked and typed.

namespace {

constexpr int64_t kSchema = 1;
constexpr int64_t kLargest = int64_t{1} << 24;  // of what is counted in pixels or channels
constexpr int64_t kAnyBytes = std::numeric_limits<int64_t>::max();

[[noreturn]] void refuse(const string& message) { throw Error(Code::bundle, message); }

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
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(), is_digit);
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

vector<Latent> latents_of(const Keys& keys) {
  const Json& listed = keys.get("latents");
  if (!listed.is(Json::Kind::array)) {
    refuse("latents in bundle.json must be a list, got " + listed.shown());
  }
  vector<Latent> latents;
  std::set<string> names = {"input", "geometry"};
  for (size_t i = 0; i < listed.items().size(); ++i) {
    const string key = "latents." + std::to_string(i);
    latents.push_back({keys.text(key + ".name"), keys.whole(key + ".channels", 1),
                       keys.whole(key + ".patch", 1)});
    if (!names.insert(latents.back().name).second) {
      refuse("latents in bundle.json must have names of their own, got " +
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

/// Returns whether a name is a path inside the bundle, spelt in the one way.
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

/// Refuses keys that are right each by itself but cannot be true together.
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

Manifest manifest_of(const Json& root) {
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
  return manifest;
}

}  // namespace

int64_t Memory::estimate(int64_t pixels, int64_t patches) const {
  const double growth = static_cast<double>(pixels) * bytes_per_pixel +
                        static_cast<double>(patches) * bytes_per_patch;
  const double bytes = std::ceil(base_bytes + growth);
  // 2^63 and above are more than any machine has.
  return bytes < 9.2e18 ? static_cast<int64_t>(bytes) : std::numeric_limits<int64_t>::max();
}

// ---------------------------------------------------------------------------------------------
// Bundle: the directory that holds a model, its manifest and its test pictures.

string detail::read_file(const string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || std::filesystem::is_directory(path)) refuse(path + " cannot be read");
  string data(static_cast<size_t>(file.tellg()), '\0');
  file.seekg(0);
  file.read(data.data(), static_cast<std::streamsize>(data.size()));
  if (!file) refuse(path + " cannot be read");
  return data;
}

Bundle::Bundle(string path, Manifest manifest)
    : path_(std::move(path)), manifest_(std::move(manifest)) {}

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
    return Bundle(path, manifest_of(Json::parse(detail::read_file(name))));
  } catch (const detail::JsonError& error) {
    refuse(name + " is not valid JSON: " + error.what());
  }
}

string Bundle::read(const string& name) const {
  const auto entry = manifest_.files.find(name);
  if (entry == manifest_.files.end()) refuse(path_ + " holds no " + name);
  const string path = path_ + "/" + name;
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) refuse(path + " cannot be read: " + error.message());
  const auto wanted = static_cast<std::uintmax_t>(entry->second.bytes);
  const string data = size == wanted ? detail::read_file(path) : "";
  if (size != wanted || data.size() != wanted) {
    refuse(path + " is damaged: " + std::to_string(size) + " bytes, bundle.json says " +
           std::to_string(wanted));
  }
  const string digest = detail::sha256(data);
  if (digest != entry->second.sha256) {
    refuse(path + " is damaged: sha256 " + digest.substr(0, 12) + "…, bundle.json says " +
           entry->second.sha256.substr(0, 12) + "…");
  }
  return data;
}

string Bundle::model_name(const string& precision) const {
  vector<string> names;
  std::set<string> there;
  for (const auto& [name, entry] : manifest_.files) {
    const bool model = name.size() >= 5 && name.compare(name.size() - 5, 5, ".onnx") == 0;
    if (!model || !entry.precision) continue;
    there.insert(*entry.precision);
    if (*entry.precision == precision) names.push_back(name);
  }
  if (names.empty()) {
    string all;
    for (const string& each : there) all += (all.empty() ? "" : ", ") + each;
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

// ---------------------------------------------------------------------------------------------
// Geometry: output sizes, and which input pixels a window of the output needs.

namespace {

void check_source(Size source) {
  const int64_t least = std::min(source.height, source.width);
  const int64_t most = std::max(source.height, source.width);
  if (least < 1 || most > kMaxSide) {
    throw Error(Code::usage, "picture sides must be from 1 to " + std::to_string(kMaxSide) +
                                 ", got " + text_of(source));
  }
}

Size enlarged(Size source, const Scale& scale) {
  return {scale.output_size(source.height), scale.output_size(source.width)};
}

Size checked_size(Size source, Size size) {
  if (size.height < source.height || size.width < source.width) {
    throw Error(Code::usage, "size must be at least the picture's " + text_of(source) +
                                 ", got " + text_of(size));
  }
  if (std::max(size.height, size.width) > kMaxSide) {
    throw Error(Code::usage, "output sides must be at most " + std::to_string(kMaxSide) +
                                 " pixels, got " + text_of(size));
  }
  return size;
}

/// Returns the size that is asked for, none where nothing is.
std::optional<Size> wished(Size source, const Target& target) {
  if (const auto* size = std::get_if<Size>(&target.wish())) return checked_size(source, *size);
  if (const auto* scales = std::get_if<Scales>(&target.wish())) {
    return Size{scales->rows.output_size(source.height),
                scales->columns.output_size(source.width)};
  }
  return std::nullopt;
}

Size padded_size(Size source, int64_t multiple) {
  return {ceil_div(source.height, multiple) * multiple,
          ceil_div(source.width, multiple) * multiple};
}

/// Returns the input pixel before the middle of an output pixel (spec: query geometry).
int64_t neighbour(int64_t row, int64_t source, int64_t target) {
  return floor_div((2 * row + 1) * source - target, 2 * target);
}

Extent whole_extent(int64_t source, int64_t target) {
  return {source, target, 0, source, 0, target};
}

/// Returns what must be computed so that output pixels [begin, end) come out right.
Extent extent_around(int64_t begin, int64_t end, int64_t source, int64_t target,
                     const Halo& halo) {
  if (halo.ratio) {
    const int64_t margin = halo.pixels * *halo.ratio;
    const int64_t first = floor_to(std::max<int64_t>(0, begin - margin), halo.align);
    const int64_t last = std::min(target, -floor_to(-(end + margin), halo.align));
    return {source, target, first / *halo.ratio, last / *halo.ratio, first, last};
  }
  const int64_t margin = halo.patches * halo.patch;
  const int64_t out_begin = floor_to(std::max<int64_t>(0, begin - margin), halo.align);
  const int64_t out_end = std::min(target, end + margin);
  const int64_t first = neighbour(out_begin, source, target) - halo.pixels;
  const int64_t last = neighbour(out_end - 1, source, target) + 1 + halo.pixels;
  const int64_t lr_begin = floor_to(std::max<int64_t>(0, first), halo.lr_align);
  return {source, target, lr_begin, std::min(source, last + 1), out_begin, out_end};
}

/// Returns the graph's `geometry` input.
vector<int64_t> geometry_of(const Extent& rows, const Extent& columns) {
  return {rows.source,    columns.source,    rows.target,    columns.target,
          rows.lr_begin,  columns.lr_begin,  rows.out_begin, columns.out_begin,
          rows.out_size(), columns.out_size()};
}

}  // namespace

Size Bundle::target(Size source, const Target& target) const {
  check_source(source);
  const std::optional<Size> wanted = wished(source, target);
  if (!manifest_.scale) {
    if (!wanted) throw Error(Code::usage, "give exactly one of scale and size");
    return *wanted;
  }
  const Size made = enlarged(source, *manifest_.scale);
  if (wanted && *wanted != made) {
    throw Error(Code::usage, "this model enlarges " + manifest_.scale->text() +
                                 " times only, got " + text_of(*wanted) + " for " +
                                 text_of(source) +
                                 "; flowsr-export upscale --resample reaches any other size");
  }
  return made;
}

// ---------------------------------------------------------------------------------------------
// Tiling: the fewest tiles that fit a memory budget.

namespace {

constexpr int64_t kDefaultBudget = int64_t{1} << 30;

/// Cuts one axis, from an aligned output pixel on, into pieces of nearly equal size.
vector<Piece> pieces_of(int64_t source, int64_t target, int64_t count, const Halo& halo,
                        int64_t fade, int64_t begin) {
  if (count == 1 && begin == 0) return {{whole_extent(source, target), 0, target, 0, 0}};
  const int64_t units = ceil_div(target - begin, halo.align);
  const auto beginning = [&](int64_t i) {
    return i < count ? begin + halo.align * (i * units / count) : target;
  };
  vector<Piece> pieces;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = beginning(i), after = beginning(i + 1);
    const int64_t end = std::min(target, after + fade);
    pieces.push_back({extent_around(first, end, source, target, halo), first, end,
                      first > 0 ? std::min(fade, target - first) : 0, end - after});
  }
  return pieces;
}

/// One axis cut into pieces, and what decides between such cuts.
struct Cut {
  vector<Piece> pieces;
  int64_t pixels = 0, patches = 0;  // of the largest piece
  int64_t total_pixels = 0, total_patches = 0;
  Takers takers;
};

/// Returns whether the session takes every tile of two cuts.
bool is_taken(const Cut& row, const Cut& column) {
  for (const vector<bool>& above : row.takers) {
    for (const vector<bool>& beside : column.takers) {
      bool common = false;
      for (size_t i = 0; i < above.size(); ++i) common = common || (above[i] && beside[i]);
      if (!common) return false;
    }
  }
  return true;
}

/// Returns the output pixels of the largest tile without its halo, as in 512x384.
string largest(const Plan& plan) {
  Size size;
  for (const Piece& row : plan.rows) size.height = std::max(size.height, row.end - row.begin);
  for (const Piece& column : plan.columns) {
    size.width = std::max(size.width, column.end - column.begin);
  }
  return text_of(size);
}

/// Chooses the cheapest tiles of one picture that fit in memory: those that compute the least
/// in all, halos included, which favours few, large and nearly square ones.
class Cutter {
 public:
  Cutter(const Manifest& manifest, HaloKind kind, const Limits* limits, Size source,
         Size target)
      : source_(source), target_(target), kind_(kind),
        halo_(kind == HaloKind::exact ? manifest.exact : manifest.halo),
        memory_(manifest.memory), whole_only_(manifest.whole_only), limits_(limits),
        // Tiles with an exact halo agree to float rounding: there is nothing to blend.
        fade_(kind == HaloKind::exact ? 0 : halo_.align) {
    if (!manifest.scale) return;
    source_ = padded_size(source, manifest.multiple);
    target_ = enlarged(source_, *manifest.scale);
  }

  /// Chooses tiles for output rows from `top` on, where a piece of an earlier plan begins.
  Plan plan(int64_t budget, int64_t top = 0) const {
    if (top == 0) {
      const Cut row = cut(0, 1, 0), column = cut(1, 1, 0);
      const int64_t needed = run_bytes(row, column);
      if (needed <= budget && is_taken(row, column)) return plan_of(row, column);
      if (whole_only_) refuse_whole(needed, budget);
    }
    const vector<Cut> rows = cuts(0, top), columns = cuts(1, 0);
    const Cut *best_row = nullptr, *best_column = nullptr;
    for (const Cut& row : rows) {
      // Work grows with the number of pieces: the first cut that fits is the best.
      const auto column = std::find_if(columns.begin(), columns.end(), [&](const Cut& each) {
        return run_bytes(row, each) <= budget && is_taken(row, each);
      });
      if (column == columns.end()) continue;
      if (best_row == nullptr || work(row, *column) < work(*best_row, *best_column)) {
        best_row = &row, best_column = &*column;
      }
    }
    if (best_row != nullptr) return plan_of(*best_row, *best_column);
    const int64_t needed = least(rows, columns);
    if (needed <= budget) refuse_untaken(budget);
    throw Error(Code::memory, "memory budget must be at least " + std::to_string(needed) +
                                  " bytes for " + text_of(source_) + " to " +
                                  text_of(target_) + ", got " + std::to_string(budget));
  }

  /// Chooses tiles of about half the memory for what is left of a picture. Throws (memory) if
  /// there are no smaller ones.
  Plan smaller(const Plan& plan, int64_t top) const {
    const int64_t had = plan.run_bytes;
    const int64_t needed = whole_only_ ? had : least(cuts(0, top), cuts(1, 0));
    if (needed >= had) {
      throw Error(Code::memory, "there are no tiles smaller than " + largest(plan));
    }
    return this->plan(std::max(had - had / 2, needed), top);
  }

 private:
  Cut cut(int axis, int64_t count, int64_t begin) const {
    const int64_t source = axis == 0 ? source_.height : source_.width;
    const int64_t target = axis == 0 ? target_.height : target_.width;
    Cut result;
    result.pieces = pieces_of(source, target, count, halo_, fade_, begin);
    for (const Piece& piece : result.pieces) {
      const int64_t pixels = piece.extent.lr_size();
      const int64_t patches = ceil_div(piece.extent.out_size(), halo_.patch);
      result.pixels = std::max(result.pixels, pixels);
      result.patches = std::max(result.patches, patches);
      result.total_pixels += pixels;
      result.total_patches += patches;
    }
    result.takers =
        limits_ == nullptr ? Takers{{true}} : limits_->takers(axis, result.pieces);
    return result;
  }

  /// Returns one cut for every largest size that a piece can have, the largest first.
  vector<Cut> cuts(int axis, int64_t begin) const {
    const int64_t target = axis == 0 ? target_.height : target_.width;
    const int64_t units = ceil_div(target - begin, halo_.align);
    std::set<int64_t> counts;
    for (int64_t size = 1; size <= units; ++size) counts.insert(ceil_div(units, size));
    vector<Cut> result;
    for (const int64_t count : counts) result.push_back(cut(axis, count, begin));
    return result;
  }

  int64_t run_bytes(const Cut& row, const Cut& column) const {
    return memory_.estimate(row.pixels * column.pixels, row.patches * column.patches);
  }

  int64_t least(const vector<Cut>& rows, const vector<Cut>& columns) const {
    int64_t result = std::numeric_limits<int64_t>::max();
    for (const Cut& row : rows) {
      for (const Cut& column : columns) result = std::min(result, run_bytes(row, column));
    }
    return result;
  }

  double work(const Cut& row, const Cut& column) const {
    const auto pixels = static_cast<double>(row.total_pixels * column.total_pixels);
    const auto patches = static_cast<double>(row.total_patches * column.total_patches);
    return pixels * memory_.bytes_per_pixel + patches * memory_.bytes_per_patch;
  }

  Plan plan_of(const Cut& row, const Cut& column) const {
    return {row.pieces, column.pieces, run_bytes(row, column)};
  }

  [[noreturn]] void refuse_whole(int64_t needed, int64_t budget) const {
    if (needed <= budget) refuse_untaken(budget);
    throw Error(Code::memory, "the model computes whole pictures only; the memory budget must "
                              "be at least " + std::to_string(needed) + " bytes for " +
                                  text_of(source_) + ", got " + std::to_string(budget));
  }

  [[noreturn]] void refuse_untaken(int64_t budget) const {
    refuse("no engine takes " + text_of(source_) + " to " + text_of(target_) +
           ", whole or in tiles; build one that does: " +
           limits_->remedy(source_, target_, budget, kind_));
  }

  Size source_, target_;  // of a bundle of one scale, those of the padded picture
  HaloKind kind_;
  const Halo& halo_;
  const Memory& memory_;
  bool whole_only_;
  const Limits* limits_;
  int64_t fade_;
};

/// Returns the bytes that one run may take.
int64_t budget_of(const Manifest& manifest, const Settings& settings) {
  if (settings.memory_budget < 0) {
    throw Error(Code::usage, "memory_budget must be a whole number of bytes above 0, got " +
                                 std::to_string(settings.memory_budget));
  }
  if (settings.memory_budget > 0) return settings.memory_budget;
  return manifest.memory.budget_bytes.value_or(kDefaultBudget);
}

}  // namespace

Plan Bundle::plan(Size source, const Target& target, const Settings& settings) const {
  const Size wanted = this->target(source, target);
  const Cutter cutter(manifest_, settings.halo, nullptr, source, wanted);
  return cutter.plan(budget_of(manifest_, settings));
}

// ---------------------------------------------------------------------------------------------
// Noise: Philox4x32-10 by position (Salmon et al., SC 2011), normal by Box and Muller (1958).

namespace {

/// Returns the first two words of ten rounds.
std::pair<std::uint32_t, std::uint32_t> philox(std::uint32_t x0, std::uint32_t x1,
                                               std::uint32_t x2, std::uint32_t x3,
                                               std::uint64_t seed) {
  auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53} * x0;
    const std::uint64_t second = std::uint64_t{0xCD9E8D57} * x2;
    x0 = static_cast<std::uint32_t>(second >> 32) ^ x1 ^ k0;
    x1 = static_cast<std::uint32_t>(second);
    x2 = static_cast<std::uint32_t>(first >> 32) ^ x3 ^ k1;
    x3 = static_cast<std::uint32_t>(first);
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {x0, x1};
}

void check_temperature(double temperature) {
  if (!(std::isfinite(temperature) && temperature >= 0)) {
    throw Error(Code::usage, "temperature must be finite and at least 0, got " +
                                 formatted("%g", temperature));
  }
}

}  // namespace

void draw_noise(std::uint64_t seed, std::uint32_t stream, int64_t top, int64_t left,
                int64_t rows, int64_t columns, int64_t channels, double temperature,
                float* result) {
  constexpr double kPi = 3.14159265358979323846;
  constexpr double kWords = 4294967296.0;
  check_temperature(temperature);
  if (std::min({top, left, rows, columns, channels}) < 0) {
    throw Error(Code::usage, "a window of noise has no negative sides");
  }
  for (int64_t channel = 0; channel < channels; ++channel) {
    for (int64_t row = top; row < top + rows; ++row) {
      for (int64_t column = left; column < left + columns; ++column) {
        const auto [a, b] =
            philox(static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column),
                   static_cast<std::uint32_t>(channel), stream, seed);
        const double radius = std::sqrt(-2.0 * std::log((a + 1.0) / kWords));
        const double angle = 2.0 * kPi * b / kWords;
        *result++ = static_cast<float>(temperature * (radius * std::cos(angle)));
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Pixels: padded, laid out as the graph takes them, and rounded once.

namespace {

constexpr float scale_of(std::uint8_t) { return 255.0f; }
constexpr float scale_of(std::uint16_t) { return 65535.0f; }

float in_range(std::uint8_t value) { return static_cast<float>(value) / scale_of(value); }
float in_range(std::uint16_t value) { return static_cast<float>(value) / scale_of(value); }
float in_range(float value) { return value; }

/// Refuses a picture that the graph or the request does not go with.
template <class T>
void check_pixels(const T* image, int64_t count, const Manifest& manifest,
                  const Request& request) {
  constexpr bool eight_bit = sizeof(T) == 1;
  if (manifest.eight_bit && !eight_bit) {
    throw Error(Code::usage, "this bundle's graph takes pictures of eight bits; give such, or "
                             "export one with --io float32");
  }
  if (manifest.eight_bit && request.truncate) {
    throw Error(Code::usage, "this bundle's graph rounds by itself and cannot truncate; export "
                             "one with --io float32");
  }
  if (request.truncate && !eight_bit) {
    throw Error(Code::usage, "to cut off in place of rounding is for pictures of eight bits");
  }
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t i = 0; i < count; ++i) {
      if (!(image[i] >= 0 && image[i] <= 1)) {
        throw Error(Code::usage, "float pictures must lie in [0, 1], got a value of " +
                                     formatted("%g", static_cast<double>(image[i])));
      }
    }
  } else if (!request.clamp) {
    throw Error(Code::usage, "only float pictures can go without clamping");
  }
  (void)image, (void)count;
}

/// Returns which pixel of a side lies at a place, reflected beyond the end.
int64_t reflected(int64_t place, int64_t side) {
  if (side == 1) return 0;
  const int64_t period = 2 * (side - 1);
  const int64_t at = place % period;
  return at < side ? at : period - at;
}

/// Copies a tile of a picture, reflected beyond its end, plane by plane.
template <class T, class Convert>
auto planes(const T* image, Size size, const Extent& rows, const Extent& columns,
            Convert convert) {
  vector<decltype(convert(*image))> result(
      static_cast<size_t>(3 * rows.lr_size() * columns.lr_size()));
  auto out = result.begin();
  for (int channel = 0; channel < 3; ++channel) {
    for (int64_t y = rows.lr_begin; y < rows.lr_end; ++y) {
      const T* row = image + reflected(y, size.height) * size.width * 3 + channel;
      for (int64_t x = columns.lr_begin; x < columns.lr_end; ++x) {
        *out++ = convert(row[reflected(x, size.width) * 3]);
      }
    }
  }
  return result;
}

float clamped(float value, bool clamp) {
  return clamp ? std::min(std::max(value, 0.0f), 1.0f) : value;
}

template <class T>
T stored(float value, const Request& request) {
  if constexpr (std::is_same_v<T, float>) {
    return clamped(value, request.clamp);
  } else {
    const float wide = clamped(value, true) * scale_of(T{});
    return static_cast<T>(request.truncate ? wide : wide + 0.5f);
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------------
// Channels: gray goes through the model three times, alpha around it.

namespace {

float luma(const float* rgb) {  // ITU-R BT.601; that of gray is exact
  float gray = (rgb[1] - rgb[0]) * 0.587f;
  gray += (rgb[2] - rgb[0]) * 0.114f;
  return gray + rgb[0];
}

/// Colours multiplied by alpha, and alpha: four floats a pixel.
struct Premultiplied {
  int64_t height, width;
  vector<float> pixels;

  const float* at(int64_t row, int64_t column) const {
    return pixels.data() + (row * width + column) * 4;
  }

  /// Sums of 2x2 blocks over four; what lies beyond the edge counts as 0.
  Premultiplied halved() const {
    Premultiplied result{ceil_div(height, 2), ceil_div(width, 2), {}};
    const float zeros[4] = {0, 0, 0, 0};
    const auto get = [&](int64_t row, int64_t column) {
      return row < height && column < width ? at(row, column) : zeros;
    };
    result.pixels.reserve(static_cast<size_t>(result.height * result.width * 4));
    for (int64_t y = 0; y < result.height; ++y) {
      for (int64_t x = 0; x < result.width; ++x) {
        for (int c = 0; c < 4; ++c) {
          const float left = get(2 * y, 2 * x)[c] + get(2 * y + 1, 2 * x)[c];
          const float right = get(2 * y, 2 * x + 1)[c] + get(2 * y + 1, 2 * x + 1)[c];
          result.pixels.push_back((left + right) * 0.25f);
        }
      }
    }
    return result;
  }
};

/// Gives fully transparent pixels the colour of what is visible near them: their own colours
/// are arbitrary, and a model would let them bleed into visible edges.
template <class T>
void fill_hidden(vector<T>& rgb, const vector<T>& alpha, Size size) {
  const auto hidden = std::count(alpha.begin(), alpha.end(), T{0});
  if (hidden == 0 || hidden == static_cast<std::ptrdiff_t>(alpha.size())) return;
  vector<Premultiplied> levels = {{size.height, size.width, {}}};
  for (size_t i = 0; i < alpha.size(); ++i) {
    const float weight = in_range(alpha[i]);
    vector<float>& pixels = levels[0].pixels;
    for (size_t c = 0; c < 3; ++c) pixels.push_back(in_range(rgb[3 * i + c]) * weight);
    pixels.push_back(weight);
  }
  while (levels.back().height > 1 || levels.back().width > 1) {
    levels.push_back(levels.back().halved());
  }
  for (int64_t y = 0; y < size.height; ++y) {
    for (int64_t x = 0; x < size.width; ++x) {
      const auto place = static_cast<size_t>(y * size.width + x);
      if (alpha[place] != 0) continue;
      size_t level = 1;  // the smallest block that holds anything visible
      while (!(levels[level].at(y >> level, x >> level)[3] > 0)) ++level;
      const float* mean = levels[level].at(y >> level, x >> level);
      for (size_t c = 0; c < 3; ++c) {
        const float colour = std::min(mean[c] / mean[3], 1.0f);
        rgb[3 * place + c] = stored<T>(colour, Request());
      }
    }
  }
}

/// The two input pixels that an output pixel lies between, and the share of the second.
struct Between {
  int64_t first, second;
  double share;
};

/// Returns bilinear weights with half-pixel centres.
vector<Between> between(int64_t source, int64_t target) {
  vector<Between> result;
  for (int64_t i = 0; i < target; ++i) {
    const double place = (static_cast<double>(i) + 0.5) * static_cast<double>(source);
    const double centre = place / static_cast<double>(target) - 0.5;
    const double most = static_cast<double>(source - 1);
    const auto first = static_cast<int64_t>(std::clamp(std::floor(centre), 0.0, most));
    const double share = std::max(centre - static_cast<double>(first), 0.0);
    result.push_back({first, std::min(first + 1, source - 1), share});
  }
  return result;
}

/// Resizes the rows of a plane, or its columns.
vector<float> resized(const vector<float>& plane, Size size, int64_t target, bool columns) {
  const int64_t lines = columns ? size.width : size.height;
  const vector<Between> all = between(columns ? size.height : size.width, target);
  vector<float> result(static_cast<size_t>(lines * target));
  for (int64_t line = 0; line < lines; ++line) {
    const auto get = [&](int64_t place) {
      const int64_t at = columns ? place * size.width + line : line * size.width + place;
      return static_cast<double>(plane[static_cast<size_t>(at)]);
    };
    for (int64_t i = 0; i < target; ++i) {
      const Between& each = all[static_cast<size_t>(i)];
      const double sum = get(each.first) * (1 - each.share) + get(each.second) * each.share;
      const int64_t at = columns ? i * lines + line : line * target + i;
      result[static_cast<size_t>(at)] = static_cast<float>(sum);
    }
  }
  return result;
}

/// Enlarges alpha bilinearly into the last channel of a picture: rows, then columns.
template <class T>
void enlarge_alpha(const vector<T>& alpha, Size source, T* result, Size target, int channels) {
  const auto put = [&](size_t pixel, T value) {
    const auto step = static_cast<size_t>(channels);
    result[pixel * step + step - 1] = value;
  };
  if (target == source) {
    for (size_t i = 0; i < alpha.size(); ++i) put(i, alpha[i]);
    return;
  }
  vector<float> plane;
  for (const T value : alpha) plane.push_back(in_range(value));
  plane = resized(plane, source, target.width, false);
  plane = resized(plane, {source.height, target.width}, target.height, true);
  const Request request;
  for (size_t i = 0; i < plane.size(); ++i) put(i, stored<T>(plane[i], request));
}

/// A picture whose channels were told apart.
template <class T>
struct Channels {
  int count;                // of the result
  const T* rgb;             // what the model enlarges
  vector<T> copy, alpha;    // where `rgb` lies, if it is not the picture itself

  Channels(const T* image, Size size, int channels) : count(channels), rgb(image) {
    if (channels == 3) return;
    const auto pixels = static_cast<size_t>(size.height * size.width);
    const auto step = static_cast<size_t>(channels);
    copy.resize(pixels * 3);
    for (size_t i = 0; i < pixels; ++i) {
      const T* pixel = image + i * step;
      for (size_t c = 0; c < 3; ++c) copy[3 * i + c] = pixel[gray() ? 0 : c];
      if (step % 2 == 0) alpha.push_back(pixel[step - 1]);
    }
    if (!alpha.empty()) fill_hidden(copy, alpha, size);
    rgb = copy.data();
  }
  Channels(const Channels&) = delete;
  Channels& operator=(const Channels&) = delete;

  bool gray() const { return count < 3; }
};

}  // namespace

// ---------------------------------------------------------------------------------------------
// Explosion: values that no picture holds, counted and placed.

namespace {

constexpr float kLeast = -1.0f, kMost = 2.0f;  // a whole range beyond what pictures hold

struct Explosion {
  int64_t non_finite = 0, out_of_range = 0;
  int64_t first_row = -1, last_row = -1, first_column = -1, last_column = -1;

  void look(float value, int64_t row, int64_t column) {
    if (value >= kLeast && value <= kMost) return;  // NaN compares as false
    ++(std::isfinite(value) ? out_of_range : non_finite);
    const bool first = first_row < 0;
    first_row = first ? row : std::min(first_row, row);
    last_row = std::max(last_row, row);
    first_column = first ? column : std::min(first_column, column);
    last_column = std::max(last_column, column);
  }

  string text(int64_t total) const {
    const auto share = [total](int64_t count) {
      const double percent = 100.0 * static_cast<double>(count) / static_cast<double>(total);
      return std::to_string(count) + " of " + std::to_string(total) + " values (" +
             formatted("%.3g", percent) + " %)";
    };
    string kinds;
    if (non_finite > 0) kinds = share(non_finite) + " are NaN or infinite";
    if (out_of_range > 0) {
      kinds += (kinds.empty() ? "" : " and ") + share(out_of_range) + " lie outside [-1, 2]";
    }
    return kinds + ", in output rows " + std::to_string(first_row) + "-" +
           std::to_string(last_row) + ", columns " + std::to_string(first_column) + "-" +
           std::to_string(last_column);
  }
};

}  // namespace

// ---------------------------------------------------------------------------------------------
// Enlargement: one picture on its way through a model.

namespace {

const char* name_of(Kind kind) {
  return kind == Kind::float32 ? "float32" : kind == Kind::uint8 ? "uint8" : "another type";
}

string text_of(const vector<int64_t>& shape) {
  string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// Weights of a piece's pixels; those of two pieces sum to one wherever they meet.
vector<float> weights_of(const Piece& piece) {
  const auto ramp = [](int64_t place, int64_t length) {
    return static_cast<float>((static_cast<double>(place) + 0.5) / static_cast<double>(length));
  };
  vector<float> weights(static_cast<size_t>(piece.end - piece.begin), 1.0f);
  for (int64_t i = 0; i < piece.fade_in; ++i) {
    weights[static_cast<size_t>(i)] = ramp(i, piece.fade_in);
  }
  const int64_t begin = piece.end - piece.begin - piece.fade_out;
  for (int64_t i = 0; i < piece.fade_out; ++i) {
    weights[static_cast<size_t>(begin + i)] = 1.0f - ramp(i, piece.fade_out);
  }
  return weights;
}

/// The kept pixels of a tile, read where the session left them.
class Kept {
 public:
  Kept(Output output, const Piece& rows, const Piece& columns)
      : output_(std::move(output)),
        width_(columns.extent.out_size()),
        plane_(rows.extent.out_size() * width_),
        origin_((rows.begin - rows.extent.out_begin) * width_ + columns.begin -
                columns.extent.out_begin) {}

  bool eight_bit() const { return output_.kind == Kind::uint8; }
  std::uint8_t byte(int64_t row, int64_t column, int channel) const {
    return static_cast<const std::uint8_t*>(output_.data)[at(row, column, channel)];
  }
  /// In units of full range.
  float value(int64_t row, int64_t column, int channel) const {
    if (eight_bit()) return in_range(byte(row, column, channel));
    return static_cast<const float*>(output_.data)[at(row, column, channel)];
  }

 private:
  int64_t at(int64_t row, int64_t column, int channel) const {
    return channel * plane_ + origin_ + row * width_ + column;
  }

  Output output_;
  int64_t width_, plane_, origin_;
};

template <class T>
class Enlargement {
 public:
  Enlargement(const Manifest& manifest, Session& session, const Channels<T>& channels,
              Size source, const Cutter& cutter, const Plan& plan, Size size,
              const Request& request)
      : manifest_(manifest), session_(session), channels_(channels), source_(source),
        cutter_(cutter), plan_(plan), tiles_(plan.tiles()), size_(size), request_(request) {}

  /// Runs the tiles and joins them into `result`, holding one row of tiles at a time. Where
  /// memory runs out the row is begun again with tiles of half the memory.
  void run(T* result) {
    vector<float> shared;  // what the rows before share with the next one
    for (size_t next = 0; next < plan_.rows.size();) {
      const Piece row = plan_.rows[next];
      try {
        run_row(row, shared, result);
        ++next;
      } catch (const Error& error) {
        if (error.code() != Code::memory) throw;
        shrink(row.begin, error.what());
        next = 0;
      } catch (const std::bad_alloc&) {
        shrink(row.begin, "a tile does not fit in memory");
        next = 0;
      }
    }
  }

  /// What of the picture is far out of range, "" if nothing is. Eight bits never are.
  string explosion() const {
    if (manifest_.eight_bit || explosion_.first_row < 0) return "";
    return explosion_.text(size_.height * size_.width * 3);
  }

 private:
  void put(const float* rgb, int64_t row, int64_t column, T* result) {
    for (int c = 0; c < 3; ++c) explosion_.look(rgb[c], row, column);
    T* pixel = result + (row * size_.width + column) * channels_.count;
    if (channels_.gray()) {
      *pixel = stored<T>(luma(rgb), request_);
      return;
    }
    for (int c = 0; c < 3; ++c) pixel[c] = stored<T>(rgb[c], request_);
  }

  void run_row(const Piece& row, vector<float>& shared, T* result) {
    if (plan_.columns.size() == 1 && row.fade_in == 0 && row.fade_out == 0) {
      put_all(compute(row, plan_.columns[0]), row, result);
      return;
    }
    const int64_t width = plan_.columns.back().end;
    vector<float> band = shared;
    band.resize(static_cast<size_t>((row.end - row.begin) * width * 3), 0.0f);
    for (const Piece& column : plan_.columns) {
      add(compute(row, column), row, column, width, band);
    }
    const int64_t finished = row.end - row.begin - row.fade_out;
    for (int64_t y = 0; y < std::min(finished, size_.height - row.begin); ++y) {
      for (int64_t x = 0; x < size_.width; ++x) {
        put(band.data() + (y * width + x) * 3, row.begin + y, x, result);
      }
    }
    shared.assign(band.begin() + finished * width * 3, band.end());
  }

  /// Takes smaller tiles from an output row on, and says so.
  void shrink(int64_t top, const string& reason) {
    const string had = largest(plan_);
    try {
      plan_ = cutter_.smaller(plan_, top);
    } catch (const Error& refusal) {
      throw Error(Code::memory, "out of memory: " + reason + "; " + refusal.what());
    }
    tiles_ = done_ + plan_.tiles();
    if (!request_.warn) return;
    request_.warn("out of memory with tiles of " + had + " output pixels, going on with " +
                  largest(plan_) + " from row " + std::to_string(top));
  }

  void put_all(const Kept& kept, const Piece& row, T* result) {
    for (int64_t y = 0; y < std::min(row.end, size_.height) - row.begin; ++y) {
      for (int64_t x = 0; x < size_.width; ++x) {
        const float rgb[3] = {kept.value(y, x, 0), kept.value(y, x, 1), kept.value(y, x, 2)};
        put(rgb, row.begin + y, x, result);
      }
    }
  }

  void add(const Kept& kept, const Piece& row, const Piece& column, int64_t width,
           vector<float>& band) const {
    const vector<float> down = weights_of(row), across = weights_of(column);
    for (int64_t y = 0; y < row.end - row.begin; ++y) {
      float* out = band.data() + (y * width + column.begin) * 3;
      for (int64_t x = 0; x < column.end - column.begin; ++x) {
        const float weight = down[static_cast<size_t>(y)] * across[static_cast<size_t>(x)];
        for (int channel = 0; channel < 3; ++channel) {
          *out++ += kept.value(y, x, channel) * weight;
        }
      }
    }
  }

  Kept compute(const Piece& row, const Piece& column) {
    const Extent &rows = row.extent, &columns = column.extent;
    Output output = session_.run(feeds(rows, columns));
    const vector<int64_t> expected = {1, 3, rows.out_size(), columns.out_size()};
    if (output.shape != expected) {
      refuse("the model gave " + text_of(output.shape) + " where " + text_of(expected) +
             " is due");
    }
    const Kind due = manifest_.eight_bit ? Kind::uint8 : Kind::float32;
    if (output.kind != due) {
      refuse(string("the model gave ") + name_of(output.kind) + " where " + name_of(due) +
             " is due");
    }
    Kept kept(std::move(output), row, column);
    check_finite(kept, row, column);
    ++done_;
    if (request_.progress) request_.progress(done_, tiles_);
    return kept;
  }

  /// Refuses at once what would spoil the picture, except in what is cropped away.
  void check_finite(const Kept& kept, const Piece& row, const Piece& column) const {
    if (kept.eight_bit()) return;
    Explosion found;
    const int64_t height = std::min(row.end, size_.height) - row.begin;
    const int64_t width = std::min(column.end, size_.width) - column.begin;
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        for (int channel = 0; channel < 3; ++channel) {
          found.look(kept.value(y, x, channel), row.begin + y, column.begin + x);
        }
      }
    }
    if (found.non_finite == 0) return;
    const string tile = tiles_ == 1 ? ""
                                    : " in tile " + std::to_string(done_ + 1) + " of " +
                                          std::to_string(tiles_);
    throw Error(Code::parity, "the model gave NaN or infinity" + tile + ": " +
                                  found.text(height * width * 3));
  }

  /// Returns the graph's inputs for a tile; they lie in this object.
  vector<Input> feeds(const Extent& rows, const Extent& columns) {
    vector<Input> inputs;
    const auto feed = [&inputs](const string& name, Kind kind, vector<int64_t> shape,
                                const auto& values) {
      const size_t bytes = values.size() * sizeof(values[0]);
      inputs.push_back({name, kind, std::move(shape), values.data(), bytes});
    };
    const vector<int64_t> shape = {1, 3, rows.lr_size(), columns.lr_size()};
    if (manifest_.eight_bit) {
      bytes_ = planes(channels_.rgb, source_, rows, columns,
                      [](T value) { return static_cast<std::uint8_t>(value); });
      feed("input", Kind::uint8, shape, bytes_);
    } else {
      floats_ = planes(channels_.rgb, source_, rows, columns,
                       [](T value) { return in_range(value); });
      feed("input", Kind::float32, shape, floats_);
    }
    if (manifest_.geometry) {
      geometry_ = geometry_of(rows, columns);
      feed("geometry", Kind::int64, {10}, geometry_);
    }
    noise_.resize(manifest_.latents.size());
    for (size_t stream = 0; stream < manifest_.latents.size(); ++stream) {
      const Latent& latent = manifest_.latents[stream];
      const int64_t height = ceil_div(rows.out_size(), latent.patch);
      const int64_t width = ceil_div(columns.out_size(), latent.patch);
      noise_[stream].resize(static_cast<size_t>(latent.channels * height * width));
      draw_noise(request_.seed, static_cast<std::uint32_t>(stream),
                 rows.out_begin / latent.patch, columns.out_begin / latent.patch, height, width,
                 latent.channels, *request_.temperature, noise_[stream].data());
      feed(latent.name, Kind::float32, {1, latent.channels, height, width}, noise_[stream]);
    }
    return inputs;
  }

  const Manifest& manifest_;
  Session& session_;
  const Channels<T>& channels_;
  Size source_;
  const Cutter& cutter_;
  Plan plan_;
  int64_t tiles_;
  Size size_;  // without what the padding becomes
  const Request& request_;
  int64_t done_ = 0;
  Explosion explosion_;
  vector<float> floats_;
  vector<std::uint8_t> bytes_;
  vector<int64_t> geometry_;
  vector<vector<float>> noise_;
};

}  // namespace

// ---------------------------------------------------------------------------------------------
// Upscaler: what a program uses.

struct Upscaler::State {
  Bundle bundle;
  Settings settings;
  std::unique_ptr<Session> session;

  template <class T>
  Size upscale(const T* image, Size source, const Target& target, T* result,
               const Request& request) const {
    const Manifest& manifest = bundle.manifest();
    const int channels = request.channels;
    if (channels < 1 || channels > 4) {
      throw Error(Code::usage,
                  "channels must be from 1 to 4, got " + std::to_string(channels));
    }
    const Size wanted = bundle.target(source, target);
    check_pixels(image, source.height * source.width * channels, manifest, request);
    check_noise(request);
    const Cutter cutter(manifest, settings.halo, session->limits(), source, wanted);
    const Plan plan = cutter.plan(budget_of(manifest, settings));
    try {
      const Channels<T> apart(image, source, channels);
      Enlargement<T> run(manifest, *session, apart, source, cutter, plan, wanted, request);
      run.run(result);
      if (!apart.alpha.empty()) enlarge_alpha(apart.alpha, source, result, wanted, channels);
      const string found = run.explosion();
      if (!found.empty() && request.warn) {
        request.warn("the inverse of the flow may have exploded: " + found);
      }
    } catch (const std::bad_alloc&) {
      throw Error(Code::memory, "an output of " + text_of(wanted) + " does not fit in memory");
    }
    return wanted;
  }

  void check_noise(const Request& request) const {
    const bool sampled = !bundle.manifest().latents.empty();
    if (!sampled && request.temperature) {
      throw Error(Code::usage, "this bundle has a learned prior and takes no temperature; "
                               "export one without --prior to sample");
    }
    if (sampled && !request.temperature) {
      throw Error(Code::usage,
                  "this bundle has no learned prior; give temperature (0 gives the mode)");
    }
    check_temperature(request.temperature.value_or(0.0));
  }
};

namespace {

std::unique_ptr<Session> open_session(const Bundle& bundle, Settings settings) {
  const vector<string> all = backends();
  if (settings.backend.empty()) {
    if (all.empty()) throw Error(Code::backend, "this library was built without a backend");
    settings.backend = all[0];
  }
  const string& name = settings.backend;
  if (std::find(all.begin(), all.end(), name) == all.end()) {
    const vector<string> known = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"};
    const bool real = std::find(known.begin(), known.end(), name) != known.end();
    if (real) throw Error(Code::backend, "this library was built without backend " + name);
    throw Error(Code::usage, "backend must be onnxruntime, openvino, tensorrt or "
                             "tensorrt_rtx, got " + name);
  }
  if (settings.device < 0 || settings.threads < 0 || settings.memory_budget < 0) {
    throw Error(Code::usage, "device, threads and memory budget must not be negative");
  }
  (void)bundle;  // of a library without a backend
#ifdef FLOWSR_WITH_ONNXRUNTIME
  if (name == "onnxruntime") return detail::open_onnxruntime(bundle, settings);
#endif
#ifdef FLOWSR_WITH_OPENVINO
  if (name == "openvino") return detail::open_openvino(bundle, settings);
#endif
#ifdef FLOWSR_WITH_TENSORRT
  if (name == FLOWSR_WITH_TENSORRT) return detail::open_tensorrt(bundle, settings);
#endif
  throw std::logic_error("a backend that is listed and cannot be opened");
}

}  // namespace

Upscaler::Upscaler(std::unique_ptr<State> state) : state_(std::move(state)) {}
Upscaler::Upscaler(Upscaler&&) noexcept = default;
Upscaler& Upscaler::operator=(Upscaler&&) noexcept = default;
Upscaler::~Upscaler() = default;

Upscaler Upscaler::open(const string& bundle, const Settings& settings) {
  return open(Bundle::open(bundle), settings);
}

Upscaler Upscaler::open(const Bundle& bundle, const Settings& settings) {
  std::unique_ptr<Session> session = open_session(bundle, settings);
  return Upscaler(std::make_unique<State>(State{bundle, settings, std::move(session)}));
}

const Bundle& Upscaler::bundle() const { return state_->bundle; }

Size Upscaler::target(Size source, const Target& target) const {
  return state_->bundle.target(source, target);
}

Plan Upscaler::plan(Size source, const Target& target) const {
  const Manifest& manifest = state_->bundle.manifest();
  const Size wanted = this->target(source, target);
  const Settings& settings = state_->settings;
  const Cutter cutter(manifest, settings.halo, state_->session->limits(), source, wanted);
  return cutter.plan(budget_of(manifest, settings));
}

Size Upscaler::upscale(const std::uint8_t* image, Size source, const Target& target,
                       std::uint8_t* result, const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

Size Upscaler::upscale(const std::uint16_t* image, Size source, const Target& target,
                       std::uint16_t* result, const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

Size Upscaler::upscale(const float* image, Size source, const Target& target, float* result,
                       const Request& request) const {
  return state_->upscale(image, source, target, result, request);
}

vector<string> backends() {
  vector<string> names;
#ifdef FLOWSR_WITH_ONNXRUNTIME
  names.emplace_back("onnxruntime");
#endif
#ifdef FLOWSR_WITH_OPENVINO
  names.emplace_back("openvino");
#endif
#ifdef FLOWSR_WITH_TENSORRT
  names.emplace_back(FLOWSR_WITH_TENSORRT);
#endif
  return names;
}

string version() { return FLOWSR_VERSION; }

// ---------------------------------------------------------------------------------------------
// What the backends share.

int detail::usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool detail::says_out_of_memory(const string& message) {
  string words;
  for (const char c : message) words += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  for (const char* sign : {"failed to allocate memory", "out of memory", "bad_alloc",
                           "bad allocation", "alloc_failed", "available memory of"}) {
    if (words.find(sign) != string::npos) return true;
  }
  return false;
}

string detail::one_line(const string& text) {
  string line;
  for (const char c : text) {
    const bool space = static_cast<unsigned char>(c) <= 0x20;
    if (!space) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

void detail::check_inputs(const string& path, const vector<string>& names,
                          const Manifest& manifest) {
  std::set<string> expected = {"input"};
  if (manifest.geometry) expected.insert("geometry");
  for (const Latent& latent : manifest.latents) expected.insert(latent.name);
  const std::set<string> taken(names.begin(), names.end());
  if (taken == expected) return;
  const auto joined = [](const std::set<string>& all) {
    string text;
    for (const string& each : all) text += (text.empty() ? "" : ", ") + each;
    return text;
  };
  refuse(path + " takes " + joined(taken) + ", bundle.json says " + joined(expected));
}

}  // namespace flowsr
