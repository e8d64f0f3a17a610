// Counts the CPU cores that this process may use, as backends/cores.py does.

#include "machine/cores.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "machine/cgroups.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace flowsr::detail {

namespace {

/// Returns the words of a file, none if it cannot be read.
std::vector<std::string> words_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> words;
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

/// Reads a positive number; returns false for anything else.
bool read_positive(const std::string& text, long long& number) {
  std::istringstream stream(text);
  return stream >> number && stream.eof() && number > 0;
}

/// Returns `cores`, or the fewer whole cores that the quota of the cgroup `folder` amounts to.
int within_quota(int cores, const std::string& folder) {
  std::vector<std::string> words = words_of(folder + "/cpu.max");  // version 2
  if (!std::ifstream(folder + "/cpu.max")) {
    words = words_of(folder + "/cpu.cfs_quota_us");
    const std::vector<std::string> period = words_of(folder + "/cpu.cfs_period_us");
    words.insert(words.end(), period.begin(), period.end());
  }
  // "max" in version 2, -1 in version 1: no quota.
  long long quota = 0, period = 0;
  if (words.size() != 2 || !read_positive(words[0], quota) || !read_positive(words[1], period)) {
    return cores;
  }
  return static_cast<int>(std::min<long long>(cores, quota / period));
}

}  // namespace

int cores_within_quotas(int cores, const std::string& membership, const std::string& mount) {
  for (const std::string& folder : cgroups("cpu", membership, mount)) {
    cores = within_quota(cores, folder);
  }
  return std::max(1, cores);
}

int usable_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
#endif
  return cores_within_quotas(std::max(1, cores), "/proc/self/cgroup", "/sys/fs/cgroup");
}

}  // namespace flowsr::detail
