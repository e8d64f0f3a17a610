// Reads the limits of memory as tiling/cgroups.py does.

#include "machine/available_memory.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "machine/cgroups.hpp"

namespace flowsr::detail {

namespace {

constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;  // version 1 writes nearly 2^63
constexpr std::int64_t kDecoded = 4;                      // bytes per pixel in a decoder

/// Returns the number that a file holds; none for "max" and without a file.
std::optional<std::int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  long long number = 0;
  std::string rest;
  if (!(file >> number) || file >> rest) return std::nullopt;
  return number;
}

/// Returns the number after a key at the beginning of a line, 0 without one.
std::int64_t field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    long long number = 0;
    if (words >> name && name == key && words >> number) return number;
  }
  return 0;
}

std::optional<std::int64_t> left_in(const std::string& folder) {
  // Limit, usage, and the key of file caches that the kernel drops first, by version.
  const char* const files[2][3] = {
      {"memory.max", "memory.current", "inactive_file"},
      {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}};
  for (const auto& [limit_name, usage_name, cache] : files) {
    const auto limit = number_in(folder + "/" + limit_name);
    const auto usage = number_in(folder + "/" + usage_name);
    if (!limit || !usage || *limit >= kNoLimit) continue;
    const std::int64_t used =
        std::max<std::int64_t>(0, *usage - field(folder + "/memory.stat", cache));
    return std::max<std::int64_t>(0, *limit - used);
  }
  return std::nullopt;
}

std::string text_of(Size size) {
  return std::to_string(size.width) + "x" + std::to_string(size.height);
}

}  // namespace

std::optional<std::int64_t> available_memory(const std::string& membership,
                                             const std::string& mount,
                                             const std::string& meminfo) {
  std::optional<std::int64_t> least;
  const std::int64_t kibibytes = field(meminfo, "MemAvailable:");
  if (kibibytes > 0) least = kibibytes * 1024;
  for (const std::string& folder : cgroups("memory", membership, mount)) {
    const std::optional<std::int64_t> left = left_in(folder);
    if (left && (!least || *left < *least)) least = left;
  }
  return least;
}

void check_available(Size source, Size target, int pixel_bytes) {
  const std::optional<std::int64_t> available =
      available_memory("/proc/self/cgroup", "/sys/fs/cgroup", "/proc/meminfo");
  const std::int64_t needed =
      source.height * source.width * (2 * pixel_bytes + 2 * kDecoded) +
      target.height * target.width * (4 * pixel_bytes + kDecoded);
  if (!available || needed <= *available) return;
  char amounts[96];
  std::snprintf(amounts, sizeof amounts, " needs about %.1f GiB, and %.1f GiB are available",
                static_cast<double>(needed) / (1 << 30),
                static_cast<double>(*available) / (1 << 30));
  throw Error(Code::memory, text_of(source) + " to " + text_of(target) + amounts);
}

}  // namespace flowsr::detail
