#include "machine/machine.hpp"

#include <algorithm>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <vector>

#if defined(__unix__)
#include <dlfcn.h>
#include <sys/utsname.h>
#endif

#include "bundle/sha256.hpp"

namespace flowsr::detail {

namespace {

constexpr const char* kCpuInfo = "/proc/cpuinfo";

struct Gpu {
  std::string name, compute_capability;
  int driver = 0;  // newest version of CUDA, 13000 for 13.0
};

std::string processor() {
  std::ifstream file(kCpuInfo);
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t colon = line.find(": ");
    if (line.compare(0, 10, "model name") == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown processor";
}

#if defined(__unix__)
/// Describes a GPU by the driver's library.
std::optional<Gpu> find_gpu(int index) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return std::nullopt;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  const auto name_of =
      reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  const auto version_of = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  const auto attribute =
      reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  int device = 0, version = 0, major = 0, minor = 0;
  char name[256] = "";
  const bool known = init != nullptr && get != nullptr && name_of != nullptr &&
                     version_of != nullptr && attribute != nullptr && init(0) == 0 &&
                     get(&device, index) == 0;
  if (!known) return std::nullopt;
  name_of(name, sizeof name, device);
  version_of(&version);
  attribute(&major, 75, device);  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
  attribute(&minor, 76, device);  // … and _MINOR
  return Gpu{name, std::to_string(major) + "." + std::to_string(minor), version};
}

std::string architecture() {
  utsname names{};
  return uname(&names) == 0 ? names.machine : "unknown";
}
#else
std::optional<Gpu> find_gpu(int) { return std::nullopt; }
std::string architecture() { return "unknown"; }
#endif

/// Returns the words of the first line that lists the features of a CPU.
std::vector<std::string> features(const std::string& cpu_info) {
  static const std::regex heading("(flags|Features)\\s*:(.*)");
  std::istringstream lines(cpu_info);
  std::string line;
  std::smatch match;
  while (std::getline(lines, line)) {
    if (!std::regex_match(line, match, heading)) continue;
    std::istringstream words(match[2].str());
    std::vector<std::string> result;
    for (std::string word; words >> word;) result.push_back(word);
    return result;
  }
  return {};
}

}  // namespace

std::string device_name(bool on_gpu, int device) {
  if (!on_gpu) return processor() + " (" + architecture() + ")";
  const std::optional<Gpu> gpu = find_gpu(device);
  if (!gpu) return "GPU " + std::to_string(device);
  return gpu->name + ", compute " + gpu->compute_capability + ", driver for CUDA " +
         std::to_string(gpu->driver / 1000) + "." + std::to_string(gpu->driver % 1000 / 10);
}

std::string compute_capability(int device) {
  const std::optional<Gpu> gpu = find_gpu(device);
  return gpu ? gpu->compute_capability : "";
}

std::string host_isa() {
  std::ifstream file(kCpuInfo);
  std::ostringstream content;
  content << file.rdbuf();
  return isa_of(architecture(), content.str());
}

std::string isa_of(const std::string& architecture, const std::string& cpu_info) {
  // Flags of a CPU that change the code that a compiler makes for it.
  static const std::regex instructions(
      "avx\\w*|amx\\w*|sse\\w*|ssse3|fma|f16c|bmi[12]|abm|popcnt|movbe|adx|gfni|vaes|aes|sha_ni"
      "|pclmulqdq|vpclmulqdq|asimd\\w*|sve\\w*|bf16|i8mm|fphp");
  std::vector<std::string> flags;
  for (const std::string& word : features(cpu_info)) {
    if (std::regex_match(word, instructions)) flags.push_back(word);
  }
  std::sort(flags.begin(), flags.end());
  std::string joined, widest = "plain";
  for (const std::string& flag : flags) joined += (joined.empty() ? "" : " ") + flag;
  for (const char* name : {"asimd", "sve", "avx2", "avx512f"}) {
    if (std::find(flags.begin(), flags.end(), name) != flags.end()) widest = name;
  }
  std::string lower;
  for (const char c : architecture) {
    lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  return "cpu-" + lower + "-" + widest + "-" + sha256(joined).substr(0, 8);
}

}  // namespace flowsr::detail
